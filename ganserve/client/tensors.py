"""Arrays ↔ Tensor messages, by the names that the protocol gives its types."""

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from ganserve.client.enums import choices, name_of
from ganserve.errors import InvalidArgument
from ganserve.v1 import media_pb2

AnyArray: TypeAlias = np.ndarray

DATA_TYPES = choices("DATA_TYPE_", media_pb2.DataType)
"""The types that the protocol has, by NumPy's names."""


def tensor_message(field: str, value: ArrayLike) -> media_pb2.Tensor:
    """``value`` as a message. float64, which the protocol lacks and NumPy makes by default, is rounded to float32.

    Raises :class:`InvalidArgument` about ``field`` for any other type that the protocol lacks.
    """
    array: AnyArray = np.asarray(value)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    if array.dtype.name not in DATA_TYPES:
        raise InvalidArgument.of(field, f"its type is {array.dtype.name}; expected one of {', '.join(DATA_TYPES)}")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return media_pb2.Tensor(data_type=DATA_TYPES[array.dtype.name], shape=array.shape, data=little.tobytes())


def array_of(message: media_pb2.Tensor) -> AnyArray:
    """The message as a read-only array."""
    dtype = np.dtype(name_of("DATA_TYPE_", media_pb2.DataType, message.data_type))
    little = np.frombuffer(message.data, dtype.newbyteorder("<")).reshape(tuple(message.shape))
    return little.astype(dtype, copy=False)
