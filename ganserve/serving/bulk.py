"""Makes the parts of a bulk run: rows go through the plan, the batches and the encoders that a server's calls go through."""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import numpy as np

from ganserve.bulk import DIGITS, Part, Run
from ganserve.bulk_files import Store, Writer
from ganserve.codecs import EncodeOptions, Signer
from ganserve.errors import InvalidArgument
from ganserve.serving.call import SEED, Ask
from ganserve.serving.model import Model
from ganserve.serving.offline import results_of
from ganserve.serving.results import Result

ENDINGS = {"npy-float": "npy", "jpeg": "jpg"}
"""File name endings of formats that are not called like them."""


class Making:
    """What ``run`` asks of ``model``, ``rows`` images at a time; :class:`InvalidArgument` for a direction that its task has not.

    ``signer`` signs the files of a run whose marks are signed. A batch that takes more than ``patience`` seconds hangs.
    """

    def __init__(
        self, run: Run, model: Model, rows: int, signer: Signer | None = None, patience: float | None = None
    ) -> None:
        self._run, self._model, self._rows, self._patience = run, model, rows, patience
        self._marks: dict[str, Any] = {"provenance": run.marks != "none", "signer": signer}
        self._task = model.task(run.task, "sample")
        self._label = next((source.tensor for source in self._task.task.inputs if source.codec == "label"), None)
        known = ", ".join(self._task.directions) or "none"
        for name in run.directions:
            if name not in self._task.directions:
                raise InvalidArgument.of(f"directions[{name}]", f"the task has no such direction; it has {known}")

    async def make(self, parts: Sequence[Part], store: Store) -> AsyncGenerator[Part]:
        """Make ``parts`` and put them into ``store``, each as soon as it is whole; :class:`ganserve.errors.Unavailable` where the engine hangs."""
        asks = (self._ask(start, stop) for part in parts for start, stop in self._pieces(part))
        async with contextlib.aclosing(
            results_of(asks, max_rows=self._rows, device=self._run.device, patience=self._patience, **self._marks)
        ) as answers:
            for part in parts:
                # Before anything is written: what is wrong with the run shows in its first results.
                results = await anext(answers)
                with store.writing(part) as writer:
                    self._add(results, part.start, writer)
                    for start, _ in self._pieces(part)[1:]:
                        self._add(await anext(answers), start, writer)
                yield part

    def _add(self, results: Sequence[Result], start: int, writer: Writer) -> None:
        for index, result in enumerate(results, start):
            ending = ENDINGS.get(result.media.format, result.media.format)
            writer.add(f"{index:0{DIGITS}d}", f".{ending}", result.media.data, self._facts(index, result))

    def _pieces(self, part: Part) -> list[tuple[int, int]]:
        """From where up to where the asks for ``part`` go."""
        starts = range(part.start, part.stop, self._rows)
        return [(start, min(start + self._rows, part.stop)) for start in starts]

    def _ask(self, start: int, stop: int) -> Ask:
        run, rows = self._run, stop - start
        seeds = np.empty((rows, 2), np.uint64)
        seeds[:, 0], seeds[:, 1] = run.seed, np.arange(start, stop)
        values: dict[str, Any] = {SEED: seeds}
        if run.labels:
            values["label"] = [run.label(index) for index in range(start, stop)]
        if run.truncation is not None:
            values["truncation"] = [run.truncation] * rows
        values |= {name: [number] * rows for name, number in run.numbers.items()}
        return Ask(
            model=self._model,
            task=self._task,
            rows=rows,
            values=values,
            tensors={},
            returns=(self._label,) if self._label else (),
            encode=EncodeOptions(format=run.format, quality=run.quality),
            directions={name: np.full(rows, strength, np.float32) for name, strength in run.directions.items()},
        )

    def _facts(self, index: int, result: Result) -> dict[str, Any]:
        """What the reader of an image may want to know: where it was drawn from, and its class."""
        facts = {"seed": self._run.seed, "index": index}
        return facts if self._label is None else facts | {"label": int(result.tensors[self._label])}
