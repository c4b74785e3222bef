"""The clients: a prompt and a style in, a picture out.

with Client("localhost:8001") as client:
    client.generate("a red boat at night", adapters={"stained-glass": 0.9}, seed=7).image.save("boat.png")
    for part in client.stream("a red boat at night", preview_every=5):
        print(part)  # Progress(step=1, steps=25, eta_s=2.4), ..., and at last the Generation
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from functools import partial
from types import TracebackType

from typing_extensions import Unpack

from impasto_client.catalogue import Catalogue, decode_catalogue
from impasto_client.errors import ProtocolError
from impasto_client.fields import TABLE, Options
from impasto_client.generation import Generation, Progress
from impasto_client.options import Pictures
from impasto_client.patience import limit_s
from impasto_client.scoring import decode_score, encode_score
from impasto_client.transport import AsyncTransport, Transport
from impasto_client.triton import AsyncGrpcTransport, GrpcTransport
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


async def _encoded(encoding: Callable[[], Tensors], options: Options) -> Tensors:
    """A picture may take a while to read or to write as PNG; then the event loop goes on meanwhile."""
    if not any(field.kind == "picture" and options.get(word) is not None for word, field in TABLE.options.items()):
        return encoding()
    return await asyncio.to_thread(encoding)
