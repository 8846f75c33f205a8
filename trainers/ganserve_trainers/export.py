"""From trained networks to a bundle: every graph traced and checked, golden rows written, the whole read back.

Nothing is left behind where a check fails, and an existing bundle is replaced only by a finished one.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from torch import nn

from ganserve import bundle, plugins
from ganserve.bundle import Bundle, Golden, Manifest
from ganserve.errors import ExportError
from ganserve.names import check_name
from ganserve.spec import Family, Input, Spec, Tensor
from ganserve_trainers import encoder, perceptual
from ganserve_trainers.classes import with_classes
from ganserve_trainers.directions import export_directions
from ganserve_trainers.encoder import encoder_of, with_encoder
from ganserve_trainers.examples import SEED, Example, Examples, make_examples
from ganserve_trainers.fuse import fuse_batch_norm
from ganserve_trainers.layers.spectral import fold
from ganserve_trainers.onnx_graph import export_graph
from ganserve_trainers.onnx_rules import BATCHES
from ganserve_trainers.onnx_trace import Traced
from ganserve_trainers.onnx_weights import SharedWeights, round_to_half
from ganserve_trainers.perceptual import give_features, with_features
from ganserve_trainers.rounding import rounding_error
from ganserve_trainers.run import load_run
from ganserve_trainers.text import bert
from ganserve_trainers.text.bert import SentenceEncoder, text_of

GOLDEN_ROWS = 4
GOLDEN_FILE = "golden.npz"
WEIGHTS_FILE = "weights.bin"
UNKNOWN = "unknown"
"""The licence of a bundle about which nobody said anything."""


@dataclass(frozen=True)
class Label:
    """What a bundle says about itself: the ``provenance`` is how it was trained, the rest as in its manifest."""

    name: str
    version: int = 1
    licence: str = ""
    attribution: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)


def export_bundle(
    family: Family,
    preset: str,
    config: Mapping[str, Any],
    networks: Mapping[str, nn.Module],
    out: Path,
    label: Label,
    *,
    files: Mapping[str, Path] | None = None,
    half: bool = False,
    force: bool = False,
    known: plugins.Plugins | None = None,
) -> Bundle:
    """Write the bundle of ``networks``, built with ``config``, to the folder ``out`` and read it back, verified.

    ``files`` are those that the codecs of its inputs read, by their names in the bundle: they are copied. ``half`` rounds the weights to
    half precision first and stores them so; what that changes is measured (:func:`rounding_error`) and becomes part of the provenance,
    and parity is measured against the rounded networks, which are the ones that are served. ``force`` lets ``out`` be replaced if it is a bundle. Raises
    :class:`ExportError`, which names the graph, the rule it breaks and what to do.
    """
    check_name("bundle", label.name)
    out = out.resolve()
    _check_target(out, force)
    spec = with_classes(with_features(with_encoder(family.spec(config), config), config), config)
    modules = _modules(family, spec, config, networks)
    staging = out.with_name(f".{out.name}.{os.getpid()}")
    staging.mkdir(parents=True)
    try:
        _copy_files(spec, files or {}, staging)
        example, provenance = _example(known or plugins.installed(), staging), dict(label.provenance)
        examples = make_examples(spec, modules, example, max(BATCHES))
        if half:
            trained = examples
            for module in modules.values():
                round_to_half(module)
            examples = make_examples(spec, modules, example, max(BATCHES))
            if (error := rounding_error(spec, trained, examples)) is not None:
                provenance["rounding"] = error
        weights = SharedWeights(staging / WEIGHTS_FILE)
        graphs = tuple(
            export_graph(graph, modules[graph.name], examples[graph.name], staging, weights, half=half)
            for graph in spec.graphs
        )
        golden = _write_golden(staging / GOLDEN_FILE, examples)
        directions = export_directions(family, spec, config, networks, staging)
        manifest = Manifest(
            name=label.name,
            version=label.version,
            family=family.name,
            preset=preset,
            licence=label.licence or UNKNOWN,
            attribution=label.attribution,
            graphs=graphs,
            tasks=spec.tasks,
            golden=golden,
            files={path.name: bundle.digest(path) for path in sorted(staging.iterdir())},
            directions=directions,
            config=msgspec.to_builtins(config),
            provenance=msgspec.to_builtins(provenance),
        )
        bundle.write_manifest(staging, manifest)
        verified = bundle.read(staging)
        _move(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Bundle(verified.manifest, out)


def export_run(
    run: Path,
    out: Path,
    label: Label,
    *,
    kimg: float | None = None,
    features: Path | None = None,
    half: bool = False,
    force: bool = False,
    known: plugins.Plugins | None = None,
) -> Bundle:
    """:func:`export_bundle` of the training run in the folder ``run``: its newest good checkpoint, or the one at ``kimg``.

    Networks of which a moving average was kept are exported as that average. The run adds its provenance to the label's, and the
    licence and attribution of its data where the label has none. An encoder that was trained for the run comes along.
    ``features`` is a file of VGG16 weights (:func:`ganserve_trainers.perceptual.load`) for a perceptual term in inversion's loss.
    """
    trained = load_run(run, known, kimg)
    config, networks = dict(trained.config), dict(trained.networks)
    if found := encoder.load(run, trained.provenance["images_seen"]):
        networks[encoder.GRAPH], config[encoder.CONFIG] = found[0], msgspec.to_builtins(found[1].layout)
    if isinstance(sentences := networks.get(bert.GRAPH), SentenceEncoder):
        config[bert.CONFIG] = msgspec.to_builtins(sentences.layout)
    if features is not None:
        seen = perceptual.load(features)
        networks[perceptual.NETWORK], config[perceptual.CONFIG] = seen, msgspec.to_builtins(seen.layout)
    data, text = trained.provenance["data"], trained.provenance.get("text_encoder")
    named = [data["attribution"], f"sentence encoder {text['name']} ({text['licence']})" if text else ""]
    label = replace(
        label,
        licence=label.licence or data["licence"],
        attribution=label.attribution or "; ".join(filter(None, named)),
        provenance={**trained.provenance, **label.provenance},
    )
    return export_bundle(
        trained.family,
        trained.preset,
        config,
        networks,
        out,
        label,
        files=trained.files,
        half=half,
        force=force,
        known=known,
    )


def torch_graphs(family: Family, config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> dict[str, Traced]:
    """The modules of a family's graphs as they are exported: in eval mode, weight normalizations folded, batch norm fused."""
    made = plugins.resolve(family.export)(config, networks)
    modules = {**made, **encoder_of(config, networks), **text_of(config, networks)}
    give_features(modules, config, networks)
    return {name: Traced(fuse_batch_norm(fold(module))).eval() for name, module in modules.items()}


