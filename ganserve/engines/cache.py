"""What engines have built, kept from one start to the next. A built engine is code, so it is taken from nobody else.

A file is written whole or not at all, belongs to this user and to no other, and begins with the digest of the rest, which is compared
whenever the file is read: what a disk has damaged is built anew.
"""

import hashlib
import logging
import os
import stat
import threading
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo

from ganserve.errors import EngineError

log = logging.getLogger(__name__)

_OWNER_ONLY = stat.S_IRUSR | stat.S_IWUSR
_DIGEST_BYTES = hashlib.sha256().digest_size


def private_folder(folder: Path) -> Path:
    """``folder``, made if missing, for an engine that keeps files there by itself; :class:`EngineError` where others could write to it."""
    folder.mkdir(parents=True, exist_ok=True, mode=stat.S_IRWXU)
    found = folder.lstat()
    others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or others:
        raise EngineError(
            f"{folder} would keep built engines, which are code, and others may write to it; make it a folder of this user's: chmod 700"
        )
    return folder


def key(graph_file: Path, *others: object) -> str:
    """A digest of all that an engine depends on: the graph, its weights, and ``others``, told apart by their ``repr``.

    Raises :class:`EngineError` if one of the files cannot be read.
    """
    digest = hashlib.sha256(repr(others).encode())
    for path in (graph_file, *_external_files(graph_file)):
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise EngineError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _external_files(graph_file: Path) -> list[Path]:
    try:
        model = onnx.load(graph_file, load_external_data=False)
    except Exception as error:  # protobuf's own exception type differs between its implementations
        raise EngineError(f"{graph_file} is not an ONNX file: {error}") from error
    names = {
        ExternalDataInfo(tensor).location
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    return [graph_file.parent / name for name in sorted(names)]


def read(path: Path) -> bytes | None:
    """What :func:`write` has kept at ``path``; None if there is nothing that this user wrote and that is whole."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    found = os.fstat(descriptor)
    if found.st_uid != os.getuid() or found.st_mode != stat.S_IFREG | _OWNER_ONLY:
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        digest, data = file.read(_DIGEST_BYTES), file.read()
    return data if hashlib.sha256(data).digest() == digest else None


def keep(path: Path, data: bytes) -> None:
    """:func:`write` for an engine that is about to serve: where there is no room it serves all the same, and is built anew the next time."""
    try:
        write(path, data)
    except EngineError as error:
        log.warning("%s; until then the engine is built at every start", error)


def write(path: Path, data: bytes) -> None:
    """Keep ``data`` at ``path``, in a folder that is made if missing; :class:`EngineError` where it cannot be written."""
    try:
        _write(path, data)
    except OSError as error:
        raise EngineError(
            f"the built engine of {len(data)} bytes cannot be kept at {path}: {error.strerror}; make room there, or name another folder"
        ) from error


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=stat.S_IRWXU)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(data).digest())
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
