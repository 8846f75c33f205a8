"""The options that several commands share."""

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ganserve.serving.model import EngineChoice

server_option = click.option(
    "--server", default="localhost:8001", show_default=True, metavar="HOST:PORT", help="The server to ask."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
plugins_dir_option = click.option(
    "--plugins-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Also load the plugin packages in this folder, straight from disk.",
)


class Colour(click.ParamType[tuple[int, int, int]]):
    """#RRGGBB, or a name that CSS has → (red, green, blue)."""

    name = "#RRGGBB"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int]:
        """Read ``value``."""
        from PIL import ImageColor

        if isinstance(value, tuple):
            return value
        try:
            red, green, blue = ImageColor.getrgb(value)[:3]
        except ValueError:
            self.fail(f"{value!r} is no colour: write #RRGGBB, such as #ffffff for white", param, ctx)
        return red, green, blue


class Count(click.ParamType[int]):
    """A number of things from 1 to ``most``, also written as 1e6."""

    name = "number"

    def __init__(self, most: int) -> None:
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read ``value``."""
        try:
            number = Decimal(str(value))
            if number == int(number) and 1 <= number <= self._most:
                return int(number)
        except (ArithmeticError, ValueError):
            pass
        self.fail(f"{value!r} is no whole number from 1 to {self._most:g}, such as 1000 or 1e6", param, ctx)


def engine_of(text: str) -> "EngineChoice":
    """An engine written ``NAME`` or ``NAME:PRECISION``."""
    import msgspec

    from ganserve.serving.model import EngineChoice

    try:
        return EngineChoice.parse(text)
    except msgspec.ValidationError as error:
        raise click.BadParameter(
            f"{text!r}: {error}; write NAME or NAME:PRECISION, such as openvino:bf16", param_hint="--engine"
        ) from error


def label_of(text: str) -> int | str:
    """A class by number or name."""
    return int(text) if text.isdecimal() else text


def number_of(text: str, option: str = "--number") -> tuple[str, float]:
    """``NAME=NUMBER`` of an ``option`` as a pair."""
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not NAME=NUMBER, such as steps=20", param_hint=option) from error


def points_of(text: str, option: str) -> list[tuple[int, int]]:
    """Seeds separated by commas, each maybe with an index after a colon, such as 1,2,7:3, as pairs (seed, index)."""
    pairs = []
    for one in text.split(","):
        seed, colon, index = one.strip().partition(":")
        if not (seed.isdecimal() and (index.isdecimal() if colon else True)):
            raise click.BadParameter(
                f"{one!r} is no seed: write numbers such as 1,2,3, or 7:2 for (seed, index)", param_hint=option
            )
        pairs.append((int(seed), int(index or 0)))
    return pairs
