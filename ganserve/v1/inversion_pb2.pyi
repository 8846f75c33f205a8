from ganserve.v1 import generation_pb2 as _generation_pb2
from ganserve.v1 import media_pb2 as _media_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Start(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    START_UNSPECIFIED: _ClassVar[Start]
    START_AVERAGE: _ClassVar[Start]
    START_SAMPLES: _ClassVar[Start]
    START_ENCODER: _ClassVar[Start]
    START_GIVEN: _ClassVar[Start]
START_UNSPECIFIED: Start
START_AVERAGE: Start
START_SAMPLES: Start
START_ENCODER: Start
START_GIVEN: Start

class InvertRequest(_message.Message):
    __slots__ = ("model", "version", "task", "image", "size", "background", "start", "samples", "seed", "latent", "steps", "seconds", "label", "numbers", "progress_every", "previews", "progress_latents", "output")
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
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    LATENT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_EVERY_FIELD_NUMBER: _ClassVar[int]
    PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_LATENTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    task: str
    image: _media_pb2.Image
    size: _generation_pb2.SizePolicy
    background: _generation_pb2.Color
    start: Start
    samples: int
    seed: int
    latent: _media_pb2.Tensor
    steps: int
    seconds: float
    label: _generation_pb2.Label
    numbers: _containers.ScalarMap[str, float]
    progress_every: int
    previews: bool
    progress_latents: bool
    output: _media_pb2.OutputOptions
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., task: _Optional[str] = ..., image: _Optional[_Union[_media_pb2.Image, _Mapping]] = ..., size: _Optional[_Union[_generation_pb2.SizePolicy, str]] = ..., background: _Optional[_Union[_generation_pb2.Color, _Mapping]] = ..., start: _Optional[_Union[Start, str]] = ..., samples: _Optional[int] = ..., seed: _Optional[int] = ..., latent: _Optional[_Union[_media_pb2.Tensor, _Mapping]] = ..., steps: _Optional[int] = ..., seconds: _Optional[float] = ..., label: _Optional[_Union[_generation_pb2.Label, _Mapping]] = ..., numbers: _Optional[_Mapping[str, float]] = ..., progress_every: _Optional[int] = ..., previews: _Optional[bool] = ..., progress_latents: _Optional[bool] = ..., output: _Optional[_Union[_media_pb2.OutputOptions, _Mapping]] = ...) -> None: ...

class InvertResponse(_message.Message):
    __slots__ = ("progress", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: InvertProgress
    result: InvertResult
    def __init__(self, progress: _Optional[_Union[InvertProgress, _Mapping]] = ..., result: _Optional[_Union[InvertResult, _Mapping]] = ...) -> None: ...

class InvertProgress(_message.Message):
    __slots__ = ("step", "steps", "loss", "seconds", "preview", "latent")
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    LATENT_FIELD_NUMBER: _ClassVar[int]
    step: int
    steps: int
    loss: float
    seconds: float
    preview: _media_pb2.Media
    latent: _media_pb2.Tensor
    def __init__(self, step: _Optional[int] = ..., steps: _Optional[int] = ..., loss: _Optional[float] = ..., seconds: _Optional[float] = ..., preview: _Optional[_Union[_media_pb2.Media, _Mapping]] = ..., latent: _Optional[_Union[_media_pb2.Tensor, _Mapping]] = ...) -> None: ...

class InvertResult(_message.Message):
    __slots__ = ("latents", "reconstruction", "quality", "loss", "steps", "stopped_early", "start", "seed", "image", "served")
    class LatentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _media_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_media_pb2.Tensor, _Mapping]] = ...) -> None: ...
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    RECONSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    STOPPED_EARLY_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    latents: _containers.MessageMap[str, _media_pb2.Tensor]
    reconstruction: _media_pb2.Media
    quality: Quality
    loss: float
    steps: int
    stopped_early: bool
    start: Start
    seed: _generation_pb2.SeedIndex
    image: _generation_pb2.ReadImage
    served: _generation_pb2.Served
    def __init__(self, latents: _Optional[_Mapping[str, _media_pb2.Tensor]] = ..., reconstruction: _Optional[_Union[_media_pb2.Media, _Mapping]] = ..., quality: _Optional[_Union[Quality, _Mapping]] = ..., loss: _Optional[float] = ..., steps: _Optional[int] = ..., stopped_early: _Optional[bool] = ..., start: _Optional[_Union[Start, str]] = ..., seed: _Optional[_Union[_generation_pb2.SeedIndex, _Mapping]] = ..., image: _Optional[_Union[_generation_pb2.ReadImage, _Mapping]] = ..., served: _Optional[_Union[_generation_pb2.Served, _Mapping]] = ...) -> None: ...

class Quality(_message.Message):
    __slots__ = ("psnr", "ssim", "ms_ssim", "perceptual")
    PSNR_FIELD_NUMBER: _ClassVar[int]
    SSIM_FIELD_NUMBER: _ClassVar[int]
    MS_SSIM_FIELD_NUMBER: _ClassVar[int]
    PERCEPTUAL_FIELD_NUMBER: _ClassVar[int]
    psnr: float
    ssim: float
    ms_ssim: float
    perceptual: float
    def __init__(self, psnr: _Optional[float] = ..., ssim: _Optional[float] = ..., ms_ssim: _Optional[float] = ..., perceptual: _Optional[float] = ...) -> None: ...
