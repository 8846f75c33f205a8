"""The client that blocks."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from grpc_health.v1 import health_pb2

from ganserve.client.channel import ADDRESS, MAX_REPLY_BYTES, TIMEOUT, Tls, access_of, channel_options, stubs
from ganserve.client.frames import Frames
from ganserve.client.inversion import (
    Inversion,
    InvertOptions,
    InvertProgress,
    Progress,
    heard,
    invert_reply_of,
    invert_request,
)
from ganserve.client.latents import (
    AnyPoint,
    MakingOptions,
    Mixture,
    Terms,
    WalkFrame,
    combine_request,
    frame_of,
    interpolate_request,
    mix_request,
    mixture_of,
    sum_of,
)
from ganserve.client.models import ModelInfo, ModelSummary, model_of, summaries_of
from ganserve.client.pictures import AnyPicture
from ganserve.client.request import SampleOptions, sample_request
from ganserve.client.samples import Sample, Samples, samples_of, streamed_sample_of
from ganserve.client.status import error_of
from ganserve.client.text import (
    Imagined,
    ImagineOptions,
    imagine_request,
    imagined_of,
    streamed_imagined_of,
)
from ganserve.client.translation import Frame, TranslateOptions, Translation, translate_request, translation_of
from ganserve.client.waiting import PAUSE, Wait
from ganserve.errors import RequestError
from ganserve.v1 import generation_pb2, models_pb2, text_pb2

T = TypeVar("T")


class Client:
    """A connection to a server; threads may share it. Use it in ``with``, or :meth:`close` it.

    >>> with Client("localhost:8001") as client:
    ...     images = client.sample("dcgan-fashion", n=16, seed=7).images()

    A call takes at most ``timeout`` seconds unless it says otherwise, retries included. Every method raises the
    :class:`ganserve.errors.RequestError` that the server's status stands for.

    ``token`` is shown with every call. ``tls=True`` encrypts and asks the server for a certificate of an authority that gRPC knows;
    :class:`ganserve.client.Tls` names other authorities, or a certificate of the client's own. By default the connection is plain
    text, over which a token goes to this machine only; ``tls=False`` says that something else encrypts it.
    """

    def __init__(
        self,
        address: str = ADDRESS,
        *,
        timeout: float = TIMEOUT,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        token: str | None = None,
        tls: Tls | bool | None = None,
    ) -> None:
        self.address, self._timeout, self._max_reply_bytes = address, timeout, max_reply_bytes
        access, options = access_of(address, token, tls), channel_options(max_reply_bytes)
        if access.credentials is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, access.credentials, options)
        self._metadata = access.metadata
        self._stubs = stubs(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is running and give back the connection."""
        self._channel.close()

    def sample(
        self, model: str, n: int | None = None, *, timeout: float | None = None, **options: Unpack[SampleOptions]
    ) -> Samples:
        """``n`` results in one reply; see :class:`SampleOptions`.

        One that may outgrow ``max_reply_bytes`` is refused before anything is computed: use :meth:`sample_stream`.
        """
        request = sample_request(model, n, max_reply_bytes=self._max_reply_bytes, **options)
        return samples_of(self._call(self._stubs.generation.Sample, request, timeout))

    def sample_stream(
        self, model: str, n: int | None = None, *, timeout: float | None = None, **options: Unpack[SampleOptions]
    ) -> Iterator[Sample]:
        """``n`` results in order, each as soon as it is ready; ``timeout`` is that of the whole stream, from the first ``next``.

        Stopping early cancels the rest.
        """
        request = sample_request(model, n, max_reply_bytes=self._max_reply_bytes, **options)
        wrapped = generation_pb2.SampleStreamRequest(sample=request)
        return self._stream(self._stubs.generation.SampleStream, wrapped, streamed_sample_of, timeout)

    def imagine(
        self,
        model: str,
        prompts: str | Sequence[str],
        n: int | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[ImagineOptions],
    ) -> Samples:
        """``n`` pictures of each of ``prompts``, prompt by prompt, each an :class:`Imagined`; see :class:`ImagineOptions`.

        A reply that may outgrow ``max_reply_bytes`` is refused before anything is computed: use :meth:`imagine_stream`.
        """
        request = imagine_request(model, prompts, n, max_reply_bytes=self._max_reply_bytes, **options)
        return imagined_of(self._call(self._stubs.text.TextToImage, request, timeout))

    def imagine_stream(
        self,
        model: str,
        prompts: str | Sequence[str],
        n: int | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[ImagineOptions],
    ) -> Iterator[Imagined]:
        """``n`` pictures of each of ``prompts``, prompt by prompt, each as soon as it is ready; ``timeout`` is that of the whole stream."""
        request = imagine_request(model, prompts, n, max_reply_bytes=self._max_reply_bytes, **options)
        wrapped = text_pb2.TextToImageStreamRequest(wish=request)
        return self._stream(self._stubs.text.TextToImageStream, wrapped, streamed_imagined_of, timeout)

    def interpolate(
        self,
        model: str,
        keys: Iterable[AnyPoint],
        frames: int = 30,
        *,
        walk: str | None = None,
        loop: bool = False,
        timeout: float | None = None,
        **options: Unpack[MakingOptions],
    ) -> Iterator[WalkFrame]:
        """The images of a walk over ``keys`` in order, each as soon as it is ready: ``frames`` from each key up to the next.

        A key is a seed, (seed, index), the latent as an array, or a :class:`ganserve.client.Point`. ``walk`` is ``lerp`` or ``slerp``, by
        default the latent's own; a ``loop`` goes on from the last key to the first. See :class:`ganserve.client.MakingOptions`.
        """
        request = interpolate_request(model, keys, frames=frames, walk=walk, loop=loop, **options)
        return self._stream(self._stubs.latents.Interpolate, request, frame_of, timeout)

    def mix(
        self,
        model: str,
        bases: Iterable[AnyPoint],
        styles: Iterable[AnyPoint],
        layers: Iterable[int],
        *,
        grid: bool = False,
        timeout: float | None = None,
        **options: Unpack[MakingOptions],
    ) -> Iterator[Mixture]:
        """Images with ``layers`` of the latents of ``styles`` and the rest of ``bases`` in order, each as soon as it is ready.

        Pair by pair (one base or style serves all), or with ``grid`` every base with every style, base by base. Points are as in
        :meth:`interpolate`.
        """
        request = mix_request(model, bases, styles, layers, grid=grid, **options)
        return self._stream(self._stubs.latents.Mix, request, mixture_of, timeout)

    def combine(
        self,
        model: str,
        terms: Terms,
        *,
        normalization: str | None = None,
        timeout: float | None = None,
        **options: Unpack[MakingOptions],
    ) -> Sample:
        """The image of a weighted sum of points: ``{seed: weight}``, or pairs of a point as in :meth:`interpolate` and its weight.

        ``normalization`` is ``mean`` (divided by the sum of the weights) or ``length`` (scaled to the mean length of the points).
        """
        request = combine_request(
            model, terms, normalization=normalization, max_reply_bytes=self._max_reply_bytes, **options
        )
        return sum_of(self._call(self._stubs.latents.Combine, request, timeout))

    def translate(
        self,
        model: str,
        image: AnyPicture | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[TranslateOptions],
    ) -> Translation:
        """What the model makes of ``image``; see :class:`TranslateOptions`."""
        request = translate_request(model, image, max_reply_bytes=self._max_reply_bytes, **options)
        response = self._call(self._stubs.generation.Translate, request, timeout)
        return translation_of(response.translation, response.served)

    def translate_stream(
        self,
        model: str,
        frames: Iterable[Frame],
        *,
        timeout: float | None = None,
        **options: Unpack[TranslateOptions],
    ) -> Iterator[Translation]:
        """What the model makes of each frame, in order, while further ones are sent; ``timeout`` is that of the whole stream.

        ``frames`` is read in another thread, a few frames ahead of what has been answered; what it raises is raised here.
        """
        settings = translate_request(model, None, max_reply_bytes=self._max_reply_bytes, **options)
        sent = Frames(settings, iter(frames))
        call = self._stubs.generation.TranslateStream(
            sent.messages(), timeout=self._seconds(timeout), metadata=self._metadata
        )
        return self._translations(call, sent)

    def invert(
        self,
        model: str,
        image: AnyPicture,
        *,
        progress: Progress | None = None,
        timeout: float | None = None,
        **options: Unpack[InvertOptions],
    ) -> Inversion:
        """The latent from which the model makes ``image``, as nearly as it is found; see :class:`InvertOptions`.

        Shortly before ``timeout`` the search ends with the best so far. ``progress`` is called every 10 steps, unless
        ``progress_every`` says otherwise; what it raises ends the search and is raised here.
        """
        with closing(self.invert_stream(model, image, timeout=timeout, **heard(options, progress))) as replies:
            for reply in replies:
                if isinstance(reply, Inversion):
                    return reply
                if progress is not None:
                    progress(reply)
        raise RequestError(f"{self.address} ended the search without a result")

    def invert_stream(
        self, model: str, image: AnyPicture, *, timeout: float | None = None, **options: Unpack[InvertOptions]
    ) -> Generator[InvertProgress | Inversion]:
        """The search of :meth:`invert` as it goes: progress, if ``progress_every`` is given, and at the end the result.

        Stopping early cancels it.
        """
        request = invert_request(model, image, **options)
        return self._stream(self._stubs.inversion.Invert, request, invert_reply_of, timeout)

    def models(self, *, timeout: float | None = None) -> list[ModelSummary]:
        """Every model that the server found, by name and version."""
        return summaries_of(self._call(self._stubs.models.List, models_pb2.ListRequest(), timeout))

    def model(self, name: str, version: int = 0, *, timeout: float | None = None) -> ModelInfo:
        """All about one model; version 0 is the latest."""
        request = models_pb2.GetRequest(model=name, version=version)
        return model_of(self._call(self._stubs.models.Get, request, timeout))

    def load_model(self, name: str, *, timeout: float | None = None) -> list[ModelSummary]:
        """Have the model ``name`` serve what its folders hold now: new versions, changed ones, all after :meth:`unload_model`.

        Its versions afterwards. :class:`ganserve.errors.LoadFailed` says what could not be loaded; what served before still does.
        """
        return summaries_of(self._call(self._stubs.models.Load, models_pb2.LoadRequest(model=name), timeout))

    def unload_model(self, name: str, *, timeout: float | None = None) -> list[ModelSummary]:
        """Have the model ``name`` answer no more calls; those that run end as they would have. Its versions afterwards."""
        return summaries_of(self._call(self._stubs.models.Unload, models_pb2.UnloadRequest(model=name), timeout))

    def reload_model(self, name: str, *, timeout: float | None = None) -> list[ModelSummary]:
        """As :meth:`load_model`, but everything is loaded anew, changed or not, and then takes over."""
        return summaries_of(self._call(self._stubs.models.Reload, models_pb2.ReloadRequest(model=name), timeout))

    def wait_ready(self, timeout: float | None = None, *, model: str = "") -> None:
        """Return when the server (or one ``model`` of it) serves; :class:`ganserve.errors.DeadlineExceeded` says what it did last."""
        wait = Wait(self.address, model, self._timeout if timeout is None else timeout)
        request = health_pb2.HealthCheckRequest(service=model)
        while True:
            watch = self._stubs.health.Watch(request, timeout=wait.remaining(), wait_for_ready=True)
            try:
                for reply in watch:
                    if wait.over(reply):
                        return
            except grpc.RpcError as error:
                wait.failed(error)
            finally:
                watch.cancel()
            time.sleep(PAUSE)

    def _call(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        try:
            return method(request, timeout=self._seconds(timeout), metadata=self._metadata)
        except grpc.RpcError as error:
            raise error_of(error) from error

    def _stream(
        self, method: Callable[..., Any], request: Any, read: Callable[[Any], T], timeout: float | None
    ) -> Generator[T]:
        call = method(request, timeout=self._seconds(timeout), metadata=self._metadata)
        try:
            for reply in call:
                yield read(reply)
        except grpc.RpcError as error:
            raise error_of(error) from error
        finally:
            call.cancel()

    def _translations(self, call: Any, sent: Frames) -> Iterator[Translation]:
        try:
            for reply in call:
                yield translation_of(reply.translation, reply.served)
        except grpc.RpcError as error:
            raise sent.broken or error_of(error) from error
        finally:
            call.cancel()

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout
