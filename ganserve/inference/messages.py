"""The messages of the Open Inference Protocol v2, by their names; their types are in ``messages.pyi``."""

from ganserve.inference import message_types

globals().update(message_types())
