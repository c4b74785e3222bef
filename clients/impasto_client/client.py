"""The clients: a prompt or a photo and a style in, a picture out.

with Client("localhost:8001") as client:
    client.generate("a red boat at night", adapters={"stained-glass": 0.9}, seed=7).image.save("boat.png")
    client.stylize(Path("photo.jpg"), style={"starry": 0.6, "wave": 0.4}).image.save("painting.png")
    client.upscale(Path("small.png"), "a red boat at night").image.save("large.png")
    for part in client.stream("a red boat at night", preview_every=5):
        print(part)  # Progress(step=1, steps=25, eta_s=2.4), ..., and at last the Generation
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Sequence
from contextlib import aclosing, closing
from functools import partial
from types import TracebackType

from typing_extensions import Unpack

from impasto_client.catalogue import Catalogue, decode_catalogue
from impasto_client.errors import ProtocolError
from impasto_client.fields import TABLE, Options
from impasto_client.generation import Generation, Progress
from impasto_client.options import PhotoOptions, PhotoStyles, Picture, Pictures
from impasto_client.painting import Painting, decode_photo, encode_photo, encode_wishes, with_photo
from impasto_client.patience import limit_s, until_room, until_room_async
from impasto_client.scoring import decode_score, encode_score
from impasto_client.transport import AsyncTransport, Transport
from impasto_client.triton import AsyncGrpcTransport, GrpcTransport
from impasto_client.video.film import IN_FLIGHT, SMOOTH, Film, Frame
from impasto_client.wire import Tensors, decode, decode_part, encode, encode_stream

DEFAULT_URL = "localhost:8001"
DEFAULT_TIMEOUT_S = 300.0


class Client:
    """Blocking client; one may serve many threads.

    `url` is host:port of the server's gRPC endpoint. `timeout` in seconds bounds each request; None and math.inf
    wait for ever. Raises InvalidRequest for what is no time to wait.
    `transport` replaces gRPC, e.g. by a FakeTransport; the url then means nothing.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        transport: Transport | None = None,
    ) -> None:
        self._transport: Transport = GrpcTransport(url) if transport is None else transport
        self._timeout = limit_s(timeout)

    def generate(self, prompt: str, *, timeout: float | None = None, **options: Unpack[Options]) -> Generation:
        """Paint `prompt`. `options` are adapters, style, steps, seed and the like: impasto_client.Options has them all
        and says what each means.

        `timeout` in seconds counts for this request instead of the client's, math.inf is no limit; the server, too,
        stops when it has passed. Raises errors of the ImpastoError tree.
        """
        limit = self._timeout if timeout is None else limit_s(timeout)
        return decode(self._transport.infer(encode(prompt, **options), limit))

    def stream(
        self, prompt: str, *, preview_every: int = 0, timeout: float | None = None, **options: Unpack[Options]
    ) -> Generator[Progress | Generation, None, None]:
        """Paint `prompt` as `generate` does, and yield a Progress after each step, then the Generation, once.

        Every `preview_every` steps a Progress brings a small preview; 0 asks for none. The request is sent when
        iteration begins. Leaving early cancels it on the server: `break` out of the loop over it, or `close()` it.
        Several streams may run at once, each in its thread. Raises errors of the ImpastoError tree.
        """
        tensors = encode_stream(prompt, preview_every, **options)
        limit = self._timeout if timeout is None else limit_s(timeout)
        picture: Generation | None = None
        with closing(self._transport.stream(tensors, limit)) as responses:
            # Read to the end before the picture is handed on and the caller may leave: cancelled just when it has sent
            # the last response, Triton 2.51 at times counts the request as live for ever, and then can't stop.
            for response in responses:
                part = decode_part(response)
                if isinstance(part, Progress):
                    yield part
                else:
                    picture = part
        if picture is None:
            raise ProtocolError("the server's stream ended without a picture")
        yield picture

    def upscale(
        self, picture: Picture, prompt: str, *, timeout: float | None = None, **options: Unpack[Options]
    ) -> Generation:
        """Paint `picture` larger and finer, with the second stage of a backbone that has two.

        `picture` is what such a backbone's first stage paints (`generate` with upscale_steps=0), or any other of that
        size: a file, as bytes or as its Path, or a PIL image. `prompt` says what it shows. `options` and `timeout` are
        as in `generate`, without what is about the first stage. Raises errors of the ImpastoError tree.
        """
        return self.generate(prompt, timeout=timeout, **_over(picture, options))

    def stylize(
        self,
        photo: Picture,
        style: PhotoStyles = None,
        *,
        timeout: float | None = None,
        **options: Unpack[PhotoOptions],
    ) -> Painting:
        """Paint `photo` in `style`: a name in the server's registry, a picture whose style is taken, or several.

        `photo` is a file, as bytes or as its Path, which is sent as it is, or a PIL image. Names are str and pictures
        what `photo` may be: "starry", Path("painting.jpg"). Several are mixed, by weights that add up to 1 at most,
        {"starry": 0.6, Path("painting.jpg"): 0.4}, as a list of pairs [("starry", 0.6), (image, 0.4)], or alike, as
        ["starry", image]. A model that has one style alone takes none. `options` are strength, mask, regions and the
        like: impasto_client.PhotoOptions has them all and says what each means.

        `timeout` is as in `generate`. Raises errors of the ImpastoError tree.
        """
        limit = self._timeout if timeout is None else limit_s(timeout)
        return decode_photo(self._transport.infer(encode_photo(photo, style, **options), limit))

    def stylize_frames(
        self,
        frames: Iterable[Frame],
        style: PhotoStyles = None,
        *,
        smooth: float = SMOOTH,
        in_flight: int = IN_FLIGHT,
        timeout: float | None = None,
        **options: Unpack[PhotoOptions],
    ) -> Generator[Frame, None, None]:
        """Paint the frames of a film: PIL images, or RGB uint8 arrays [H, W, 3]; each comes back as it was, in order.

        `in_flight` frames are asked for at a time; no more are taken from `frames` ahead of those that are yielded.
        `smooth`, 0 to 1, is how much of the painting before stays where its content goes on, so that strokes don't
        flicker; it needs impasto[video], 0 doesn't. Where something comes into sight, and after a cut, nothing stays.
        `timeout` counts for each frame, `style` and `options` are as in `stylize`; `mask` and masks of `regions` are
        those of all frames. Leaving early waits for the frames under way. Raises errors of the ImpastoError tree.
        """
        film, wishes = Film(smooth, in_flight), encode_wishes(style, **options)
        limit = self._timeout if timeout is None else limit_s(timeout)

        def paint(frame: bytes) -> Painting:
            return decode_photo(until_room(lambda: self._transport.infer(with_photo(frame, wishes), limit), limit))

        yield from film.painted(frames, paint)

    def score(
        self,
        images: Pictures,
        *,
        text: str | Sequence[str] | None = None,
        reference: Pictures | None = None,
        timeout: float | None = None,
    ) -> list[float]:
        """How near each of `images` comes to `text` or to the pictures `reference`, as cosines, -1 to 1.

        Either is one for all of them, or a sequence with one for each. Needs a server with a scorer. Raises errors of
        the ImpastoError tree.
        """
        tensors = encode_score(images, text, reference)
        answer = self._transport.score(tensors, self._timeout if timeout is None else limit_s(timeout))
        return decode_score(answer, len(tensors["IMAGE"]))

    def catalogue(self, *, timeout: float | None = None) -> Catalogue:
        """What the server has: bundles, what may be asked of each, and adapters with what they fit. Raises errors of
        the ImpastoError tree.
        """
        return decode_catalogue(self._transport.catalogue(self._timeout if timeout is None else limit_s(timeout)))

    def is_ready(self) -> bool:
        """Whether a server answers there and its model is loaded."""
        return self._transport.is_ready()

    def close(self) -> None:
        """Close the connection; the client is of no use afterwards."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio; belongs to the event loop it is first used in."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        transport: AsyncTransport | None = None,
    ) -> None:
        self._transport: AsyncTransport = AsyncGrpcTransport(url) if transport is None else transport
        self._timeout = limit_s(timeout)

    async def generate(self, prompt: str, *, timeout: float | None = None, **options: Unpack[Options]) -> Generation:
        """As Client.generate. Cancelling the task cancels the request on the server."""
        limit = self._timeout if timeout is None else limit_s(timeout)
        tensors = await _encoded(partial(encode, prompt, **options), options)
        return decode(await self._transport.infer(tensors, limit))

    async def stream(
        self, prompt: str, *, preview_every: int = 0, timeout: float | None = None, **options: Unpack[Options]
    ) -> AsyncGenerator[Progress | Generation, None]:
        """As Client.stream. Cancelling the task, too, cancels the request on the server."""
        tensors = await _encoded(partial(encode_stream, prompt, preview_every, **options), options)
        limit = self._timeout if timeout is None else limit_s(timeout)
        picture: Generation | None = None
        async with aclosing(self._transport.stream(tensors, limit)) as responses:
            async for response in responses:  # to the end, as Client.stream does
                part = decode_part(response)
                if isinstance(part, Progress):
                    yield part
                else:
                    picture = part
        if picture is None:
            raise ProtocolError("the server's stream ended without a picture")
        yield picture

    async def upscale(
        self, picture: Picture, prompt: str, *, timeout: float | None = None, **options: Unpack[Options]
    ) -> Generation:
        """As Client.upscale. Cancelling the task cancels the request on the server."""
        return await self.generate(prompt, timeout=timeout, **_over(picture, options))

    async def stylize(
        self,
        photo: Picture,
        style: PhotoStyles = None,
        *,
        timeout: float | None = None,
        **options: Unpack[PhotoOptions],
    ) -> Painting:
        """As Client.stylize. Cancelling the task cancels the request on the server."""
        limit = self._timeout if timeout is None else limit_s(timeout)
        tensors = await asyncio.to_thread(partial(encode_photo, photo, style, **options))
        return decode_photo(await self._transport.infer(tensors, limit))

    async def stylize_frames(
        self,
        frames: Iterable[Frame] | AsyncIterable[Frame],
        style: PhotoStyles = None,
        *,
        smooth: float = SMOOTH,
        in_flight: int = IN_FLIGHT,
        timeout: float | None = None,
        **options: Unpack[PhotoOptions],
    ) -> AsyncGenerator[Frame, None]:
        """As Client.stylize_frames. Leaving early cancels the requests under way on the server."""
        film, wishes = Film(smooth, in_flight), await asyncio.to_thread(partial(encode_wishes, style, **options))
        limit = self._timeout if timeout is None else limit_s(timeout)

        async def paint(frame: bytes) -> Painting:
            tensors = with_photo(frame, wishes)
            return decode_photo(await until_room_async(lambda: self._transport.infer(tensors, limit), limit))

        async with aclosing(film.painted_async(frames, paint)) as painted:
            async for frame in painted:
                yield frame

    async def score(
        self,
        images: Pictures,
        *,
        text: str | Sequence[str] | None = None,
        reference: Pictures | None = None,
        timeout: float | None = None,
    ) -> list[float]:
        """As Client.score."""
        tensors = await asyncio.to_thread(encode_score, images, text, reference)
        answer = await self._transport.score(tensors, self._timeout if timeout is None else limit_s(timeout))
        return decode_score(answer, len(tensors["IMAGE"]))

    async def catalogue(self, *, timeout: float | None = None) -> Catalogue:
        """As Client.catalogue."""
        limit = self._timeout if timeout is None else limit_s(timeout)
        return decode_catalogue(await self._transport.catalogue(limit))

    async def is_ready(self) -> bool:
        """Whether a server answers there and its model is loaded."""
        return await self._transport.is_ready()

    async def close(self) -> None:
        """Close the connection; the client is of no use afterwards."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _over(picture: Picture, options: Options) -> Options:
    """Raises TypeError for a second picture."""
    if "base_image" in options:
        raise TypeError("upscale() has its picture already; leave base_image out")
    return {**options, "base_image": picture}


async def _encoded(encoding: Callable[[], Tensors], options: Options) -> Tensors:
    """A picture may take a while to read or to write as PNG; then the event loop goes on meanwhile."""
    if not any(field.kind == "picture" and options.get(word) is not None for word, field in TABLE.options.items()):
        return encoding()
    return await asyncio.to_thread(encoding)
