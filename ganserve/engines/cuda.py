"""Memory, copies and streams of an NVIDIA GPU, through the driver's own library: nothing but the driver need be installed.

The names are those of the CUDA driver API.
"""

import ctypes
from functools import cache
from typing import Any

import numpy as np

from ganserve.errors import EngineError

_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_NON_BLOCKING = 1


class Device:
    """One GPU, its primary context and one stream, in which everything runs in the order it was asked for."""

    def __init__(self, number: int) -> None:
        """Open GPU ``number``; :class:`EngineError` without a driver or with fewer GPUs."""
        self._cuda = _driver()
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if not 0 <= number < count.value:
            raise EngineError(f"there is no GPU {number}: the driver sees {count.value}; check CUDA_VISIBLE_DEVICES")
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), number)
        capability = [ctypes.c_int(), ctypes.c_int()]
        for value, attribute in zip(capability, (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR), strict=True):
            self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        self.capability = (capability[0].value, capability[1].value)
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.enter()
        self._stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(self._stream), _NON_BLOCKING)

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return self._stream.value or 0

    def enter(self) -> None:
        """Make this GPU the calling thread's; the driver asks it of every thread."""
        self._call("cuCtxSetCurrent", self._context)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> "Array":
        """Uninitialised memory for an array."""
        address = ctypes.c_uint64()
        size = max(1, int(np.prod(shape)) * dtype.itemsize)
        self._call("cuMemAllocAsync", ctypes.byref(address), ctypes.c_size_t(size), self._stream)
        return Array(self, address.value, shape, dtype)

    def upload(self, array: np.ndarray) -> "Array":
        """A copy of ``array`` on the GPU."""
        copy = self.empty(array.shape, array.dtype)
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(copy.address),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            self._stream,
        )
        # The caller may drop its array as soon as this returns.
        self.synchronize()
        return copy

    def download(self, array: "Array") -> np.ndarray:
        """A copy of ``array`` on the host, once everything before has run."""
        copy = np.empty(array.shape, array.dtype)
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(copy.ctypes.data),
            ctypes.c_uint64(array.address),
            ctypes.c_size_t(copy.nbytes),
            self._stream,
        )
        self.synchronize()
        return copy

    def synchronize(self) -> None:
        """Wait until the stream is idle."""
        self._call("cuStreamSynchronize", self._stream)

    def free(self, address: int) -> None:
        """Give memory back, once everything before has run."""
        self.enter()
        self._call("cuMemFreeAsync", ctypes.c_uint64(address), self._stream)

    def _call(self, function: str, *arguments: Any) -> None:
        _check(self._cuda, function, getattr(self._cuda, function)(*arguments))


class Array:
    """An array in a GPU's memory, which is given back with it."""

    def __init__(self, device: Device, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.device, self.address, self.shape, self.dtype = device, address, shape, dtype

    def __del__(self) -> None:
        self.device.free(self.address)


@cache
def device(number: int) -> Device:
    """GPU ``number``, opened once for the whole process."""
    return Device(number)


@cache
def _driver() -> ctypes.CDLL:
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise EngineError(f"there is no NVIDIA driver here ({error})") from error
    _check(cuda, "cuInit", cuda.cuInit(0))
    return cuda


def _check(cuda: ctypes.CDLL, function: str, result: int) -> None:
    if result:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(result, ctypes.byref(text))
        raise EngineError(f"{function} failed: {(text.value or b'unknown error').decode()} ({result})")
