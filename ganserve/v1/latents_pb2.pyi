from ganserve.v1 import generation_pb2 as _generation_pb2
from ganserve.v1 import media_pb2 as _media_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Walk(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WALK_UNSPECIFIED: _ClassVar[Walk]
    WALK_LERP: _ClassVar[Walk]
    WALK_SLERP: _ClassVar[Walk]

class Normalization(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NORMALIZATION_UNSPECIFIED: _ClassVar[Normalization]
    NORMALIZATION_MEAN: _ClassVar[Normalization]
    NORMALIZATION_LENGTH: _ClassVar[Normalization]
WALK_UNSPECIFIED: Walk
WALK_LERP: Walk
WALK_SLERP: Walk
NORMALIZATION_UNSPECIFIED: Normalization
NORMALIZATION_MEAN: Normalization
NORMALIZATION_LENGTH: Normalization

class Point(_message.Message):
    __slots__ = ("seed", "tensor", "prompt", "label", "truncation", "numbers", "directions")
    class NumbersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class DirectionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SEED_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TRUNCATION_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    DIRECTIONS_FIELD_NUMBER: _ClassVar[int]
    seed: _generation_pb2.SeedIndex
    tensor: _media_pb2.Tensor
    prompt: str
    label: _generation_pb2.Label
    truncation: float
    numbers: _containers.ScalarMap[str, float]
    directions: _containers.ScalarMap[str, float]
    def __init__(self, seed: _Optional[_Union[_generation_pb2.SeedIndex, _Mapping]] = ..., tensor: _Optional[_Union[_media_pb2.Tensor, _Mapping]] = ..., prompt: _Optional[str] = ..., label: _Optional[_Union[_generation_pb2.Label, _Mapping]] = ..., truncation: _Optional[float] = ..., numbers: _Optional[_Mapping[str, float]] = ..., directions: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Making(_message.Message):
    __slots__ = ("label", "truncation", "numbers", "tensors", "output", "return_tensors", "seed", "prompt")
    class NumbersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class TensorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _media_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_media_pb2.Tensor, _Mapping]] = ...) -> None: ...
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TRUNCATION_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    RETURN_TENSORS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    label: _generation_pb2.Label
    truncation: float
    numbers: _containers.ScalarMap[str, float]
    tensors: _containers.MessageMap[str, _media_pb2.Tensor]
    output: _media_pb2.OutputOptions
    return_tensors: _containers.RepeatedScalarFieldContainer[str]
    seed: _generation_pb2.SeedIndex
    prompt: str
    def __init__(self, label: _Optional[_Union[_generation_pb2.Label, _Mapping]] = ..., truncation: _Optional[float] = ..., numbers: _Optional[_Mapping[str, float]] = ..., tensors: _Optional[_Mapping[str, _media_pb2.Tensor]] = ..., output: _Optional[_Union[_media_pb2.OutputOptions, _Mapping]] = ..., return_tensors: _Optional[_Iterable[str]] = ..., seed: _Optional[_Union[_generation_pb2.SeedIndex, _Mapping]] = ..., prompt: _Optional[str] = ...) -> None: ...

class InterpolateRequest(_message.Message):
    __slots__ = ("model", "version", "task", "latent", "keys", "frames", "loop", "walk", "making")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LATENT_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    LOOP_FIELD_NUMBER: _ClassVar[int]
    WALK_FIELD_NUMBER: _ClassVar[int]
    MAKING_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    task: str
    latent: str
    keys: _containers.RepeatedCompositeFieldContainer[Point]
    frames: int
    loop: bool
    walk: Walk
    making: Making
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., task: _Optional[str] = ..., latent: _Optional[str] = ..., keys: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., frames: _Optional[int] = ..., loop: _Optional[bool] = ..., walk: _Optional[_Union[Walk, str]] = ..., making: _Optional[_Union[Making, _Mapping]] = ...) -> None: ...

