"""Files that are damaged: those of a bundle, whose digests are right all the same, as whoever damages one on purpose would have them; and
what an engine has built and kept.
"""

import hashlib
import os
import shutil
from pathlib import Path

import msgspec
import onnx
from onnx.external_data_helper import set_external_data

from bench.chaos.mutation import Target
from ganserve import bundle
from ganserve.bundle import MANIFEST, digest
from ganserve.engines import cache
from ganserve.errors import GanserveError
from ganserve.plugins import installed
from ganserve.serving.model import Settings, load_model
from ganserve.testing.captions import TOKENIZER
from ganserve.testing.echo import write_bundle
from ganserve.testing.echo_text import write_text_bundle

WEIGHTS = "weights.bin"
LIMITS = bundle.Limits()
DIGEST_BYTES = hashlib.sha256().digest_size


class Bundles:
    """The echo bundle, and of the one that reads prompts the manifest and the tokenizer; an input's first byte says which file the rest is."""

    def __init__(self, folder: Path) -> None:
        echo = _with_weights(write_bundle(folder / "whole" / "echo", tasks=("sample",)))
        text = write_text_bundle(folder / "whole" / "text")
        self.damaged = folder / "damaged"
        shutil.copytree(folder / "whole", self.damaged)
        self.manifests = {whole: bundle.read(whole).manifest for whole in (echo, text)}
        self.files = [(echo, name) for name in (MANIFEST, *self.manifests[echo].files)]
        self.files += [(text, name) for name in (MANIFEST, TOKENIZER)]

    def target(self) -> Target:
        """The target."""
        seeds = [bytes([n]) + (whole / name).read_bytes() for n, (whole, name) in enumerate(self.files)]
        return Target(seeds, self.judge)

    def judge(self, data: bytes) -> str:
        """What comes of loading the bundle: served, or refused, and by whom."""
        if not data:
            return "empty"
        whole, name = self.files[data[0] % len(self.files)]
        folder, manifest, told = self.damaged / whole.name, self.manifests[whole], f"{whole.name} {name}"
        (folder / name).write_bytes(data[1:])
        try:
            if name != MANIFEST:
                files = {**manifest.files, name: digest(folder / name)}
                bundle.write_manifest(folder, msgspec.structs.replace(manifest, files=files))
            load_model(bundle.read(folder), installed(), Settings(threads=1, max_batch=2)).close()
        except GanserveError as error:
            # Without what stands for the bundle and the file.
            text = str(error).rpartition("damaged/")[2].partition(": ")[2] or str(error).partition(": ")[2]
            words = [word for word in text.split()[:20] if word.isalpha()]
            return f"{told}: {type(error).__name__} {' '.join(words[:12])}"
        finally:
            for restored in (name, MANIFEST):
                shutil.copyfile(whole / restored, folder / restored)
        return f"{told}: served"


class Caches:
    """Files that an engine has built and kept."""

    def __init__(self, folder: Path) -> None:
        self.path, self.data = folder / "engine", bytes(range(256)) * 4
        cache.write(self.path, self.data)
        self.whole = self.path.read_bytes()

    def target(self) -> Target:
        """The target."""
        return Target([self.whole], self.judge)

    def judge(self, data: bytes) -> str:
        """Whether ``data`` is read again, which only what was written may be; if not, how it differs from that."""
        self.path.unlink()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        found = cache.read(self.path)
        if found not in (None, self.data):
            raise AssertionError("a damaged file was read")
        if found is not None:
            return "read"
        size = "shorter" if len(data) < len(self.whole) else "longer" if len(data) > len(self.whole) else "as long"
        pairs = [(data[part], self.whole[part]) for part in (slice(DIGEST_BYTES), slice(DIGEST_BYTES, None))]
        differs = [what for what, (now, then) in zip(("digest", "contents"), pairs, strict=True) if now != then]
        return f"built anew: {size}, other {' and '.join(differs)}"


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
