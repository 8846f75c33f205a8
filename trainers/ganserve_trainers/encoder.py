"""The encoder of inversion: a network that guesses the latent of a picture, so that the search starts near. Any family may have one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ganserve import spec as records
from ganserve.errors import ExportError, TrainingError
from ganserve.spec import Graph, Loop, Spec, Step, Task, tensors_of
from ganserve_trainers.layers.normalize import from_bytes

GRAPH = "encoder"
"""What its graph is called."""

CONFIG = "inversion_encoder"
"""Its entry, a :class:`Layout`, in the configuration of a bundle that has one."""

GUESS = "encoded"
"""The tensor that it makes."""

FOLDER, WEIGHTS, RECORD = "encoder", "encoder.safetensors", "encoder.json"
"""Where a run keeps it."""

FIRST, MOST = 32, 256
"""Feature maps behind the first convolution; every halving doubles them, up to the most."""

SLOPE = 0.2

SMALLEST_SIDE = 4
"""The picture is halved until its smaller side has no more pixels than this."""


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sizes of an encoder: ``image`` (H, W, C), the shape of the ``latent``, and whether its first axis counts ``layers``.

    For a latent with layers it makes one row, for all of them.
    """

    image: tuple[int, int, int]
    latent: tuple[int, ...]
    layers: bool = False


class Trained(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run's ``encoder.json`` says: the layout, at how many images the generator was that it learned from, and its own images."""

    layout: Layout
    generator_images: int
    images: int


class Encoder(nn.Module):
    """Pictures uint8 ``[n, H, W, C]`` → latents ``[n, ...]``: strided convolutions as in DCGAN's discriminator, then a linear layer.

    The network tells how far, in standard deviations, a latent's numbers are from the mean; both are buffers.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        height, width, inputs = layout.image
        modules: list[nn.Module] = []
        outputs = FIRST
        while min(height, width) > SMALLEST_SIDE:
            modules += [
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(SLOPE),
            ]
            height, width = -(-height // 2), -(-width // 2)
            inputs, outputs = outputs, min(2 * outputs, MOST)
        made = layout.latent[1:] if layout.layers else layout.latent
        numbers = int(torch.Size(made).numel())
        self.layers = nn.Sequential(*modules, nn.Flatten(), nn.Linear(inputs * height * width, numbers))
        self.shape = made
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("deviation", torch.ones(numbers))

    def forward(self, pixels: Tensor) -> Tensor:
        """The latents of ``pixels``."""
        guess: Tensor = self.mean + self.deviation * self.layers(from_bytes(pixels))
        latents = guess.reshape(-1, *self.shape)
        return latents[:, None].expand(-1, *self.layout.latent) if self.layout.layers else latents

    @torch.no_grad()
    def centre(self, latents: Tensor) -> None:
        """Take mean and deviation from ``latents`` ``[n, ...]``."""
        rows = (latents[:, 0] if self.layout.layers else latents).flatten(1)
        self.mean.copy_(rows.mean(0))
        self.deviation.copy_(rows.std(0))


def layout_of(spec: Spec) -> Layout:
    """The layout of an encoder for the models of ``spec``; :class:`TrainingError` where they cannot be inverted."""
    task = invert_task(spec)
    assert task.inversion is not None
    graphs = {graph.name: graph for graph in spec.graphs}
    declared = tensors_of(graphs, task)
    name = task.inversion.latent
    layers = any(latent.layers for latent in task.latents if latent.tensor == name)
    image = declared[task.inversion.preview]
    # Specs check that sizes are fixed; msgspec that there are three.
    return msgspec.convert({"image": image.shape, "latent": declared[name].shape, "layers": layers}, Layout)


def invert_task(spec: Spec) -> Task:
    """The task of kind ``invert``; :class:`TrainingError` where there is none."""
    for task in spec.tasks:
        if task.inversion is not None:
            return task
    raise TrainingError(
        "this family has no task of kind 'invert', so nothing would start from what an encoder guesses; "
        f"its tasks are {', '.join(task.name for task in spec.tasks)}"
    )


def with_encoder(spec: Spec, config: Mapping[str, Any]) -> Spec:
    """``spec`` with the graph ``encoder`` and the start of that name, if ``config`` has one."""
    if CONFIG not in config:
        return spec
    layout = msgspec.convert(config[CONFIG], Layout)
    task = invert_task(spec)
    assert task.inversion is not None
    graph = Graph(
        name=GRAPH,
        inputs=(records.Tensor(name="target", dtype="uint8", shape=layout.image),),
        outputs=(records.Tensor(name=GUESS, dtype="float32", shape=layout.latent),),
    )
    loop = next(place for place, step in enumerate(task.steps) if isinstance(step, Loop))
    changed = msgspec.structs.replace(
        task,
        steps=(*task.steps[:loop], Step(graph=GRAPH), *task.steps[loop:]),
        inversion=msgspec.structs.replace(task.inversion, starts={**task.inversion.starts, "encoder": GUESS}),
    )
    return Spec(graphs=(*spec.graphs, graph), tasks=tuple(changed if one is task else one for one in spec.tasks))


def encoder_of(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The module of the graph ``encoder``, by that name: the one among ``networks``, or a fresh one; none if ``config`` has none."""
    if CONFIG not in config:
        return {}
    return {GRAPH: networks.get(GRAPH) or Encoder(msgspec.convert(config[CONFIG], Layout))}


def save(run: Path, encoder: Encoder, trained: Trained) -> None:
    """Keep ``encoder`` in the folder of its run; one that is there already is replaced."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(weights, folder / f".{WEIGHTS}")
    (folder / f".{WEIGHTS}").replace(folder / WEIGHTS)
    (folder / f".{RECORD}").write_bytes(msgspec.json.encode(trained) + b"\n")
    (folder / f".{RECORD}").replace(folder / RECORD)


def load(run: Path, generator_images: int) -> tuple[Encoder, Trained] | None:
    """The encoder of the folder ``run``, None without one; :class:`ExportError` if it cannot be read, or learned from another checkpoint."""
    folder = run / FOLDER
    if not (folder / RECORD).is_file():
        return None
    try:
        trained = msgspec.json.decode((folder / RECORD).read_bytes(), type=Trained)
        encoder = Encoder(trained.layout)
        encoder.load_state_dict(load_file(folder / WEIGHTS))
    except Exception as error:  # safetensors and torch raise types of their own for a damaged file
        raise ExportError(
            f"the encoder in {folder} cannot be read: {error}; train it again, or delete the folder"
        ) from error
    if trained.generator_images != generator_images:
        raise ExportError(
            f"the encoder in {folder} learned from the checkpoint at {trained.generator_images / 1000:g} kimg, and this is the one at "
            f"{generator_images / 1000:g}: train it again with `ganserve train-encoder`, export with --kimg "
            f"{trained.generator_images / 1000:g}, or delete the folder"
        )
    return encoder.eval().requires_grad_(False), trained