class InterpolateResponse(_message.Message):
    __slots__ = ("frame", "position", "media", "tensors", "served")
    class TensorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _media_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_media_pb2.Tensor, _Mapping]] = ...) -> None: ...
    FRAME_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    frame: int
    position: float
    media: _media_pb2.Media
    tensors: _containers.MessageMap[str, _media_pb2.Tensor]
    served: _generation_pb2.Served
    def __init__(self, frame: _Optional[int] = ..., position: _Optional[float] = ..., media: _Optional[_Union[_media_pb2.Media, _Mapping]] = ..., tensors: _Optional[_Mapping[str, _media_pb2.Tensor]] = ..., served: _Optional[_Union[_generation_pb2.Served, _Mapping]] = ...) -> None: ...

class MixRequest(_message.Message):
    __slots__ = ("model", "version", "task", "latent", "bases", "styles", "layers", "grid", "making")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LATENT_FIELD_NUMBER: _ClassVar[int]
    BASES_FIELD_NUMBER: _ClassVar[int]
    STYLES_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    GRID_FIELD_NUMBER: _ClassVar[int]
    MAKING_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    task: str
    latent: str
    bases: _containers.RepeatedCompositeFieldContainer[Point]
    styles: _containers.RepeatedCompositeFieldContainer[Point]
    layers: _containers.RepeatedScalarFieldContainer[int]
    grid: bool
    making: Making
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., task: _Optional[str] = ..., latent: _Optional[str] = ..., bases: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., styles: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., layers: _Optional[_Iterable[int]] = ..., grid: _Optional[bool] = ..., making: _Optional[_Union[Making, _Mapping]] = ...) -> None: ...

class MixResponse(_message.Message):
    __slots__ = ("base", "style", "media", "tensors", "served")
    class TensorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _media_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_media_pb2.Tensor, _Mapping]] = ...) -> None: ...
    BASE_FIELD_NUMBER: _ClassVar[int]
    STYLE_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    base: int
    style: int
    media: _media_pb2.Media
    tensors: _containers.MessageMap[str, _media_pb2.Tensor]
    served: _generation_pb2.Served
    def __init__(self, base: _Optional[int] = ..., style: _Optional[int] = ..., media: _Optional[_Union[_media_pb2.Media, _Mapping]] = ..., tensors: _Optional[_Mapping[str, _media_pb2.Tensor]] = ..., served: _Optional[_Union[_generation_pb2.Served, _Mapping]] = ...) -> None: ...

class CombineRequest(_message.Message):
    __slots__ = ("model", "version", "task", "latent", "terms", "normalization", "making", "max_reply_bytes")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LATENT_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    NORMALIZATION_FIELD_NUMBER: _ClassVar[int]
    MAKING_FIELD_NUMBER: _ClassVar[int]
    MAX_REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    task: str
    latent: str
    terms: _containers.RepeatedCompositeFieldContainer[Term]
    normalization: Normalization
    making: Making
    max_reply_bytes: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., task: _Optional[str] = ..., latent: _Optional[str] = ..., terms: _Optional[_Iterable[_Union[Term, _Mapping]]] = ..., normalization: _Optional[_Union[Normalization, str]] = ..., making: _Optional[_Union[Making, _Mapping]] = ..., max_reply_bytes: _Optional[int] = ...) -> None: ...

class Term(_message.Message):
    __slots__ = ("point", "weight")
    POINT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    point: Point
    weight: float
    def __init__(self, point: _Optional[_Union[Point, _Mapping]] = ..., weight: _Optional[float] = ...) -> None: ...

class CombineResponse(_message.Message):
    __slots__ = ("media", "tensors", "served")
    class TensorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _media_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_media_pb2.Tensor, _Mapping]] = ...) -> None: ...
    MEDIA_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    media: _media_pb2.Media
    tensors: _containers.MessageMap[str, _media_pb2.Tensor]
    served: _generation_pb2.Served
    def __init__(self, media: _Optional[_Union[_media_pb2.Media, _Mapping]] = ..., tensors: _Optional[_Mapping[str, _media_pb2.Tensor]] = ..., served: _Optional[_Union[_generation_pb2.Served, _Mapping]] = ...) -> None: ...
