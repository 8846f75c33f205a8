"""Where the parts of a bulk run are stored: a folder of files, or a tar file that WebDataset reads; each appears when it is whole.

A part is written under a temporary name and renamed at its end. What a killed worker left is removed by whoever makes the part again.
"""

import contextlib
import io
import os
import secrets
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ganserve.bulk import Container, Part, Run
from ganserve.errors import GanserveError

RUN = "run.json"
"""The file that says which run the parts of a folder belong to."""

SUFFIXES: Mapping[Container, str] = {"files": "", "tar": ".tar"}


class Writer(Protocol):
    """A part that is being written."""

    def add(self, name: str, suffix: str, data: bytes, facts: Mapping[str, Any]) -> None:
        """Store one result, ``name`` + ``suffix``, and what is known of it."""


class Store:
    """The folder ``out`` of ``run``, which is made and claimed for it with the first part. :class:`GanserveError` if it holds another run."""

    def __init__(self, out: Path, run: Run) -> None:
        self._out, self._run = out, run
        if (out / RUN).exists():
            self._check_same()

    def path(self, part: Part) -> Path:
        """Where ``part`` is when it is whole."""
        return self._out / f"{self._run.model}-{part.number:06d}{SUFFIXES[self._run.container]}"

    @contextlib.contextmanager
    def writing(self, part: Part) -> Iterator[Writer]:
        """A writer of ``part``, which takes its place when the block ends well and leaves nothing when it does not."""
        path = self.path(part)
        with self._told(), contextlib.ExitStack() as stack:
            self._claim()
            for left in self._out.glob(f".{path.name}.*.tmp"):
                _remove(left)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            stack.callback(_remove, temporary)
            with _Tar(temporary) if self._run.container == "tar" else _Files(temporary) as writer:
                yield writer
            try:
                temporary.rename(path)
            except OSError:
                # A folder cannot take the place of another: a second worker with the same shard was faster, with the same bytes.
                if not path.exists():
                    raise

    def _claim(self) -> None:
        path = self._out / RUN
        if not path.exists():
            self._out.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{RUN}.{secrets.token_hex(4)}.tmp")
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(self._run), indent=2) + b"\n")
            temporary.replace(path)
        self._check_same()

    def _check_same(self) -> None:
        path = self._out / RUN
        try:
            before = msgspec.json.decode(path.read_bytes(), type=Run)
        except msgspec.DecodeError as error:
            raise GanserveError(f"{path} describes no run ({error}); choose another --out") from error
        self._run.check_same(before, str(self._out))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise GanserveError(
                f"cannot write to {self._out}: {error}; what is complete there stays, and the same command goes on from it"
            ) from error


class _Files:
    """A folder: one file a result, and ``metadata.jsonl`` as Hugging Face's image folders have it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> "_Files":
        self._folder.mkdir()
        self._metadata = (self._folder / "metadata.jsonl").open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._metadata.close()

    def add(self, name: str, suffix: str, data: bytes, facts: Mapping[str, Any]) -> None:
        """:meth:`Writer.add`."""
        (self._folder / f"{name}{suffix}").write_bytes(data)
        self._metadata.write(msgspec.json.encode({"file_name": f"{name}{suffix}", **facts}) + b"\n")


class _Tar:
    """A tar file as WebDataset reads it: ``name.png`` and ``name.json`` make one sample. Its bytes depend on its members alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> "_Tar":
        self._file = self._path.open("xb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None:
                self._tar.close()
                self._file.flush()
                # The name must not outlive a power cut that the bytes do not.
                os.fsync(self._file.fileno())

    def add(self, name: str, suffix: str, data: bytes, facts: Mapping[str, Any]) -> None:
        """:meth:`Writer.add`."""
        for member, content in ((f"{name}{suffix}", data), (f"{name}.json", msgspec.json.encode(facts))):
            info = tarfile.TarInfo(member)  # of nobody, from 1970
            info.size = len(content)
            self._tar.addfile(info, io.BytesIO(content))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
