"""The Open Inference Protocol v2: its service and, in :mod:`ganserve.inference.messages`, its messages.

They live in a descriptor pool of their own. Clients of the protocol (tritonclient is one) put messages of the same names into
protobuf's default pool, which holds each name once: stubs made the usual way would keep such a client and this server from being
imported into one process. ``python -m tools.protos`` makes the descriptors and the messages' types from ``protos/inference``.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

__all__ = ["FILES", "SERVICE", "handlers", "message_types", "pool_with"]

FILES = descriptor_pb2.FileDescriptorSet.FromString((Path(__file__).parent / "descriptors.binpb").read_bytes())
"""The protocol's files."""

_pool = descriptor_pool.DescriptorPool()
for _file in FILES.file:
    _pool.Add(_file)

SERVICE = "inference.GRPCInferenceService"
"""The full name of the service."""


def message_types() -> Mapping[str, type[Message]]:
    """The top messages by their short names."""
    found = (
        _pool.FindMessageTypeByName(f"{file.package}.{one.name}") for file in FILES.file for one in file.message_type
    )
    return {one.name: message_factory.GetMessageClass(one) for one in found}


def handlers(servicer: Any) -> grpc.GenericRpcHandler:
    """What a gRPC server needs in order to have the methods of ``servicer``, which are named as the service's."""
    made = {}
    for method in _pool.FindServiceByName(SERVICE).methods:
        streams = method.client_streaming
        handler = grpc.stream_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        made[method.name] = handler(
            getattr(servicer, method.name),
            request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
            response_serializer=message_factory.GetMessageClass(method.output_type).SerializeToString,
        )
    return grpc.method_handlers_generic_handler(SERVICE, made)


def pool_with(services: Iterable[str]) -> descriptor_pool.DescriptorPool:
    """A pool that knows this service and the ``services`` of the default pool: what reflection tells of a server that has them all."""
    pool = descriptor_pool.DescriptorPool()

    def add(file: FileDescriptor) -> None:
        for needed in file.dependencies:
            add(needed)
        pool.AddSerializedFile(file.serialized_pb)

    for name in services:
        add(descriptor_pool.Default().FindServiceByName(name).file)
    for file in FILES.file:
        pool.Add(file)
    return pool
