"""One task of a bundle as it is measured: rows for the engine alone, and requests that make a server run such rows."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ganserve import golden
from ganserve.bundle import Bundle, ExportedGraph, read
from ganserve.engines import Options, Session
from ganserve.errors import GanserveError
from ganserve.plugins import installed, resolve
from ganserve.serving.model import EngineChoice
from ganserve.spec import Step, Task
from ganserve.v1 import generation_pb2 as pb
from ganserve.v1 import media_pb2

ENGINE = "onnxruntime"

RAW = media_pb2.OutputOptions(image_format=media_pb2.IMAGE_FORMAT_RAW)

_LARGE = 1 << 30


class Measured(msgspec.Struct, frozen=True, eq=False):
    """A sample or translate task whose one step is a graph. The bundle's golden rows are what it runs on, sizes and all."""

    bundle: Bundle
    task: Task
    graph: ExportedGraph

    def session(self, engine: str, threads: int) -> Session:
        """The graph on ``engine``, written NAME or NAME:PRECISION, with ``threads`` threads."""
        choice = EngineChoice.parse(engine)
        options = Options(graph=self.graph, precision=choice.precision, threads=threads)
        session: Session = resolve(installed().engine(choice.name).load)(self.bundle.path(self.graph.file), options)
        return session

    def rows(self, count: int) -> dict[str, np.ndarray]:
        """``count`` rows for the graph: the golden ones, as often as needed."""
        found = golden.inputs(self.bundle, self.graph)
        return {name: np.resize(array, (count, *array.shape[1:])) for name, array in found.items()}

    def outputs(self) -> list[str]:
        """What the graph makes."""
        return [tensor.name for tensor in self.graph.outputs]

    def method(self) -> str:
        """The rpc of ``ganserve.v1.Generation`` that runs the task."""
        return {"sample": "Sample", "translate": "Translate"}[self.task.kind]

    def request(self, seed: int, index: int, rows: int) -> pb.SampleRequest | pb.TranslateRequest:
        """A call for ``rows`` rows from (``seed``, ``index``), pictures and results without a file format."""
        name = self.bundle.manifest.name
        if self.task.kind == "sample":
            return pb.SampleRequest(
                model=name,
                task=self.task.name,
                count=rows,
                seed=seed,
                first_index=index,
                output=RAW,
                max_reply_bytes=_LARGE,
            )
        drawn: dict[str, Any] = {"seed": seed, "index": index} if "seed" in self.task.values() else {}
        return pb.TranslateRequest(
            model=name, task=self.task.name, images=self._pictures(), output=RAW, max_reply_bytes=_LARGE, **drawn
        )

    def _pictures(self) -> dict[str, media_pb2.Image]:
        (step,) = self.task.steps
        rows = golden.inputs(self.bundle, self.graph)
        tensors = {name: rows[port][0] for port, name in step.reads(self.graph).items()}
        return {source.reads[0]: _raw(tensors[source.tensor]) for source in self.task.inputs if source.codec == "image"}


def measured(folder: Path, task: str = "") -> Measured:
    """The task called ``task`` of the bundle in ``folder``, or its first that can be measured; :class:`GanserveError` without one."""
    bundle = read(folder)
    for one in bundle.manifest.tasks:
        steps = [step for step in one.steps if isinstance(step, Step)]
        if task in ("", one.name) and one.kind in ("sample", "translate") and len(one.steps) == len(steps) == 1:
            return Measured(bundle, one, bundle.manifest.graph(steps[0].graph))
    names = ", ".join(one.name for one in bundle.manifest.tasks)
    raise GanserveError(
        f"bundle {bundle.manifest.name!r} has no task{f' {task!r}' if task else ''} that can be measured, among {names}: expected one of kind "
        "sample or translate whose steps are a single graph"
    )


def _raw(pixels: np.ndarray) -> media_pb2.Image:
    height, width, channels = pixels.shape
    return media_pb2.Image(
        format=media_pb2.IMAGE_FORMAT_RAW, data=pixels.tobytes(), width=width, height=height, channels=channels
    )
