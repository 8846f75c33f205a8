"""The client that awaits."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
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


class AsyncClient:
    """:class:`ganserve.Client` for asyncio. Make it inside a coroutine, for it belongs to the running event loop.

    >>> async with AsyncClient("localhost:8001") as client:
    ...     samples = await client.sample("dcgan-fashion", n=16, seed=7)
    ...     async for sample in client.sample_stream("dcgan-fashion", n=1000, seed=7): ...
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
            self._channel = grpc.aio.insecure_channel(address, options)
        else:
            self._channel = grpc.aio.secure_channel(address, access.credentials, options)
        self._metadata = access.metadata
        self._stubs = stubs(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel what is running and give back the connection."""
        await self._channel.close()

    async def sample(
        self, model: str, n: int | None = None, *, timeout: float | None = None, **options: Unpack[SampleOptions]
    ) -> Samples:
        """:meth:`ganserve.Client.sample`."""
        request = sample_request(model, n, max_reply_bytes=self._max_reply_bytes, **options)
        return samples_of(await self._call(self._stubs.generation.Sample, request, timeout))

    def sample_stream(
        self, model: str, n: int | None = None, *, timeout: float | None = None, **options: Unpack[SampleOptions]
    ) -> AsyncIterator[Sample]:
        """:meth:`ganserve.Client.sample_stream`, for ``async for``."""
        request = sample_request(model, n, max_reply_bytes=self._max_reply_bytes, **options)
        wrapped = generation_pb2.SampleStreamRequest(sample=request)
        return self._stream(self._stubs.generation.SampleStream, wrapped, streamed_sample_of, timeout)

    async def imagine(
        self,
        model: str,
        prompts: str | Sequence[str],
        n: int | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[ImagineOptions],
    ) -> Samples:
        """:meth:`ganserve.Client.imagine`."""
        request = imagine_request(model, prompts, n, max_reply_bytes=self._max_reply_bytes, **options)
        return imagined_of(await self._call(self._stubs.text.TextToImage, request, timeout))

    def imagine_stream(
        self,
        model: str,
        prompts: str | Sequence[str],
        n: int | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[ImagineOptions],
    ) -> AsyncIterator[Imagined]:
        """:meth:`ganserve.Client.imagine_stream`, for ``async for``."""
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
    ) -> AsyncIterator[WalkFrame]:
        """:meth:`ganserve.Client.interpolate`, for ``async for``."""
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
    ) -> AsyncIterator[Mixture]:
        """:meth:`ganserve.Client.mix`, for ``async for``."""
        request = mix_request(model, bases, styles, layers, grid=grid, **options)
        return self._stream(self._stubs.latents.Mix, request, mixture_of, timeout)

    async def combine(
        self,
        model: str,
        terms: Terms,
        *,
        normalization: str | None = None,
        timeout: float | None = None,
        **options: Unpack[MakingOptions],
    ) -> Sample:
        """:meth:`ganserve.Client.combine`."""
        request = combine_request(
            model, terms, normalization=normalization, max_reply_bytes=self._max_reply_bytes, **options
        )
        return sum_of(await self._call(self._stubs.latents.Combine, request, timeout))

    async def translate(
        self,
        model: str,
        image: AnyPicture | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[TranslateOptions],
    ) -> Translation:
        """:meth:`ganserve.Client.translate`."""
        request = translate_request(model, image, max_reply_bytes=self._max_reply_bytes, **options)
        response = await self._call(self._stubs.generation.Translate, request, timeout)
        return translation_of(response.translation, response.served)

    def translate_stream(
        self,
        model: str,
        frames: Iterable[Frame] | AsyncIterable[Frame],
        *,
        timeout: float | None = None,
        **options: Unpack[TranslateOptions],
    ) -> AsyncIterator[Translation]:
        """:meth:`ganserve.Client.translate_stream`, for ``async for``; ``frames`` may be an async iterable."""
        settings = translate_request(model, None, max_reply_bytes=self._max_reply_bytes, **options)
        return self._translations(Frames(settings, frames), timeout)

    async def invert(
        self,
        model: str,
        image: AnyPicture,
        *,
        progress: Progress | None = None,
        timeout: float | None = None,
        **options: Unpack[InvertOptions],
    ) -> Inversion:
        """:meth:`ganserve.Client.invert`; ``progress`` is called on the event loop."""
        async with aclosing(self.invert_stream(model, image, timeout=timeout, **heard(options, progress))) as replies:
            async for reply in replies:
                if isinstance(reply, Inversion):
                    return reply
                if progress is not None:
                    progress(reply)
        raise RequestError(f"{self.address} ended the search without a result")

    def invert_stream(
        self, model: str, image: AnyPicture, *, timeout: float | None = None, **options: Unpack[InvertOptions]
    ) -> AsyncGenerator[InvertProgress | Inversion]:
        """:meth:`ganserve.Client.invert_stream`, for ``async for``."""
        request = invert_request(model, image, **options)
        return self._stream(self._stubs.inversion.Invert, request, invert_reply_of, timeout)

    async def models(self, *, timeout: float | None = None) -> list[ModelSummary]:
        """:meth:`ganserve.Client.models`."""
        return summaries_of(await self._call(self._stubs.models.List, models_pb2.ListRequest(), timeout))

    async def model(self, name: str, version: int = 0, *, timeout: float | None = None) -> ModelInfo:
        """:meth:`ganserve.Client.model`."""
        request = models_pb2.GetRequest(model=name, version=version)
        return model_of(await self._call(self._stubs.models.Get, request, timeout))

    async def load_model(self, name: str, *, timeout: float | None = None) -> list[ModelSummary]:
        """:meth:`ganserve.Client.load_model`."""
        return summaries_of(await self._call(self._stubs.models.Load, models_pb2.LoadRequest(model=name), timeout))

    async def unload_model(self, name: str, *, timeout: float | None = None) -> list[ModelSummary]:
        """:meth:`ganserve.Client.unload_model`."""
        return summaries_of(await self._call(self._stubs.models.Unload, models_pb2.UnloadRequest(model=name), timeout))

    async def reload_model(self, name: str, *, timeout: float | None = None) -> list[ModelSummary]:
        """:meth:`ganserve.Client.reload_model`."""
        return summaries_of(await self._call(self._stubs.models.Reload, models_pb2.ReloadRequest(model=name), timeout))

    async def wait_ready(self, timeout: float | None = None, *, model: str = "") -> None:
        """:meth:`ganserve.Client.wait_ready`."""
        wait = Wait(self.address, model, self._timeout if timeout is None else timeout)
        request = health_pb2.HealthCheckRequest(service=model)
        while True:
            watch = self._stubs.health.Watch(request, timeout=wait.remaining(), wait_for_ready=True)
            try:
                async for reply in watch:
                    if wait.over(reply):
                        return
            except grpc.RpcError as error:
                wait.failed(error)
            finally:
                watch.cancel()
            await asyncio.sleep(PAUSE)

    async def _call(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        try:
            return await method(request, timeout=self._seconds(timeout), metadata=self._metadata)
        except grpc.RpcError as error:
            raise error_of(error) from error

    async def _stream(
        self, method: Callable[..., Any], request: Any, read: Callable[[Any], T], timeout: float | None
    ) -> AsyncGenerator[T]:
        call = method(request, timeout=self._seconds(timeout), metadata=self._metadata)
        try:
            async for reply in call:
                yield read(reply)
        except grpc.RpcError as error:
            raise error_of(error) from error
        finally:
            call.cancel()

    async def _translations(self, sent: Frames, timeout: float | None) -> AsyncIterator[Translation]:
        call = self._stubs.generation.TranslateStream(
            sent.messages_awaited(), timeout=self._seconds(timeout), metadata=self._metadata
        )
        try:
            async for reply in call:
                yield translation_of(reply.translation, reply.served)
        except grpc.RpcError as error:
            raise sent.broken or error_of(error) from error
        except asyncio.CancelledError:
            if sent.broken is None:
                raise
            raise sent.broken from None
        finally:
            call.cancel()

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout
