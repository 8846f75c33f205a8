"""Bundles from elsewhere: an object store, a registry of OCI artifacts, a web server, another folder.

Whoever fetches says the SHA-256 of the bundle's ``manifest.json``. It is compared before the manifest is parsed, and the manifest holds
size and digest of every other file, which are compared before that file is; so the place that a bundle comes from need not be trusted. A
bundle appears in its folder whole or not at all.
"""

import hashlib
import importlib
import inspect
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from ganserve.bundle import MANIFEST, Limits, digest, read, read_manifest
from ganserve.errors import BundleError

CHUNK = 1 << 20
"""Bytes that are read at once."""

REPLY_SECONDS = 60
"""How long a registry may say nothing."""

OCI = "oci://"
_TITLE = "org.opencontainers.image.title"

Chunks: TypeAlias = Iterator[bytes]
Open: TypeAlias = Callable[[str], Chunks]
"""Takes the name of one of the bundle's files; gives its bytes."""


def fetch(source: str, root: Path, sha256: str, *, insecure: bool = False) -> Path:
    """Bring the bundle at ``source`` to ``<root>/<name>/<version>`` and return that; one that is there already is left as it is.

    ``source`` is ``oci://registry/repository:tag``, any URL that fsspec opens (``s3://bucket/folder``, ``https://…``), or a folder. A
    registry is asked over plain HTTP if ``insecure``. Raises :class:`BundleError` for anything that is not what ``sha256`` promises.
    """
    opened = _registry(source, insecure) if source.startswith(OCI) else _files(source)
    root.mkdir(parents=True, exist_ok=True)
    # Names that begin with a dot are passed over by a server that watches the folder.
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=root) as made:
        folder = Path(made) / "bundle"
        folder.mkdir()
        _take(source, opened, folder, MANIFEST, Limits().manifest_bytes, sha256)
        manifest = read_manifest(folder)
        place = root / manifest.name / str(manifest.version)
        if place.exists():
            return _same(place, sha256)
        if (total := sum(file.size for file in manifest.files.values())) > Limits().total_bytes:
            raise BundleError(f"{source} has {total} bytes, at most {Limits().total_bytes} are fetched")
        for name, file in manifest.files.items():
            _take(source, opened, folder, name, file.size, file.sha256)
        read(folder)
        place.parent.mkdir(exist_ok=True)
        try:
            folder.rename(place)
        except OSError:
            # Somebody else has fetched it meanwhile, or the rename failed for a reason of its own.
            if not place.exists():
                raise
            return _same(place, sha256)
    return place


def _take(source: str, opened: Open, folder: Path, name: str, most: int, sha256: str) -> None:
    """Copy one file; it is there only if it is what it should be."""
    found, size = hashlib.sha256(), 0
    try:
        with (folder / name).open("xb") as file, closing(opened(name)) as chunks:  # type: ignore[type-var]
            for chunk in chunks:
                size += len(chunk)
                if size > most:
                    raise BundleError(
                        f"{source}: {name} has more than {most} bytes; it is not the file that was promised"
                    )
                found.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except BundleError:
        raise
    except Exception as error:  # every store has exceptions of its own
        raise BundleError(f"{source}: {name} cannot be fetched: {type(error).__name__}: {error}") from error
    if found.hexdigest() != sha256:
        raise BundleError(
            f"{source}: {name} has sha256 {found.hexdigest()}, expected {sha256}; nothing of it was parsed, and nothing is kept"
        )


def _same(place: Path, sha256: str) -> Path:
    if digest(place / MANIFEST).sha256 != sha256:
        raise BundleError(
            f"{place} holds another bundle of this version; export the new one with another version, or move it away"
        )
    return place


def _files(source: str) -> Open:
    """The files below a folder or URL."""
    fsspec = _import("fsspec")
    try:
        files, path = fsspec.core.url_to_fs(source)
    except (ImportError, ValueError) as error:
        raise BundleError(
            f"{source} cannot be opened: {error}; pip install 'ganserve[remote]' brings S3 and web servers"
        ) from error

    def chunks(name: str) -> Chunks:
        with files.open(f"{path.rstrip('/')}/{name}", "rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    return chunks


def _registry(source: str, insecure: bool) -> Open:
    """The layers of an OCI artifact, by the names that ``oras push`` gives them."""
    client = _client(insecure)
    try:
        container = client.get_container(source.removeprefix(OCI))
        layers = client.get_manifest(container)["layers"]
        blobs: dict[str, Any] = {layer.get("annotations", {}).get(_TITLE): layer["digest"] for layer in layers}
    except Exception as error:  # from requests, jsonschema or oras itself
        raise BundleError(
            f"{source} cannot be read: {type(error).__name__}: {error}; expected what `oras push` made, and a `docker login` where it is private"
        ) from error

    def chunks(name: str) -> Chunks:
        if name not in blobs:
            raise BundleError(f"{source} has no file {name!r}; push every file of the bundle by its name")
        with client.get_blob(container, blobs[name], stream=True) as reply:
            reply.raise_for_status()
            yield from reply.iter_content(CHUNK)

    return chunks


def _client(insecure: bool) -> Any:
    """oras, which says at once what is wrong: by itself it tries for two minutes in silence, even where a login is refused."""
    made = _import("oras.client").OrasClient(insecure=insecure)
    made.do_request = partial(inspect.unwrap(type(made).do_request), made)
    made.session.request = partial(made.session.request, timeout=REPLY_SECONDS)
    return made


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BundleError(f"fetching needs {name.partition('.')[0]}: pip install 'ganserve[remote]'") from error
