"""The Python client: images by seed, label or latent from a server, with typed results and typed errors.

:class:`Client` blocks, :class:`AsyncClient` awaits; they share everything but the waiting. ``docs/client.md`` is the guide.
"""

from ganserve.client.aio import AsyncClient
from ganserve.client.blocking import Client
from ganserve.client.channel import Tls
from ganserve.client.grid import grid, mixing_sheet
from ganserve.client.inversion import Inversion, InvertOptions, InvertProgress, Quality
from ganserve.client.latents import MakingOptions, Mixture, Point, WalkFrame
from ganserve.client.media import Media
from ganserve.client.models import DirectionInfo, LatentInfo, ModelInfo, ModelSummary, TaskInfo, TensorInfo
from ganserve.client.request import SampleOptions
from ganserve.client.samples import Sample, Samples, Served
from ganserve.client.text import Imagined, ImagineOptions
from ganserve.client.translation import ReadImage, TranslateOptions, Translation

__all__ = [
    "AsyncClient",
    "Client",
    "DirectionInfo",
    "ImagineOptions",
    "Imagined",
    "Inversion",
    "InvertOptions",
    "InvertProgress",
    "LatentInfo",
    "MakingOptions",
    "Media",
    "Mixture",
    "ModelInfo",
    "ModelSummary",
    "Point",
    "Quality",
    "ReadImage",
    "Sample",
    "SampleOptions",
    "Samples",
    "Served",
    "TaskInfo",
    "TensorInfo",
    "Tls",
    "TranslateOptions",
    "Translation",
    "WalkFrame",
    "grid",
    "mixing_sheet",
]
