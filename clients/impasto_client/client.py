"""The clients: a prompt and styles in, a picture out.

with Client("localhost:8001") as client:
    client.generate("a red boat at night", styles={"stained-glass": 0.9}, seed=7).image.save("boat.png")
"""

from __future__ import annotations

from types import TracebackType

from impasto_client.generation import Generation
from impasto_client.transport import AsyncTransport, Transport
from impasto_client.triton import AsyncGrpcTransport, GrpcTransport
from impasto_client.wire import Styles, decode, encode

DEFAULT_URL = "localhost:8001"
DEFAULT_TIMEOUT_S = 300.0


class Client:
    """Blocking client; one may serve many threads.

    `url` is host:port of the server's gRPC endpoint. `timeout` in seconds bounds each request; None waits for ever.
    `transport` replaces gRPC, e.g. by a FakeTransport; url and timeout then mean nothing.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        transport: Transport | None = None,
    ) -> None:
        self._transport: Transport = GrpcTransport(url, timeout=timeout) if transport is None else transport

    def generate(
        self,
        prompt: str,
        *,
        styles: Styles = None,
        negative_prompt: str = "",
        steps: int | None = None,
        guidance_scale: float | None = None,
        scheduler: str | None = None,
        seed: int | None = None,
        width: int | None = None,
        height: int | None = None,
        format: str | None = None,
    ) -> Generation:
        """Paint `prompt`. What is None is not sent, so the server's default counts.

        `styles` maps names of adapters in the server's registry to weights; a lone name has weight 1.
        `width` and `height` are pixels. `scheduler` is ddim, dpmpp_2m or euler; `format` is png, jpeg or webp.
        Raises errors of the ImpastoError tree.
        """
        tensors = encode(
            prompt,
            styles=styles,
            negative_prompt=negative_prompt,
            steps=steps,
            guidance_scale=guidance_scale,
            scheduler=scheduler,
            seed=seed,
            width=width,
            height=height,
            format=format,
        )
        return decode(self._transport.infer(tensors))

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
        self._transport: AsyncTransport = AsyncGrpcTransport(url, timeout=timeout) if transport is None else transport

    async def generate(
        self,
        prompt: str,
        *,
        styles: Styles = None,
        negative_prompt: str = "",
        steps: int | None = None,
        guidance_scale: float | None = None,
        scheduler: str | None = None,
        seed: int | None = None,
        width: int | None = None,
        height: int | None = None,
        format: str | None = None,
    ) -> Generation:
        """As Client.generate. Cancelling the task cancels the request on the server."""
        tensors = encode(
            prompt,
            styles=styles,
            negative_prompt=negative_prompt,
            steps=steps,
            guidance_scale=guidance_scale,
            scheduler=scheduler,
            seed=seed,
            width=width,
            height=height,
            format=format,
        )
        return decode(await self._transport.infer(tensors))

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
