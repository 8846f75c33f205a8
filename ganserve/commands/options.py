"""The options that several commands share."""

import os
from collections.abc import Callable
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import click

if TYPE_CHECKING:
    from ganserve.client import Tls
    from ganserve.serving.model import EngineChoice

Command: TypeAlias = Callable[..., None]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_REMOTE = (
    click.option(
        "--server", default="localhost:8001", show_default=True, metavar="HOST:PORT", help="The server to ask."
    ),
    click.option(
        "--token",
        help="The bearer token to show [GANSERVE_TOKEN, which others on this machine cannot read as they can a command line].",
    ),
    click.option(
        "--tls/--no-tls",
        default=None,
        help="Encrypt; --no-tls sends a token in plain text to another machine, where something else encrypts.",
    ),
    click.option("--tls-ca", type=_FILE, metavar="FILE", help="Authorities that may have signed the server's certificate, PEM."),
    click.option("--tls-cert", type=_FILE, metavar="FILE", help="The client's certificate with its chain, PEM."),
    click.option("--tls-key", type=_FILE, metavar="FILE", help="The certificate's key, PEM."),
)  # fmt: skip


class Remote(NamedTuple):
    """A server to ask, and how."""

    address: str
    token: str | None = None
    tls: "Tls | bool | None" = None

    def __str__(self) -> str:
        return self.address


def server_option(command: Command) -> Command:
    """Add the options that name a server and say how to reach it to ``command``, which gets them as a :class:`Remote` ``server``."""

    @wraps(command)
    def collected(
        server: str,
        token: str | None,
        tls: bool | None,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        **given: Any,
    ) -> None:
        from ganserve.client import Tls

        if (tls_cert is None) != (tls_key is None):
            raise click.UsageError("a client's certificate needs both --tls-cert and --tls-key")
        files = Tls(ca=tls_ca, cert=tls_cert, key=tls_key)
        if files != Tls() and tls is False:
            raise click.UsageError("--no-tls leaves no use for --tls-ca, --tls-cert and --tls-key")
        token = token or os.environ.get("GANSERVE_TOKEN") or None
        command(server=Remote(server, token, tls if files == Tls() else files), **given)

    for option in reversed(_REMOTE):
        collected = option(collected)
    return collected


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


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
plugins_dir_option = click.option(
    "--plugins-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Also load the plugin packages in this folder, straight from disk.",
)

# What is asked for, by name or number.
task_option = click.option("--task", help="The task, where the model has several.")
version_option = click.option("--version", type=click.IntRange(min=1), help="The model's version [the latest].")
number_option = click.option(
    "--number", "numbers", multiple=True, metavar="NAME=NUMBER", help="Another value that the task reads; repeatable."
)
direction_option = click.option(
    "--direction",
    "directions",
    multiple=True,
    metavar="NAME=STRENGTH",
    help="How far all images are moved along one of the model's directions; repeatable.",
)

# How files are encoded.
format_option = click.option(
    "--format",
    "image_format",
    default="png",
    show_default=True,
    help="Of the files: png, jpeg, webp, raw, npy or npy-float.",
)
quality_option = click.option("--quality", type=click.IntRange(1, 100), help="For jpeg and webp [90, 80].")

# How pictures that are asked about meet the model, and how many are asked about at a time.
background_option = click.option(
    "--background", type=Colour(), default="#ffffff", show_default=True, help="Behind what is transparent."
)
parallel_option = click.option(
    "--parallel", type=click.IntRange(1, 256), default=8, show_default=True, help="Pictures under way at once."
)


def timeout_option(seconds: float, then: str = "") -> Callable[[Command], Command]:
    """``--timeout`` of each picture; ``then`` says what comes of it."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=seconds,
        show_default=True,
        help=f"Seconds for each picture{then}.",
    )


# How an engine of this process runs.
engines_option = click.option(
    "--engine",
    "engines",
    multiple=True,
    default=("onnxruntime",),
    show_default=True,
    metavar="NAME[:PRECISION]",
    help="Engine to run graphs on, such as onnxruntime or openvino:bf16; repeat it to name what to fall back on.",
)
device_option = click.option("--device", default="cpu", show_default=True, help="Where graphs run: cpu, cuda:0 ...")
cache_dir_option = click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep built engines here, as `ganserve compile` does [keep none].",
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=0), default=0, show_default=True, help="Of a batch; 0: the engine's choice."
)
max_batch_option = click.option(
    "--max-batch", type=click.IntRange(min=1), default=32, show_default=True, help="The most rows of one batch."
)


def hang_option(then: str) -> Callable[[Command], Command]:
    """``--hang-seconds``; ``then`` says what happens after them."""
    return click.option(
        "--hang-seconds",
        type=click.FloatRange(min=0),
        default=300.0,
        show_default=True,
        help=f"After how long a batch counts as hung, {then}; 0: never.",
    )


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
