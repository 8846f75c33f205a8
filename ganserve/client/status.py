"""gRPC statuses → the errors of :mod:`ganserve.errors`."""

import math

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from ganserve.errors import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    LoadFailed,
    NotFound,
    PermissionDenied,
    QueueFull,
    QuotaExceeded,
    RequestError,
    Unauthenticated,
    Unavailable,
    Violation,
)

_PLAIN = {
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.FAILED_PRECONDITION: LoadFailed,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
}


def error_of(error: grpc.RpcError) -> RequestError:
    """The typed error for what gRPC raised; statuses that a ganserve server never sends become a plain :class:`RequestError`."""
    code, text = error.code(), error.details() or ""
    if code in _PLAIN:
        return _PLAIN[code](text)
    if code is grpc.StatusCode.INVALID_ARGUMENT and (request := _detail(error, error_details_pb2.BadRequest())):
        return InvalidArgument([Violation(one.field, one.description) for one in request.field_violations])
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _detail(error, error_details_pb2.QuotaFailure()):
        wait = _detail(error, error_details_pb2.RetryInfo())
        return QuotaExceeded(text, wait.retry_delay.ToTimedelta().total_seconds() if wait else math.inf)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and (retry := _detail(error, error_details_pb2.RetryInfo())):
        return QueueFull(text, retry.retry_delay.ToTimedelta().total_seconds())
    if code is grpc.StatusCode.INTERNAL and (logged := _detail(error, error_details_pb2.RequestInfo())):
        return InternalError(logged.request_id)
    return RequestError(f"{code.name}: {text}")


def _detail(error: grpc.RpcError, empty: Message):  # type: ignore[no-untyped-def]
    """``empty`` filled with the detail of its type, or None if the status has none."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # the status in the trailers contradicts the call's own
        return None
    for detail in status.details if status else ():
        if detail.Unpack(empty):
            return empty
    return None
