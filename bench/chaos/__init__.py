"""Faults on purpose: each module is one kind, done to real servers, with what must hold and what was measured. docs/chaos.md."""
