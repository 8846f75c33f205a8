from ganserve.v1 import media_pb2 as _media_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SizePolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIZE_POLICY_UNSPECIFIED: _ClassVar[SizePolicy]
    SIZE_POLICY_EXACT: _ClassVar[SizePolicy]
    SIZE_POLICY_RESIZE: _ClassVar[SizePolicy]
    SIZE_POLICY_LETTERBOX: _ClassVar[SizePolicy]
    SIZE_POLICY_NATIVE: _ClassVar[SizePolicy]

class Determinism(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DETERMINISM_UNSPECIFIED: _ClassVar[Determinism]
    DETERMINISM_BIT_EXACT: _ClassVar[Determinism]
    DETERMINISM_TOLERANCE: _ClassVar[Determinism]
SIZE_POLICY_UNSPECIFIED: SizePolicy
SIZE_POLICY_EXACT: SizePolicy
SIZE_POLICY_RESIZE: SizePolicy
SIZE_POLICY_LETTERBOX: SizePolicy
SIZE_POLICY_NATIVE: SizePolicy
DETERMINISM_UNSPECIFIED: Determinism
DETERMINISM_BIT_EXACT: Determinism
DETERMINISM_TOLERANCE: Determinism

class SampleRequest(_message.Message):
    __slots__ = ("model", "version", "task", "count", "seed", "first_index", "seeds", "tensors", "labels", "truncation", "numbers", "output", "return_tensors", "max_reply_bytes", "directions")
    class TensorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _media_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_media_pb2.Tensor, _Mapping]] = ...) -> None: ...
    class NumbersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Numbers
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Numbers, _Mapping]] = ...) -> None: ...
    class DirectionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Numbers
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Numbers, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATION_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    RETURN_TENSORS_FIELD_NUMBER: _ClassVar[int]
    MAX_REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIRECTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    task: str
    count: int
    seed: int
    first_index: int
    seeds: _containers.RepeatedScalarFieldContainer[int]
    tensors: _containers.MessageMap[str, _media_pb2.Tensor]
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    truncation: _containers.RepeatedScalarFieldContainer[float]
    numbers: _containers.MessageMap[str, Numbers]
    output: _media_pb2.OutputOptions
    return_tensors: _containers.RepeatedScalarFieldContainer[str]
    max_reply_bytes: int
    directions: _containers.MessageMap[str, Numbers]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., task: _Optional[str] = ..., count: _Optional[int] = ..., seed: _Optional[int] = ..., first_index: _Optional[int] = ..., seeds: _Optional[_Iterable[int]] = ..., tensors: _Optional[_Mapping[str, _media_pb2.Tensor]] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., truncation: _Optional[_Iterable[float]] = ..., numbers: _Optional[_Mapping[str, Numbers]] = ..., output: _Optional[_Union[_media_pb2.OutputOptions, _Mapping]] = ..., return_tensors: _Optional[_Iterable[str]] = ..., max_reply_bytes: _Optional[int] = ..., directions: _Optional[_Mapping[str, Numbers]] = ...) -> None: ...

class TranslateRequest(_message.Message):
    __slots__ = ("model", "version", "task", "images", "size", "restore", "background", "seed", "index", "tensors", "label", "truncation", "numbers", "output", "return_tensors", "max_reply_bytes")
    class ImagesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _media_pb2.Image
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_media_pb2.Image, _Mapping]] = ...) -> None: ...
    class TensorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _media_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_media_pb2.Tensor, _Mapping]] = ...) -> None: ...
    class NumbersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TRUNCATION_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    RETURN_TENSORS_FIELD_NUMBER: _ClassVar[int]
    MAX_REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    task: str
    images: _containers.MessageMap[str, _media_pb2.Image]
    size: SizePolicy
    restore: bool
    background: Color
    seed: int
    index: int
    tensors: _containers.MessageMap[str, _media_pb2.Tensor]
    label: Label
    truncation: float
    numbers: _containers.ScalarMap[str, float]
    output: _media_pb2.OutputOptions
    return_tensors: _containers.RepeatedScalarFieldContainer[str]
    max_reply_bytes: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., task: _Optional[str] = ..., images: _Optional[_Mapping[str, _media_pb2.Image]] = ..., size: _Optional[_Union[SizePolicy, str]] = ..., restore: _Optional[bool] = ..., background: _Optional[_Union[Color, _Mapping]] = ..., seed: _Optional[int] = ..., index: _Optional[int] = ..., tensors: _Optional[_Mapping[str, _media_pb2.Tensor]] = ..., label: _Optional[_Union[Label, _Mapping]] = ..., truncation: _Optional[float] = ..., numbers: _Optional[_Mapping[str, float]] = ..., output: _Optional[_Union[_media_pb2.OutputOptions, _Mapping]] = ..., return_tensors: _Optional[_Iterable[str]] = ..., max_reply_bytes: _Optional[int] = ...) -> None: ...

