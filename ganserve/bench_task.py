"""One task of a bundle as it is measured: rows for the engine alone, and requests that make a server run such rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ganserve import golden
from ganserve.bundle import Bundle, ExportedGraph, read
from ganserve.codecs.tokens import EXAMPLES
from ganserve.engines import Options, Session
from ganserve.errors import GanserveError
from ganserve.plugins import installed, resolve
from ganserve.serving.model import EngineChoice
from ganserve.spec import Step, Task
from ganserve.v1 import generation_pb2 as pb
from ganserve.v1 import generation_pb2_grpc, media_pb2, text_pb2, text_pb2_grpc

ENGINE = "onnxruntime"

LONGEST = max(EXAMPLES, key=len)
"""How prompts begin: as long as the golden rows, which are padded to the longest example."""

RAW = media_pb2.OutputOptions(image_format=media_pb2.IMAGE_FORMAT_RAW)

_LARGE = 1 << 30


class Measured(msgspec.Struct, frozen=True, eq=False):
    """A task whose steps are ``graphs``, one but for text to image. The bundle's golden rows are what they run on, sizes and all."""

    bundle: Bundle
    task: Task
    graphs: tuple[ExportedGraph, ...]

    def runs(self, engine: str, threads: int) -> Callable[[int], Callable[[], np.ndarray]]:
        """For a number of rows, what runs so many golden ones through every graph and gives the last one's first output.

        On ``engine``, written NAME or NAME:PRECISION, with ``threads`` threads.
        """
        choice = EngineChoice.parse(engine)
        sessions: list[tuple[ExportedGraph, Session]] = []
        for graph in self.graphs:
            options = Options(graph=graph, precision=choice.precision, threads=threads)
            load = resolve(installed().engine(choice.name).load)
            sessions.append((graph, load(self.bundle.path(graph.file), options)))

        def of(rows: int) -> Callable[[], np.ndarray]:
            feeds = {graph.name: self._uploaded(graph, session, rows) for graph, session in sessions}

            def run() -> np.ndarray:
                for graph, session in sessions:
                    names = [tensor.name for tensor in graph.outputs]
                    made = session.download(session.run(feeds[graph.name], names)[names[0]])
                return made

            return run

        return of

    def _uploaded(self, graph: ExportedGraph, session: Session, rows: int) -> dict[str, Any]:
        found = golden.inputs(self.bundle, graph)
        return {name: session.upload(np.resize(array, (rows, *array.shape[1:]))) for name, array in found.items()}

    def call(self, channel: Any) -> Any:
        """The rpc that runs the task, on ``channel``."""
        generation = generation_pb2_grpc.GenerationStub(channel)
        kinds = {"sample": generation.Sample, "translate": generation.Translate}
        return (kinds | {"text_to_image": text_pb2_grpc.TextStub(channel).TextToImage})[self.task.kind]

    def request(
        self, seed: int, index: int, rows: int
    ) -> pb.SampleRequest | pb.TranslateRequest | text_pb2.TextToImageRequest:
        """A call for ``rows`` rows from (``seed``, ``index``), pictures and results without a file format.

        Every prompt is another one, for equal ones would be encoded once.
        """
        name = self.bundle.manifest.name
        if self.task.kind == "text_to_image":
            prompts = [f"{LONGEST} {seed} {index + row}" for row in range(rows)]
            return text_pb2.TextToImageRequest(
                model=name, task=self.task.name, prompts=prompts, seed=seed, output=RAW, max_reply_bytes=_LARGE
            )
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
        (step,), (graph,) = self.task.steps, self.graphs
        rows = golden.inputs(self.bundle, graph)
        tensors = {name: rows[port][0] for port, name in step.reads(graph).items()}
        return {source.reads[0]: _raw(tensors[source.tensor]) for source in self.task.inputs if source.codec == "image"}


def measured(folder: Path, task: str = "") -> Measured:
    """The task called ``task`` of the bundle in ``folder``, or its first that can be measured; :class:`GanserveError` without one."""
    bundle = read(folder)
    for one in bundle.manifest.tasks:
        steps = [step for step in one.steps if isinstance(step, Step)]
        short = len(steps) == 1 if one.kind in ("sample", "translate") else one.kind == "text_to_image"
        if task in ("", one.name) and short and len(steps) == len(one.steps):
            return Measured(bundle, one, tuple(bundle.manifest.graph(step.graph) for step in steps))
    names = ", ".join(one.name for one in bundle.manifest.tasks)
    raise GanserveError(
        f"bundle {bundle.manifest.name!r} has no task{f' {task!r}' if task else ''} that can be measured, among {names}: expected one of kind "
        "sample or translate whose steps are a single graph, or text_to_image"
    )


def _raw(pixels: np.ndarray) -> media_pb2.Image:
    height, width, channels = pixels.shape
    return media_pb2.Image(
        format=media_pb2.IMAGE_FORMAT_RAW, data=pixels.tobytes(), width=width, height=height, channels=channels
    )
