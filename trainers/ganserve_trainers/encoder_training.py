"""How an encoder learns: from pictures that the generator makes of latents it draws, to find those latents, and those pictures, again."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganserve import plugins
from ganserve.codecs import Decoder, PictureDecoder
from ganserve.errors import TrainingError
from ganserve.spec import Loop, Spec, tensors_of
from ganserve_trainers.encoder import Encoder, Trained, invert_task, layout_of, save
from ganserve_trainers.export import torch_graphs
from ganserve_trainers.inversion import InversionStep, multiscale
from ganserve_trainers.layers.denormalize import to_bytes
from ganserve_trainers.onnx_trace import Traced
from ganserve_trainers.run import Run, load_run

RATE = 1e-3
"""Adam's learning rate at the start; it falls to 0 along half a cosine."""

LATENT_WEIGHT, IMAGE_WEIGHT = 1.0, 5.0
"""Of the squared error of latents, in units of their variance, and of that of images."""

CENTRED_ON = 4096
"""Latents whose mean and deviation the encoder starts from."""

CHECKED_ON = 64
"""Latents that it never learns from, on which it is measured."""

Report = Callable[[str], None]


class Sampler:
    """Draws what a search starts from when it starts from samples, and makes pictures of it, as the server would."""

    def __init__(self, run: Run, known: plugins.Plugins, folder: Path, device: torch.device) -> None:
        """``folder`` is where codecs look for files; :class:`TrainingError` for a family without inversion or samples to start from."""
        spec: Spec = run.family.spec(run.config)
        self._task, self._device = invert_task(spec), device
        assert self._task.inversion is not None
        if "samples" not in self._task.inversion.starts:
            raise TrainingError(
                f"task {self._task.name!r} starts from no samples, which an encoder learns from; "
                f"its starts are {', '.join(self._task.inversion.starts)}"
            )
        self._wanted = self._task.inversion.starts["samples"]
        self._graphs = {graph.name: graph for graph in spec.graphs}
        modules = torch_graphs(run.family, run.config, run.networks)
        self._modules = {name: module.to(device) for name, module in modules.items()}
        declared = tensors_of(self._graphs, self._task)
        self._decoders: dict[str, tuple[Decoder, tuple[str, ...]]] = {}
        for source in self._task.inputs:
            codec = known.codec(source.codec)
            decoder = plugins.resolve(codec.decode or "")(source, declared[source.tensor], folder)
            if not isinstance(decoder, PictureDecoder):
                self._decoders[source.tensor] = decoder, source.reads
        loop = next(step for step in self._task.steps if isinstance(step, Loop))
        step: InversionStep = self._step(self._modules[loop.graph])
        self.generator = step.generator
        reads = list(loop.reads(self._graphs[loop.graph]).items())
        behind = [port for port, _ in reads].index("tied" if step.tied else "rate") + 1
        self._extras = [name for _, name in reads[behind:]]

    def draw(self, seed: int, first: int, rows: int) -> tuple[Tensor, list[Tensor]]:
        """The latents of the pairs (``seed``, ``first``) and so on, ``[rows, ...]``, and what the generator reads besides."""
        seeds: Any = np.array([(seed, first + row) for row in range(rows)], np.uint64)
        tensors = {
            name: torch.tensor(decoder.decode({"seed": seeds} if "seed" in reads else {}, rows), device=self._device)
            for name, (decoder, reads) in self._decoders.items()
        }
        for step in self._task.steps:
            graph = self._graphs[step.graph]
            reads = step.reads(graph)
            if self._wanted in tensors or isinstance(step, Loop) or not set(reads.values()) <= tensors.keys():
                continue
            with torch.no_grad():
                made = self._modules[graph.name](*(tensors[reads[tensor.name]] for tensor in graph.inputs))
            names = step.makes(graph)
            tensors |= {names[tensor.name]: value for tensor, value in zip(graph.outputs, made, strict=False)}
        return tensors[self._wanted], [tensors[name] for name in self._extras]

    def images(self, latents: Tensor, extras: list[Tensor]) -> Tensor:
        """The generator's pictures, in [-1, 1]."""
        made: Tensor = self.generator(latents, *extras)
        return made

    @staticmethod
    def _step(module: Traced) -> InversionStep:
        if not isinstance(module.network, InversionStep):
            raise TrainingError(
                f"the step of inversion is a {type(module.network).__name__}; expected an InversionStep"
            )
        return module.network


def train_encoder(
    folder: Path,
    *,
    images: int,
    batch: int,
    seed: int,
    device: str,
    report: Report,
    kimg: float | None = None,
    known: plugins.Plugins | None = None,
) -> None:
    """Train an encoder for the run in ``folder`` (at ``kimg``, or its newest checkpoint) on ``images`` pictures, and keep it there.

    Picture i is made from (``seed``, i), so that equal arguments give equal encoders on one machine. Raises :class:`TrainingError`.
    """
    known = known or plugins.installed()
    run = load_run(folder, known, kimg)
    sampler = Sampler(run, known, folder, torch.device(device))
    torch.manual_seed(seed)
    encoder = Encoder(layout_of(run.family.spec(run.config))).to(device)
    encoder.centre(sampler.draw(seed + 1, 0, CENTRED_ON)[0])
    steps = max(1, images // batch)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 0.5 + 0.5 * math.cos(math.pi * n / steps))
    for step in range(steps):
        latents, extras = sampler.draw(seed, step * batch, batch)
        loss = _loss(sampler, encoder.train(), latents, extras)
        if not bool(loss.isfinite()):
            raise TrainingError(
                f"the loss is not finite any more at step {step} of {steps}: train with a larger --batch"
            )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if (step + 1) * 10 // steps > step * 10 // steps:
            report(f"{(step + 1) * batch / 1000:g} kimg: {measure(sampler, encoder.eval(), seed + 2)}")
    save(
        folder,
        encoder,
        Trained(layout=encoder.layout, generator_images=run.provenance["images_seen"], images=steps * batch),
    )


def _loss(sampler: Sampler, encoder: Encoder, latents: Tensor, extras: list[Tensor]) -> Tensor:
    """The errors of latents and of images that are made of them, weighted."""
    with torch.no_grad():
        images = sampler.images(latents, extras)
    guess = encoder(to_bytes(images))
    deviation = encoder.deviation.reshape(encoder.shape)
    error: Tensor = ((guess - latents) / deviation).square().mean()
    # Squares at all scales: what the search that follows will lower.
    difference = multiscale(sampler.images(guess, extras) - images)[0].mean()
    return LATENT_WEIGHT * error + IMAGE_WEIGHT * difference


@torch.no_grad()
def measure(sampler: Sampler, encoder: Encoder, seed: int) -> str:
    """How near ``encoder`` comes on pictures of latents that it has not seen."""
    latents, extras = sampler.draw(seed, 0, CHECKED_ON)
    images = to_bytes(sampler.images(latents, extras))
    guess = encoder(images)
    again = to_bytes(sampler.images(guess, extras))
    error = ((again.double() - images.double()) ** 2).flatten(1).mean(1)
    psnr = 10 * torch.log10(255**2 / error.clamp_min(1e-9))
    variance = encoder.deviation.square().mean()
    explained = 1 - (guess - latents).square().mean() / variance
    return f"PSNR {psnr.median():.1f} dB (median of {CHECKED_ON}), {explained:.0%} of the latents' variance found"
