"""The request half of a stream of frames."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

from ganserve.client.translation import Frame, frame_request
from ganserve.v1 import generation_pb2


class Frames:
    """What a stream sends: its settings, then its frames.

    gRPC reads requests where nobody sees what they raise, and only tells that the call was cancelled; ``broken`` keeps it.
    """

    def __init__(
        self, settings: generation_pb2.TranslateRequest, frames: Iterable[Frame] | AsyncIterable[Frame]
    ) -> None:
        self._settings, self._frames = settings, frames
        self.broken: Exception | None = None

    def messages(self) -> Iterator[generation_pb2.TranslateStreamRequest]:
        """The messages, of frames that are there."""
        assert isinstance(self._frames, Iterable), "a client that blocks takes no async frames"
        yield generation_pb2.TranslateStreamRequest(settings=self._settings)
        try:
            for number, frame in enumerate(self._frames):
                yield frame_request(number, frame)
        except Exception as error:
            self.broken = error
            raise

    async def messages_awaited(self) -> AsyncIterator[generation_pb2.TranslateStreamRequest]:
        """The messages, of frames that are there or awaited."""
        if not isinstance(self._frames, AsyncIterable):
            for message in self.messages():
                yield message
            return
        yield generation_pb2.TranslateStreamRequest(settings=self._settings)
        number = 0
        try:
            async for frame in self._frames:
                yield frame_request(number, frame)
                number += 1
        except Exception as error:
            self.broken = error
            raise
