"""The options that several commands share."""

from pathlib import Path
from typing import Any

import click

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
