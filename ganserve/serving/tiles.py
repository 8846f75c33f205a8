"""Pictures too large to run whole: cut into overlapping tiles of one size, run as rows, and put together again.

An output pixel of a graph with a ``radius`` depends on no input pixel farther away than that. So each tile gives the result
what lies at least the radius away from its inner edges, and the seams cannot be seen. Tiles begin at multiples of what the
graph takes: a network that halves its input twice sees each of them in the same phase as the whole.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import msgspec
import numpy as np

from ganserve.errors import EngineError, InvalidArgument
from ganserve.serving.jobs import Arrays
from ganserve.serving.plan import Plan
from ganserve.serving.runner import Piece
from ganserve.serving.stage import GraphRun, Stage
from ganserve.serving.task import LoadedTask
from ganserve.spec import Tensor


class Axis(msgspec.Struct, frozen=True):
    """The tiles along one side: ``count`` of ``size`` pixels each, on ``whole`` pixels, giving up ``margin`` at each inner edge."""

    whole: int
    size: int
    count: int
    margin: int

    def start(self, number: int) -> int:
        """Where tile ``number`` begins; the last one ends where the whole does."""
        return min(number * (self.size - 2 * self.margin), self.whole - self.size)

    def kept(self, number: int) -> tuple[int, int]:
        """From where to where tile ``number`` gives the result; these parts meet and do not overlap."""
        low = self.start(number) + self.margin if number else 0
        high = self.start(number + 1) + self.margin if number + 1 < self.count else self.whole
        return low, high


class Grid(msgspec.Struct, frozen=True):
    """Overlapping tiles over a canvas, row by row."""

    down: Axis
    across: Axis

    @property
    def tiles(self) -> int:
        """How many there are."""
        return self.down.count * self.across.count

    def axes(self, tile: int) -> tuple[tuple[Axis, int], tuple[Axis, int]]:
        """Each axis with the number that ``tile`` has along it."""
        down, across = divmod(tile, self.across.count)
        return (self.down, down), (self.across, across)


def lay(height: int, width: int, *, radius: int, multiple: int, most_pixels: int) -> Grid | None:
    """The grid over a canvas (whose sides are multiples of ``multiple``) that computes the fewest pixels; None if none fits.

    A tile has at most ``most_pixels``, sides that are multiples of ``multiple``, and begins at one.
    """
    # Counted in units of `multiple` from here on.
    high, wide = height // multiple, width // multiple
    margin = -(-radius // multiple)
    most = most_pixels // multiple**2
    best: tuple[int, Grid] | None = None
    for rows in range(1, max(1, high - 2 * margin) + 1):
        size = _size(high, rows, margin)
        columns = _count(wide, most // size, margin)
        if columns is None:
            continue
        down, across = (
            Axis(whole * multiple, _size(whole, count, margin) * multiple, count, margin * multiple)
            for whole, count in ((high, rows), (wide, columns))
        )
        cost = rows * down.size * columns * across.size
        if best is None or cost < best[0]:
            best = cost, Grid(down, across)
        if columns == 1:
            break
    return None if best is None else best[1]


def _size(whole: int, count: int, margin: int) -> int:
    """The smallest tiles of which ``count`` cover ``whole``, neighbours overlapping by two margins."""
    return -(-(whole + 2 * margin * (count - 1)) // count)


def _count(whole: int, size: int, margin: int) -> int | None:
    """How few tiles of at most ``size`` cover ``whole``; None if they cannot."""
    if size >= whole:
        return 1
    return -(-(whole - 2 * margin) // (size - 2 * margin)) if size > 2 * margin else None


class Tiling:
    """One request run in tiles: its row becomes ``grid.tiles`` rows of the tensors ``cut``; other tensors go to every tile.

    The tensors ``made`` are put together again as the rows come. Nothing here waits, but all of it copies pictures: call it off
    the event loop.
    """

    def __init__(self, grid: Grid, cut: frozenset[str], made: tuple[str, ...]) -> None:
        self.grid, self._cut_names, self._made_names = grid, cut, made
        self._missing = grid.tiles
        self._results: dict[str, np.ndarray] = {}

    def rows(self, tensors: Arrays) -> dict[str, np.ndarray]:
        """The tiles of ``tensors`` [1, ...], one a row."""
        return {
            name: self._cut(array[0]) if name in self._cut_names else self._spread(array)
            for name, array in tensors.items()
        }

    def add(self, piece: Piece, tensors: Arrays) -> Piece | None:
        """Take some finished tiles; with the last of them, the one row that they are of, its ``tensors`` uncut."""
        for name in self._made_names:
            for tile, part in zip(piece.rows, piece.tensors[name], strict=True):
                self._place(name, int(tile), part)
        self._missing -= len(piece.rows)
        if self._missing:
            return None
        return Piece(np.zeros(1, np.int64), {**tensors, **{name: array[None] for name, array in self._results.items()}})

    def _cut(self, array: np.ndarray) -> np.ndarray:
        down, across = self.grid.down.size, self.grid.across.size
        tiles = np.empty((self.grid.tiles, down, across, *array.shape[2:]), array.dtype)
        for tile in range(self.grid.tiles):
            top, left = (axis.start(number) for axis, number in self.grid.axes(tile))
            tiles[tile] = array[top : top + down, left : left + across]
        return tiles

    def _spread(self, array: np.ndarray) -> np.ndarray:
        return np.broadcast_to(array, (self.grid.tiles, *array.shape[1:]))

    def _place(self, name: str, tile: int, part: np.ndarray) -> None:
        axes = self.grid.axes(tile)
        scales = [Fraction(have, axis.size) for have, (axis, _) in zip(part.shape, axes, strict=False)]
        if name not in self._results:
            sides = [_whole(name, axis.whole * scale) for scale, (axis, _) in zip(scales, axes, strict=True)]
            self._results[name] = np.empty((*sides, *part.shape[2:]), part.dtype)
        into, out_of = [], []
        for scale, (axis, number) in zip(scales, axes, strict=True):
            low, high = (_whole(name, side * scale) for side in axis.kept(number))
            start = _whole(name, axis.start(number) * scale)
            into.append(slice(low, high))
            out_of.append(slice(low - start, high - start))
        self._results[name][tuple(into)] = part[tuple(out_of)]


def _whole(name: str, side: Fraction) -> int:
    if side.denominator > 1:
        raise EngineError(
            f"a tile's {name!r} ends between two pixels, at {float(side):.2f}; a graph with a radius scales evenly"
        )
    return int(side)


def tiling(
    task: LoadedTask, plan: Plan, tensors: Arrays, wanted: Sequence[str], fields: Mapping[str, str]
) -> Tiling | None:
    """How to run one row of ``tensors`` in tiles, None where its pictures fit whole.

    Raises :class:`InvalidArgument` for a picture that neither fits nor can be cut; ``fields`` says what each tensor is called
    in a request.
    """
    large = [name for name in task.pictures if name in tensors and _is_large(task, name, tensors[name])]
    if not large:
        return None
    ruling, run = task.ruling, _only_run(plan)
    if run is None or run.loaded.graph.radius is None or ruling is None or ruling not in tensors:
        raise _too_large(task, large[0], tensors, fields, "its every pixel depends on all of them")
    ports = {name: run.loaded.graph.input(port) for port, name in run.inputs.items()}
    cut = frozenset(name for name, port in ports.items() if _sides(port) == _sides(ports[ruling]))
    if whole := [name for name in large if name not in cut]:
        raise _too_large(task, whole[0], tensors, fields, "it is not cut into tiles with the others")
    made = {name: run.loaded.graph.output(port) for port, name in run.outputs.items() if name in wanted}
    if flat := [name for name, port in made.items() if not _is_spatial(port)]:
        raise _too_large(task, large[0], tensors, fields, f"{flat[0]!r} cannot be put together from tiles")
    height, width = tensors[ruling].shape[1:3]
    grid = lay(
        height,
        width,
        radius=run.loaded.graph.radius,
        multiple=math.lcm(*(port.multiple for name, port in ports.items() if name in cut)),
        most_pixels=min(decoder.max_pixels for name, decoder in task.pictures.items() if name in cut),
    )
    if grid is None:
        raise _too_large(task, large[0], tensors, fields, f"no tile holds its radius of {run.loaded.graph.radius}")
    return Tiling(grid, cut, tuple(made))


def _is_large(task: LoadedTask, name: str, array: np.ndarray) -> bool:
    return _is_spatial(task.tensors[name]) and math.prod(array.shape[1:3]) > task.pictures[name].max_pixels


def _only_run(plan: Plan) -> GraphRun | None:
    match plan.segments:
        case (Stage(runs=(run,)),):
            return run
    return None


def _sides(tensor: Tensor) -> tuple[int | str, ...]:
    return tensor.shape[:2]


def _is_spatial(tensor: Tensor) -> bool:
    return len(tensor.shape) >= 2 and all(isinstance(side, str) for side in _sides(tensor))


def _too_large(task: LoadedTask, name: str, tensors: Arrays, fields: Mapping[str, str], reason: str) -> InvalidArgument:
    height, width = tensors[name].shape[1:3]
    most, multiple = task.pictures[name].max_pixels, task.tensors[name].multiple
    shrink = math.sqrt(most / (height * width)) / multiple
    fits = f"{max(1, int(width * shrink)) * multiple}x{max(1, int(height * shrink)) * multiple}"
    return InvalidArgument.of(
        fields[name],
        f"{width}x{height} pixels are more than the {most} that the model takes at once, and {reason}; send at most {fits}",
    )
