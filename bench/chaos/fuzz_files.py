"""Files that are damaged: those of a bundle, whose digests are right all the same, as whoever damages one on purpose would have them; and
what an engine has built and kept.
"""

import os
import shutil
from pathlib import Path

import msgspec
import onnx
from onnx.external_data_helper import set_external_data

from bench.chaos.fuzz_targets import Target
from ganserve import bundle
from ganserve.bundle import MANIFEST, digest
from ganserve.engines import cache
from ganserve.errors import GanserveError
from ganserve.plugins import installed
from ganserve.serving.model import Settings, load_model
from ganserve.testing.echo import write_bundle

WEIGHTS = "weights.bin"
LIMITS = bundle.Limits()


class Bundles:
    """The echo bundle; an input's first byte says which of its files the rest is."""

    def __init__(self, folder: Path) -> None:
        self.whole = _with_weights(write_bundle(folder / "whole", tasks=("sample",)))
        self.folder = folder / "damaged"
        shutil.copytree(self.whole, self.folder)
        self.manifest = bundle.read(self.whole).manifest
        self.files = (MANIFEST, *self.manifest.files)

    def target(self) -> Target:
        """The target."""
        return Target([bytes([n]) + (self.whole / name).read_bytes() for n, name in enumerate(self.files)], self.judge)

    def judge(self, data: bytes) -> str:
        """What comes of loading the bundle: served, or refused, and by whom."""
        if not data:
            return "empty"
        name = self.files[data[0] % len(self.files)]
        (self.folder / name).write_bytes(data[1:])
        try:
            if name != MANIFEST:
                files = {**self.manifest.files, name: digest(self.folder / name)}
                bundle.write_manifest(self.folder, msgspec.structs.replace(self.manifest, files=files))
            load_model(bundle.read(self.folder), installed(), Settings(threads=1, max_batch=2)).close()
        except GanserveError as error:
            words = [word for word in str(error).partition("damaged: ")[2].split()[:12] if word.isalpha()]
            return f"{name}: {type(error).__name__} {' '.join(words[:5])}"
        finally:
            for restored in (name, MANIFEST):
                shutil.copyfile(self.whole / restored, self.folder / restored)
        return f"{name}: served"


class Caches:
    """Files that an engine has built and kept."""

    def __init__(self, folder: Path) -> None:
        self.path, self.data = folder / "engine", bytes(range(256)) * 4
        cache.write(self.path, self.data)

    def target(self) -> Target:
        """The target."""
        return Target([self.path.read_bytes()], self.judge)

    def judge(self, data: bytes) -> str:
        """Whether ``data`` is read again, which only what was written may be."""
        self.path.unlink()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        found = cache.read(self.path)
        if found not in (None, self.data):
            raise AssertionError("a damaged file was read")
        return "built anew" if found is None else "read"


def _with_weights(folder: Path) -> Path:
    """The bundle in ``folder`` with its weights in a file of their own."""
    manifest = bundle.read(folder).manifest
    (folder / WEIGHTS).unlink(missing_ok=True)
    for graph in manifest.graphs:
        model = onnx.load(folder / graph.file)
        for tensor in model.graph.initializer:
            # Integers are axes and shapes, which ONNX Runtime wants to see in the graph.
            if tensor.data_type == onnx.TensorProto.FLOAT:
                set_external_data(tensor, WEIGHTS)
        onnx.save(model, folder / graph.file)
    files = {name: digest(folder / name) for name in (*manifest.files, WEIGHTS)}
    bundle.write_manifest(folder, msgspec.structs.replace(manifest, files=files))
    return folder