class Color(_message.Message):
    __slots__ = ("red", "green", "blue")
    RED_FIELD_NUMBER: _ClassVar[int]
    GREEN_FIELD_NUMBER: _ClassVar[int]
    BLUE_FIELD_NUMBER: _ClassVar[int]
    red: int
    green: int
    blue: int
    def __init__(self, red: _Optional[int] = ..., green: _Optional[int] = ..., blue: _Optional[int] = ...) -> None: ...

class TranslateResponse(_message.Message):
    __slots__ = ("translation", "served")
    TRANSLATION_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    translation: Translation
    served: Served
    def __init__(self, translation: _Optional[_Union[Translation, _Mapping]] = ..., served: _Optional[_Union[Served, _Mapping]] = ...) -> None: ...

class TranslateStreamRequest(_message.Message):
    __slots__ = ("settings", "images")
    class ImagesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _media_pb2.Image
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_media_pb2.Image, _Mapping]] = ...) -> None: ...
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    settings: TranslateRequest
    images: _containers.MessageMap[str, _media_pb2.Image]
    def __init__(self, settings: _Optional[_Union[TranslateRequest, _Mapping]] = ..., images: _Optional[_Mapping[str, _media_pb2.Image]] = ...) -> None: ...

class TranslateStreamResponse(_message.Message):
    __slots__ = ("frame", "translation", "served")
    FRAME_FIELD_NUMBER: _ClassVar[int]
    TRANSLATION_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    frame: int
    translation: Translation
    served: Served
    def __init__(self, frame: _Optional[int] = ..., translation: _Optional[_Union[Translation, _Mapping]] = ..., served: _Optional[_Union[Served, _Mapping]] = ...) -> None: ...

class Translation(_message.Message):
    __slots__ = ("media", "seed", "tensors", "images")
    class TensorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _media_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_media_pb2.Tensor, _Mapping]] = ...) -> None: ...
    class ImagesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ReadImage
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ReadImage, _Mapping]] = ...) -> None: ...
    MEDIA_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    media: _media_pb2.Media
    seed: SeedIndex
    tensors: _containers.MessageMap[str, _media_pb2.Tensor]
    images: _containers.MessageMap[str, ReadImage]
    def __init__(self, media: _Optional[_Union[_media_pb2.Media, _Mapping]] = ..., seed: _Optional[_Union[SeedIndex, _Mapping]] = ..., tensors: _Optional[_Mapping[str, _media_pb2.Tensor]] = ..., images: _Optional[_Mapping[str, ReadImage]] = ...) -> None: ...

class ReadImage(_message.Message):
    __slots__ = ("width", "height", "pictures")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    pictures: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., pictures: _Optional[int] = ...) -> None: ...

class Numbers(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("index", "name")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    index: int
    name: str
    def __init__(self, index: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...

class SampleResponse(_message.Message):
    __slots__ = ("samples", "served")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    samples: _containers.RepeatedCompositeFieldContainer[Sample]
    served: Served
    def __init__(self, samples: _Optional[_Iterable[_Union[Sample, _Mapping]]] = ..., served: _Optional[_Union[Served, _Mapping]] = ...) -> None: ...

class SampleStreamRequest(_message.Message):
    __slots__ = ("sample",)
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    sample: SampleRequest
    def __init__(self, sample: _Optional[_Union[SampleRequest, _Mapping]] = ...) -> None: ...

class SampleStreamResponse(_message.Message):
    __slots__ = ("sample", "served")
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    sample: Sample
    served: Served
    def __init__(self, sample: _Optional[_Union[Sample, _Mapping]] = ..., served: _Optional[_Union[Served, _Mapping]] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("media", "seed", "tensors")
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
    media: _media_pb2.Media
    seed: SeedIndex
    tensors: _containers.MessageMap[str, _media_pb2.Tensor]
    def __init__(self, media: _Optional[_Union[_media_pb2.Media, _Mapping]] = ..., seed: _Optional[_Union[SeedIndex, _Mapping]] = ..., tensors: _Optional[_Mapping[str, _media_pb2.Tensor]] = ...) -> None: ...

class SeedIndex(_message.Message):
    __slots__ = ("seed", "index")
    SEED_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    seed: int
    index: int
    def __init__(self, seed: _Optional[int] = ..., index: _Optional[int] = ...) -> None: ...

class Served(_message.Message):
    __slots__ = ("model", "version", "engines", "determinism", "seconds")
    class SecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    DETERMINISM_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    engines: _containers.RepeatedScalarFieldContainer[str]
    determinism: Determinism
    seconds: _containers.ScalarMap[str, float]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., engines: _Optional[_Iterable[str]] = ..., determinism: _Optional[_Union[Determinism, str]] = ..., seconds: _Optional[_Mapping[str, float]] = ...) -> None: ...
