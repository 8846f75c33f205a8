"""A task of a loaded model: its codecs, and what requests for it may give."""

from collections.abc import Container, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import msgspec
import numpy as np

from ganserve.bundle import Bundle
from ganserve.codecs import ChoosingDecoder, Decoder, Encoder, LateDecoder, PictureDecoder, PromptDecoder
from ganserve.errors import BundleError
from ganserve.plugins import Plugins, resolve
from ganserve.serving.edits import LoadedDirection
from ganserve.spec import Task, Tensor, tensors_of


class LoadedTask(msgspec.Struct, frozen=True, eq=False, dict=True):
    """A task with its codecs, and every tensor it names.

    ``pictures`` are those decoders that read pictures, by their tensors; ``directions`` those of the model that move a latent of it;
    ``choices`` which values decoders read instead of others, by their tensors; ``lates`` are the decoders whose rows may be made late.
    ``lane`` is the thread in which values are decoded; None where none of them is a prompt, so that decoding them is quick.
    """

    task: Task
    tensors: Mapping[str, Tensor]
    decoders: Mapping[str, Decoder]
    encoder: Encoder
    pictures: Mapping[str, PictureDecoder] = {}
    directions: Mapping[str, LoadedDirection] = {}
    choices: Mapping[str, Mapping[str, tuple[str, ...]]] = {}
    lates: Mapping[str, LateDecoder] = {}
    lane: ThreadPoolExecutor | None = None

    def moves(self, tensor: str) -> dict[str, np.ndarray]:
        """The vectors along which the latent ``tensor`` may be moved, by the names of the directions."""
        return {name: loaded.vector for name, loaded in self.directions.items() if loaded.direction.tensor == tensor}

    def needless(self, values: Container[str]) -> frozenset[tuple[str, str]]:
        """The request values that inputs do not read beside ``values``: (tensor, value)."""
        return frozenset(
            (tensor, other)
            for tensor, instead in self.choices.items()
            for value, others in instead.items()
            if value in values
            for other in others
        )

    @cached_property
    def reads(self) -> frozenset[str]:
        """The request values that its inputs read."""
        return frozenset(name for source in self.task.inputs for name in source.reads)

    @cached_property
    def fixed(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of those tensors that have one."""
        shapes = {
            name: tuple(size for size in one.shape if isinstance(size, int)) for name, one in self.tensors.items()
        }
        return {name: shape for name, shape in shapes.items() if len(shape) == len(self.tensors[name].shape)}

    @property
    def prompts(self) -> frozenset[str]:
        """The request values that are prompts."""
        return frozenset(one.value for one in self.decoders.values() if isinstance(one, PromptDecoder))

    @property
    def makes_images(self) -> bool:
        """Whether the result is a picture."""
        return self.task.output.codec != "array"

    @property
    def ruling(self) -> str | None:
        """The tensor of the picture whose size rules the result's: the one called ``image``, else the first; None without any."""
        first = next(iter(self.pictures), None)
        return next((name for name, decoder in self.pictures.items() if decoder.value == "image"), first)


def load_task(bundle: Bundle, task: Task, plugins: Plugins) -> LoadedTask:
    """``task`` of ``bundle`` with its codecs; :class:`BundleError` for one that cannot do what is asked of it."""
    manifest = bundle.manifest
    tensors = tensors_of({graph.name: graph for graph in manifest.graphs}, task)
    decoders = {}
    for source in task.inputs:
        codec = plugins.codec(source.codec)
        if codec.decode is None:
            raise BundleError(f"codec {codec.name!r} makes no tensors, but input {source.tensor!r} asks it to")
        decoders[source.tensor] = resolve(codec.decode)(source, tensors[source.tensor], bundle.folder)
    codec = plugins.codec(task.output.codec)
    if codec.encode is None:
        raise BundleError(f"codec {codec.name!r} makes no media, but the output of task {task.name!r} asks it to")
    encoder = resolve(codec.encode)(task.output, tensors[task.output.tensor])
    pictures = {name: decoder for name, decoder in decoders.items() if isinstance(decoder, PictureDecoder)}
    # Pictures may be cut into tiles, each a row then, and what belongs to them is cut with them.
    lates = {name: one for name, one in decoders.items() if isinstance(one, LateDecoder)} if not pictures else {}
    choices = {
        name: decoder.instead
        for name, decoder in decoders.items()
        if isinstance(decoder, ChoosingDecoder) and decoder.instead
    }
    latents = [latent.tensor for latent in task.latents]
    vectors = bundle.directions()
    directions = {
        name: LoadedDirection(direction, vectors[name])
        for name, direction in manifest.directions.items()
        if direction.tensor in latents
    }
    # A thread of its own, begun with the first prompt: in one for all, a bundle whose tokenizer is slow would keep other models waiting.
    reads_prompts = any(isinstance(decoder, PromptDecoder) for decoder in decoders.values())
    lane = ThreadPoolExecutor(1, "prompts") if reads_prompts else None
    return LoadedTask(task, tensors, decoders, encoder, pictures, directions, choices, lates, lane)