def _modules(
    family: Family, spec: Spec, config: Mapping[str, Any], networks: Mapping[str, nn.Module]
) -> dict[str, Traced]:
    modules = torch_graphs(family, config, networks)
    wanted = {graph.name for graph in spec.graphs}
    if set(modules) != wanted:
        raise ExportError(
            f"{family.export} gives modules for the graphs {sorted(modules)}, the spec has {sorted(wanted)}; make them the same"
        )
    return modules


def _copy_files(spec: Spec, files: Mapping[str, Path], folder: Path) -> None:
    """Copy what the inputs of ``spec`` name among ``files`` into ``folder``."""
    named = {name: source for task in spec.tasks for source in task.inputs for name in source.files}
    for name, source in named.items():
        if name not in files:
            raise ExportError(
                f"input {source.tensor!r} reads {check_name('file', name)!r} by codec {source.codec!r}, which is not there: give it in `files`"
            )
        shutil.copyfile(files[name], folder / check_name("file", name))


def _example(known: plugins.Plugins, folder: Path) -> Example:
    def example(source: Input, tensor: Tensor, pairs: np.ndarray) -> np.ndarray:
        codec = known.codec(source.codec)
        if codec.decode is None:
            raise ExportError(f"codec {source.codec!r} cannot make the input {source.tensor!r}: it only encodes")
        array: np.ndarray = plugins.resolve(codec.decode)(source, tensor, folder).example(pairs)
        return array

    return example


def _write_golden(path: Path, examples: Mapping[str, Examples]) -> Golden:
    arrays: dict[str, Any] = {
        f"{graph}.{tensor}": array
        for graph, example in examples.items()
        for tensor, array in example.head(GOLDEN_ROWS).items()
        if tensor not in example.noise
    }
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    noise = {graph: example.noise for graph, example in examples.items() if example.noise}
    return Golden(file=path.name, rows=GOLDEN_ROWS, seed=SEED, noise=noise)


def _check_target(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not force:
        raise ExportError(f"{out} exists: choose another folder, or replace that bundle with --force")
    if not (out / bundle.MANIFEST).is_file():
        raise ExportError(f"{out} is not a bundle (it has no {bundle.MANIFEST}), so --force does not replace it")


def _move(staging: Path, out: Path) -> None:
    """Put the finished folder in place; a bundle that is there already is gone only after that."""
    if not out.exists():
        staging.rename(out)
        return
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    out.rename(old)
    staging.rename(out)
    shutil.rmtree(old)
