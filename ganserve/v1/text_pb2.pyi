from ganserve.v1 import generation_pb2 as _generation_pb2
from ganserve.v1 import media_pb2 as _media_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LongPrompt(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LONG_PROMPT_UNSPECIFIED: _ClassVar[LongPrompt]
    LONG_PROMPT_TRUNCATE: _ClassVar[LongPrompt]
    LONG_PROMPT_REFUSE: _ClassVar[LongPrompt]
LONG_PROMPT_UNSPECIFIED: LongPrompt
LONG_PROMPT_TRUNCATE: LongPrompt
LONG_PROMPT_REFUSE: LongPrompt

class TextToImageRequest(_message.Message):
    __slots__ = ("model", "version", "task", "prompts", "count", "long_prompt", "seed", "first_index", "seeds", "truncation", "numbers", "tensors", "output", "return_tensors", "max_reply_bytes")
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
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    LONG_PROMPT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATION_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    RETURN_TENSORS_FIELD_NUMBER: _ClassVar[int]
    MAX_REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    task: str
    prompts: _containers.RepeatedScalarFieldContainer[str]
    count: int
    long_prompt: LongPrompt
    seed: int
    first_index: int
    seeds: _containers.RepeatedScalarFieldContainer[int]
    truncation: float
    numbers: _containers.ScalarMap[str, float]
    tensors: _containers.MessageMap[str, _media_pb2.Tensor]
    output: _media_pb2.OutputOptions
    return_tensors: _containers.RepeatedScalarFieldContainer[str]
    max_reply_bytes: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., task: _Optional[str] = ..., prompts: _Optional[_Iterable[str]] = ..., count: _Optional[int] = ..., long_prompt: _Optional[_Union[LongPrompt, str]] = ..., seed: _Optional[int] = ..., first_index: _Optional[int] = ..., seeds: _Optional[_Iterable[int]] = ..., truncation: _Optional[float] = ..., numbers: _Optional[_Mapping[str, float]] = ..., tensors: _Optional[_Mapping[str, _media_pb2.Tensor]] = ..., output: _Optional[_Union[_media_pb2.OutputOptions, _Mapping]] = ..., return_tensors: _Optional[_Iterable[str]] = ..., max_reply_bytes: _Optional[int] = ...) -> None: ...

class TextToImageResponse(_message.Message):
    __slots__ = ("images", "served")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[Imagined]
    served: _generation_pb2.Served
    def __init__(self, images: _Optional[_Iterable[_Union[Imagined, _Mapping]]] = ..., served: _Optional[_Union[_generation_pb2.Served, _Mapping]] = ...) -> None: ...

class TextToImageStreamRequest(_message.Message):
    __slots__ = ("wish",)
    WISH_FIELD_NUMBER: _ClassVar[int]
    wish: TextToImageRequest
    def __init__(self, wish: _Optional[_Union[TextToImageRequest, _Mapping]] = ...) -> None: ...

class TextToImageStreamResponse(_message.Message):
    __slots__ = ("image", "served")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    image: Imagined
    served: _generation_pb2.Served
    def __init__(self, image: _Optional[_Union[Imagined, _Mapping]] = ..., served: _Optional[_Union[_generation_pb2.Served, _Mapping]] = ...) -> None: ...

class Imagined(_message.Message):
    __slots__ = ("media", "seed", "tensors", "prompt", "truncated")
    class TensorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _media_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_media_pb2.Tensor, _Mapping]] = ...) -> None: ...
    MEDIA_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    media: _media_pb2.Media
    seed: _generation_pb2.SeedIndex
    tensors: _containers.MessageMap[str, _media_pb2.Tensor]
    prompt: int
    truncated: bool
    def __init__(self, media: _Optional[_Union[_media_pb2.Media, _Mapping]] = ..., seed: _Optional[_Union[_generation_pb2.SeedIndex, _Mapping]] = ..., tensors: _Optional[_Mapping[str, _media_pb2.Tensor]] = ..., prompt: _Optional[int] = ..., truncated: _Optional[bool] = ...) -> None: ...
