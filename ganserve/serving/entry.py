"""A bundle that a server has found, and what became of it."""

import asyncio
from pathlib import Path
from typing import Literal

import msgspec

from ganserve.serving.finding import Found, Stamp
from ganserve.serving.model import Model

State = Literal["loading", "idle", "ready", "failed", "unloaded"]


class Entry(msgspec.Struct, eq=False):
    """A bundle that was found. An ``idle`` one is loaded by its first call.

    ``reason`` says why it does not serve, or in what its model is not what it ought to be.
    """

    found: Found
    state: State = "loading"
    reason: str = ""
    model: Model | None = None
    tried: Stamp | None = None
    """What its folder was like when it was last loaded, or failed to be; None once it has been put away."""
    failed: bool = False
    """Whether the last attempt failed; what was there before may serve yet."""
    gone: bool = False
    """Whether its folder is there no more."""
    hung: bool = False
    """Whether it does not answer because its engine hangs: its sessions are being replaced, or could not be."""
    waiting: int = 0
    """The calls that wait until it is loaded."""
    awake: asyncio.Future[None] | None = None
    """What they wait for."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.found.name

    @property
    def version(self) -> int:
        """The model's version, 0 where it is not known."""
        return self.found.version

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.found.folder

    @property
    def able(self) -> bool:
        """Whether it can answer a call, maybe after it has been loaded."""
        return self.state in ("ready", "idle")

    def rouse(self, task: asyncio.Task[None] | None = None) -> None:
        """Have the calls that wait look again, or raise what ``task`` raised."""
        awake, self.awake = self.awake, None
        if awake is not None and task is not None and (error := task.exception()) is not None:
            awake.set_exception(error)
        elif awake is not None:
            awake.set_result(None)
