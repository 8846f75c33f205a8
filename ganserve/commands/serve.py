"""``ganserve serve``."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganserve.commands.access import access_options
from ganserve.commands.log import start_log
from ganserve.commands.marks import marks_options
from ganserve.commands.options import (
    cache_dir_option,
    device_option,
    engine_of,
    engines_option,
    hang_option,
    max_batch_option,
    plugins_dir_option,
    threads_option,
)

if TYPE_CHECKING:
    from ganserve.codecs import Signer
    from ganserve.serving.calls import Logged
    from ganserve.serving.gates import Access
    from ganserve.serving.ports import Connections

LEVELS = ("debug", "info", "warning", "error")


@click.command(short_help="Serve bundles over gRPC.")
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path), envvar="GANSERVE_SERVE_BUNDLES")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8001, show_default=True, help="gRPC port; 0: a free one."
)
@click.option(
    "--metrics-port",
    type=click.IntRange(-1, 65535),
    default=8002,
    show_default=True,
    help="HTTP port of /metrics, /live and /ready; 0: a free one, -1: none.",
)
@click.option("--triton-metrics", is_flag=True, help="Tell the metrics by Triton's names too (nv_inference_*).")
@click.option(
    "--otlp-endpoint",
    metavar="URL",
    help="Send traces of calls to this OpenTelemetry collector, such as http://localhost:4317 [none].",
)
@click.option(
    "--otlp-sample",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="How many of the calls whose callers leave it open are traced, 0 to 1 [all].",
)
@access_options
@engines_option
@device_option
@click.option(
    "--provider", metavar="NAME", help="ONNX Runtime's execution provider, such as TensorrtExecutionProvider."
)
@cache_dir_option
@click.option(
    "--versions",
    multiple=True,
    default=("all",),
    show_default=True,
    metavar="[MODEL=]RULE",
    help="Versions that serve: all, latest, latest:N, or numbers such as 1,3; repeat it for single models.",
)
@click.option("--lazy", is_flag=True, help="Load a model at its first call, not at the start.")
@click.option(
    "--max-model-bytes",
    type=click.IntRange(min=1),
    help="The most bytes that weights take in memory; models not called for longest make room [no bound].",
)
@click.option(
    "--watch",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="Look for new, changed and removed bundles this often [never].",
)
@threads_option
@max_batch_option
@hang_option("so that its engine's session is replaced")
@click.option(
    "--queue-rows",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="The most rows that wait; calls beyond it are told to come back later.",
)
@click.option(
    "--queue-bytes",
    type=click.IntRange(min=1),
    default=1 << 30,
    show_default=True,
    help="The most bytes of pictures in calls; those beyond it are told to come back later.",
)
@click.option(
    "--max-rows", type=click.IntRange(min=1), default=1024, show_default=True, help="The most rows of one call."
)
@click.option(
    "--max-request-bytes",
    type=click.IntRange(min=1),
    default=64 << 20,
    show_default=True,
    help="The largest request.",
)
@click.option(
    "--max-picture-pixels",
    type=click.IntRange(min=1),
    default=64 << 20,
    show_default=True,
    help="The most pixels of a picture in a request.",
)
@click.option(
    "--max-steps", type=click.IntRange(min=1), default=10_000, show_default=True, help="The most steps of an inversion."
)
@click.option(
    "--stream-frames",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="The most frames of one TranslateStream, and requests of one ModelStreamInfer, that are read and not answered.",
)
@marks_options
@click.option(
    "--prompt-policy",
    "prompt_policies",
    multiple=True,
    metavar="NAME[=ARGUMENT]",
    help="Who is asked whether a prompt is served, such as block-list=words.txt; repeatable.",
)
@click.option(
    "--max-prompt-characters",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="The longest prompt, whatever a model takes.",
)
@click.option("--log-prompts", is_flag=True, help="Write prompts to the log; without it they appear nowhere.")
@click.option(
    "--log-calls",
    type=click.Choice(("off", "failed", "all")),
    default="off",
    show_default=True,
    help="Which calls have a line in the log when they end; failed: those that end with another status than OK.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    help="Seconds that running calls get to finish after SIGTERM.",
)
@click.option(
    "--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="The least that is logged."
)
@click.option(
    "--log-format",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="Lines for people, or a JSON object a line for machines.",
)
@plugins_dir_option
def command(
    bundles: tuple[Path, ...],
    host: str,
    port: int,
    metrics_port: int,
    triton_metrics: bool,
    otlp_endpoint: str | None,
    otlp_sample: float | None,
    access: "Access",
    connections: "Connections",
    engines: tuple[str, ...],
    device: str,
    provider: str | None,
    cache_dir: Path | None,
    versions: tuple[str, ...],
    lazy: bool,
    max_model_bytes: int | None,
    watch: float | None,
    threads: int,
    max_batch: int,
    hang_seconds: float,
    queue_rows: int,
    queue_bytes: int,
    max_rows: int,
    max_request_bytes: int,
    max_picture_pixels: int,
    max_steps: int,
    stream_frames: int,
    provenance: bool,
    signer: "Signer | None",
    prompt_policies: tuple[str, ...],
    max_prompt_characters: int,
    log_prompts: bool,
    log_calls: "Logged",
    grace: float,
    log_level: str,
    log_format: str,
    plugins_dir: Path | None,
) -> None:
    """Serve bundles over gRPC: ganserve.v1, health and reflection on one port, Prometheus metrics on another, management on a third.

    BUNDLES are bundles or folders of bundles (default: ./bundles). Each is verified, loaded on the first --engine that
    reproduces its golden rows, and served; one that fails is reported and hinders no other. SIGTERM lets running calls finish
    within --grace and exits with 0; a second one stops at once.

    \b
    Examples:
      ganserve serve
      ganserve serve bundles/dcgan-fashion --port 9000 --threads 1
      ganserve serve bundles --engine openvino:bf16 --engine onnxruntime
      ganserve serve bundles --host 0.0.0.0 --tls-cert tls.crt --tls-key tls.key --token-file tokens.json
    Then, elsewhere:
      ganserve models
      ganserve sample dcgan-fashion --n 16
    """
    from ganserve.plugins import load
    from ganserve.serving.model import Settings
    from ganserve.serving.policy import Lifecycle
    from ganserve.serving.prompts import PolicyChoice
    from ganserve.serving.server import ServerSettings, serve

    start_log(log_level, log_format)
    settings = ServerSettings(
        bundles=bundles or (Path("bundles"),),
        host=host,
        port=port,
        metrics_port=None if metrics_port < 0 else metrics_port,
        triton_metrics=triton_metrics,
        otlp=_otlp(otlp_endpoint, otlp_sample),
        models=Settings(
            engines=tuple(engine_of(text) for text in engines),
            device=device,
            provider=provider,
            threads=threads,
            max_batch=max_batch,
            hang_seconds=hang_seconds or None,
            cache_dir=cache_dir,
        ),
        lifecycle=Lifecycle(
            versions=dict(map(_versions, versions)), lazy=lazy, max_model_bytes=max_model_bytes, watch=watch
        ),
        max_rows=max_rows,
        queue_rows=queue_rows,
        queue_bytes=queue_bytes,
        max_request_bytes=max_request_bytes,
        max_picture_pixels=max_picture_pixels,
        max_steps=max_steps,
        stream_frames=stream_frames,
        connections=connections,
        access=access,
        provenance=provenance,
        signer=signer,
        prompt_policy=tuple(PolicyChoice.parse(text) for text in prompt_policies),
        max_prompt_characters=max_prompt_characters,
        log_prompts=log_prompts,
        log_calls=log_calls,
        grace=grace,
    )
    _run(serve(settings, load(plugins_dir)))


def _run(server: Coroutine[Any, Any, None]) -> None:
    try:
        from uvloop import run
    except ImportError:  # there is none for Windows
        asyncio.run(server)
    else:
        run(server)


def _otlp(endpoint: str | None, sample: float | None):  # type: ignore[no-untyped-def]
    from ganserve.errors import SpecError
    from ganserve.serving.tracing import Otlp

    if endpoint is None:
        if sample is not None:
            raise click.UsageError("--otlp-sample needs --otlp-endpoint")
        return None
    try:
        return Otlp(endpoint=endpoint, sample=sample)
    except SpecError as error:
        raise click.BadParameter(str(error), param_hint="--otlp-endpoint") from error


def _versions(text: str):  # type: ignore[no-untyped-def]
    from ganserve.errors import SpecError
    from ganserve.serving.policy import OTHERS, Versions

    model, equals, rule = text.rpartition("=")
    try:
        return model if equals else OTHERS, Versions.parse(rule)
    except SpecError as error:
        raise click.BadParameter(str(error), param_hint="--versions") from error
