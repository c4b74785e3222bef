"""The clients, blocking and async: a prompt, or a photo and a style, in; a picture out.

with Client("localhost:8001") as client:
    client.generate("a red boat at night", adapters={"stained-glass": 0.9}, seed=7).image.save("boat.png")
    client.stylize(Path("photo.jpg"), style={"starry": 0.6, "wave": 0.4}).image.save("painting.png")
    client.upscale(Path("small.png"), "a red boat at night").image.save("large.png")
    for part in client.stream("a red boat at night", preview_every=5):
        print(part)  # Progress(step=1, steps=25, eta_s=2.4), ..., and finally the Generation
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Sequence
from contextlib import aclosing, closing
from functools import partial
from types import TracebackType

from typing_extensions import Unpack

from impasto_client.catalogue import Catalogue, decode_catalogue
from impasto_client.errors import InvalidRequest, ProtocolError
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
    """The blocking client; many threads may share one.

    `url` is host:port of the server's gRPC endpoint. `timeout` in seconds bounds each request; None and math.inf
    wait for ever. Raises InvalidRequest for any other value.
    `transport` replaces gRPC, e.g. by a FakeTransport; the url is then ignored.
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
        """Paint `prompt`. `options` are adapters, style, steps, seed and the like: impasto_client.Options lists and
        explains them all.

        `timeout` in seconds replaces the client's for this request; math.inf means no limit. The server also stops when
        it has passed. Raises errors of the ImpastoError tree.
        """
        limit = self._timeout if timeout is None else limit_s(timeout)
        return decode(self._transport.infer(encode(prompt, **options), limit))

    def stream(
        self, prompt: str, *, preview_every: int = 0, timeout: float | None = None, **options: Unpack[Options]
    ) -> Generator[Progress | Generation, None, None]:
        """Paint `prompt` as `generate` does; yield a Progress after each step, and finally the Generation.

        Every `preview_every` steps, the Progress has a small preview; 0 asks for none. The request is sent when
        iteration begins. To cancel it on the server, `break` out of the loop, or `close()` the generator.
        Several streams may run at once, each in its own thread. Raises errors of the ImpastoError tree.
        """
        tensors = encode_stream(prompt, preview_every, **options)
        limit = self._timeout if timeout is None else limit_s(timeout)
        picture: Generation | None = None
        with closing(self._transport.stream(tensors, limit)) as responses:
            # Read to the end before the picture is yielded, since the caller may then leave. If Triton 2.51 is
            # cancelled just after the last response, it may count the request as live for ever, and can't stop then.
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

        `picture` comes from such a backbone's first stage (`generate` with upscale_steps=0), or is any other of that
        size: a file, as bytes or as its Path, or a PIL image. `prompt` says what it shows. `options` and `timeout` are
        as in `generate`, without those of the first stage. Raises errors of the ImpastoError tree.
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

        `photo` is a file, as bytes or as its Path, which is sent unchanged, or a PIL image. A style's name is a str,
        its picture is given as `photo` is: "starry", Path("painting.jpg"). Several are mixed, with weights that add up
        to 1 at most: {"starry": 0.6, Path("painting.jpg"): 0.4}, or pairs [("starry", 0.6), (image, 0.4)]; or with
        equal shares: ["starry", image]. A model with a single style takes none. `options` are strength, mask, regions
        and the like: impasto_client.PhotoOptions lists and explains them all.

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
        """Paint the frames of a film: PIL images, or RGB uint8 arrays [H, W, 3]; each comes back in its kind, in order.

        `in_flight` frames are requested at a time, and no more than those are taken from `frames` in advance.
        `smooth`, 0 to 1, is how much of the previous painting is kept where its content continues, against flicker; it
        needs impasto[video], unless it is 0. Nothing is kept where something comes into sight, or after a cut.
        `timeout` holds for each frame; `style` and `options` are as in `stylize`; `mask` and the masks of `regions`
        hold for all frames. Leaving early waits for the frames in flight. Raises errors of the ImpastoError tree.
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
        """How well each of `images` matches `text` or the pictures `reference`, as cosines, -1 to 1.

        Either is one for all images, or a sequence with one for each. It needs a server with a scorer. Raises errors of
        the ImpastoError tree.
        """
        tensors = encode_score(images, text, reference)
        answer = self._transport.score(tensors, self._timeout if timeout is None else limit_s(timeout))
        return decode_score(answer, len(tensors["IMAGE"]))

    def catalogue(self, *, timeout: float | None = None) -> Catalogue:
        """What the server has: bundles with what each accepts, and adapters with the bundles they fit. Raises errors of
        the ImpastoError tree.
        """
        return decode_catalogue(self._transport.catalogue(self._timeout if timeout is None else limit_s(timeout)))

    def is_ready(self) -> bool:
        """Whether a server answers at the url and its model is loaded."""
        return self._transport.is_ready()

    def close(self) -> None:
        """Close the connection; the client can't be used afterwards."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """The client for asyncio; it belongs to the event loop in which it is first used."""

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
        """As Client.stream. Cancelling the task also cancels the request on the server."""
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
        """As Client.stylize_frames. Leaving early cancels the requests in flight on the server."""
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
        """Whether a server answers at the url and its model is loaded."""
        return await self._transport.is_ready()

    async def close(self) -> None:
        """Close the connection; the client can't be used afterwards."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _over(picture: Picture, options: Options) -> Options:
    """The options with the picture to upscale. Raises InvalidRequest without one, TypeError for a second."""
    if picture is None:  # elsewhere this is an option that isn't sent: both stages would paint another picture
        raise InvalidRequest("BASE_IMAGE: None is not a picture; pass bytes, a PIL image or a Path", "BASE_IMAGE")
    if "base_image" in options:
        raise TypeError("upscale() already has its picture; leave base_image out")
    return {**options, "base_image": picture}


async def _encoded(encoding: Callable[[], Tensors], options: Options) -> Tensors:
    """The tensors; if there is a picture, which may take a while to read or to encode, a thread makes them."""
    if not any(field.kind == "picture" and options.get(word) is not None for word, field in TABLE.options.items()):
        return encoding()
    return await asyncio.to_thread(encoding)
