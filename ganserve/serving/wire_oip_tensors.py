"""Tensors of the Open Inference Protocol ↔ arrays. Nothing that a message says of its own size is believed before it is compared."""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ganserve.errors import Violation
from ganserve.inference import messages as pb
from ganserve.serving.oip_ports import BYTES, DTYPES, Port

_CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""The field for each type's elements; FP16 has none and is always raw."""

MOST_TYPED = 1 << 20
"""The most elements of one tensor in contents, where each is an object of its own on the way; raw ones are bounded by the request's bytes."""

_LENGTH = struct.Struct("<I")


class Wrong(Exception):
    """What is wrong with a tensor."""


def arrays_of(
    request: pb.ModelInferRequest, ports: Mapping[str, Port], most_rows: int, wrong: list[Violation]
) -> dict[str, np.ndarray]:
    """The inputs of ``request`` by name, rows first, BYTES as objects; what is wrong with them is added to ``wrong``."""
    raw = request.raw_input_contents
    if len(request.inputs) > len(ports):
        wrong.append(Violation("inputs", f"{len(request.inputs)} are given; this task has {len(ports)}"))
        return {}
    if raw and len(raw) != len(request.inputs):
        problem = f"{len(raw)} entries for {len(request.inputs)} inputs; give one for each, or none and use contents"
        wrong.append(Violation("raw_input_contents", problem))
        return {}
    found: dict[str, np.ndarray] = {}
    for place, tensor in enumerate(request.inputs):
        try:
            if tensor.name in found:
                raise Wrong("given twice; name each input once")
            found[tensor.name] = _array(tensor, raw[place] if raw else None, _port(tensor.name, ports), most_rows)
        except Wrong as problem:
            wrong.append(Violation(f"inputs[{tensor.name}]", str(problem)))
    return found


def add_output(response: pb.ModelInferResponse, name: str, datatype: str, shape: Sequence[int], data: bytes) -> None:
    """Add an output to ``response``."""
    response.outputs.append(pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=shape))
    response.raw_output_contents.append(data)


def packed(elements: Sequence[bytes]) -> bytes:
    """``elements`` of a BYTES tensor as raw contents."""
    return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))


def _port(name: str, ports: Mapping[str, Port]) -> Port:
    if name not in ports:
        raise Wrong(f"is no input of this task; its inputs are {', '.join(ports)}")
    return ports[name]


def _array(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None, port: Port, most_rows: int) -> np.ndarray:
    for parameter in sorted(tensor.parameters):
        instead = "; send its elements in the request" if parameter.startswith("shared_memory") else ""
        raise Wrong(f"its parameter {parameter!r} is unknown here{instead}")
    shape = tuple(tensor.shape)
    if refusal := port.refusal(tensor.datatype, shape):
        raise Wrong(refusal)
    if shape[0] > most_rows:
        raise Wrong(f"{shape[0]} rows; expected at most {most_rows}")
    if raw is None:
        array = _typed(tensor, math.prod(shape))
    elif tensor.HasField("contents"):
        raise Wrong("its elements are in contents and in raw_input_contents; give them once")
    elif tensor.datatype == BYTES:
        array = _objects(list(_elements(raw, math.prod(shape))))
    else:
        array = _numbers(raw, tensor.datatype, shape)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Wrong("it has NaN or infinity; expected finite numbers")
    return array.reshape(shape)


def _numbers(raw: bytes, datatype: str, shape: Sequence[int]) -> np.ndarray:
    dtype = DTYPES[datatype]
    size = math.prod(shape) * dtype.itemsize
    if len(raw) != size:
        raise Wrong(f"{len(raw)} bytes of {datatype} for shape {list(shape)}; expected {size}")
    if datatype == "BOOL" and raw.strip(b"\0\1"):
        raise Wrong("it has bytes other than 0 and 1; expected bools")
    array = np.frombuffer(raw, dtype)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _elements(raw: bytes, count: int) -> Iterator[bytes]:
    place = 0
    for number in range(count):
        if len(raw) - place < _LENGTH.size:
            raise Wrong(f"its bytes end before the length of element {number} of {count}")
        (size,) = _LENGTH.unpack_from(raw, place)
        place += _LENGTH.size
        if size > len(raw) - place:
            raise Wrong(f"element {number} is said to have {size} bytes, {len(raw) - place} are left")
        yield raw[place : place + size]
        place += size
    if place != len(raw):
        raise Wrong(f"{len(raw) - place} bytes are left after {count} elements; expected none")


def _typed(tensor: pb.ModelInferRequest.InferInputTensor, count: int) -> np.ndarray:
    field = _CONTENTS.get(tensor.datatype)
    given = [found.name for found, _ in tensor.contents.ListFields()]
    if field is None:
        raise Wrong(f"{tensor.datatype} has no contents; send it in raw_input_contents")
    if given != [field]:
        raise Wrong(f"its elements are in {' and '.join(given) or 'no field'}; expected {field} for {tensor.datatype}")
    elements = getattr(tensor.contents, field)
    if len(elements) != count:
        raise Wrong(f"{len(elements)} elements for shape {list(tensor.shape)}; expected {count}")
    if tensor.datatype == BYTES:
        return _objects(elements)
    if count > MOST_TYPED:
        raise Wrong(f"{count} elements in contents; send more than {MOST_TYPED} in raw_input_contents")
    dtype = DTYPES[tensor.datatype].newbyteorder("=")
    array = np.array(elements)
    if dtype.kind in "iu" and not (np.iinfo(dtype).min <= array.min() and array.max() <= np.iinfo(dtype).max):
        raise Wrong(f"it has elements from {array.min()} to {array.max()}, more than {tensor.datatype} holds")
    return array.astype(dtype, copy=False)


def _objects(elements: Sequence[bytes]) -> np.ndarray:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array
