"""A gateway over a fake transport: a catalogue with an adapter of each kind, and streams that a test can hold up."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

import httpx
import uvicorn
from PIL import Image
from starlette.types import ASGIApp

from impasto_client import AsyncClient, AsyncFakeTransport, FakeTransport
from impasto_client.catalogue import Adapter, Bundle, Catalogue, Defaults, Rule, Size, Strength
from impasto_client.wire import Tensors
from impasto_gateway.app import create_app
from impasto_gateway.settings import GatewaySettings, Limits
from impasto_gateway.upstream import Upstream
from tests.helpers.lifespans import alive
from tests.helpers.waiting import PATIENCE_S, eventually

_SIZE = Size(width=128, height=128, multiple_of=8, max_pixels=1 << 16)
_RULES = (
    Rule("cfg", (Strength("GUIDANCE_SCALE", default=3.0, low=0.0, high=50.0),)),
    Rule("styledrop", (Strength("STYLE_STRENGTH", default=2.0, low=-50.0, high=50.0),)),
)


def bundle(name: str, family: str, **more: Any) -> Bundle:
    usual: dict[str, Any] = {
        "checkpoint": name,
        "digest": "0" * 64,
        "size": _SIZE,
        "samplers": ("ddim",),
        "defaults": Defaults(scheduler="ddim", steps=25),
        "rules": _RULES,
        "fields": ("PROMPT", "STEPS"),
        "control": (),
        "pinned": (),
    }
    return Bundle(name=name, family=family, **{**usual, **more})


def adapter(name: str, kind: str, fits: str, **more: Any) -> Adapter:
    usual = {"family": "", "trigger": "", "prompt": "", "rank": 4, "stages": 1, "adapts": ("base",)}
    return Adapter(name=name, digest="1" * 64, kind=kind, fits=(fits,), **{**usual, **more})


# The studio paints prompts; stylizer paints photos.
CATALOGUE = Catalogue(
    default="studio",
    bundles=(bundle("studio", "diffusion", zoom=2, stages=("base", "upscale")), bundle("stylizer", "feedforward")),
    adapters=(
        adapter("neon", "lora", "studio", trigger="neon lights"),
        adapter("glass", "bottleneck", "studio", prompt="{context} of stained glass"),
        adapter("sks03", "embedding", "studio", trigger="<sks03>"),
        adapter("starry", "vector", "stylizer"),
        adapter("wave", "vector", "stylizer"),
    ),
    unread=(),
)
SETTINGS = GatewaySettings(("127.0.0.1:1",))


def png(width: int = 48, height: int = 32, colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def size_of(data: bytes) -> tuple[str | None, int, int]:
    """Format, width and height of a file."""
    with Image.open(io.BytesIO(data)) as image:
        return image.format, image.width, image.height


def fake(**said: Any) -> FakeTransport:
    return FakeTransport(**{"catalogue": CATALOGUE, **said})


def app_over(*transports: Any, settings: GatewaySettings = SETTINGS) -> ASGIApp:
    """A gateway in front of fakes."""
    several = [AsyncFakeTransport(one) if isinstance(one, FakeTransport) else one for one in transports]
    return create_app(settings, Upstream.over(*(AsyncClient(transport=one) for one in several)))


@asynccontextmanager
async def calling(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app, without a network."""
    transport = httpx.ASGITransport(app)
    async with (
        alive(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=PATIENCE_S) as client,
    ):
        yield client


def post(said: dict[str, Any], *transports: Any, settings: GatewaySettings = SETTINGS) -> httpx.Response:
    """The answer to one request for pictures."""

    async def asked() -> httpx.Response:
        async with calling(app_over(*(transports or (fake(),)), settings=settings)) as client:
            return await client.post("/v1/images/generations", json=said)

    return asyncio.run(asked())


def get(path: str, *transports: Any, settings: GatewaySettings = SETTINGS) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with calling(app_over(*(transports or (fake(),)), settings=settings)) as client:
            return await client.get(path)

    return asyncio.run(asked())


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """The app under uvicorn on a free port: its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=5))
    thread = Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)


@dataclass
class HeldTransport(AsyncFakeTransport):
    """A fake that begins to paint, says so, and goes on when it is let go.

    `left` is set when a request was cancelled, or its stream closed, before that.
    """

    fake: FakeTransport = field(default_factory=fake)
    begun: Event = field(default_factory=Event)
    let_go: Event = field(default_factory=Event)
    left: Event = field(default_factory=Event)

    async def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        await self._held()
        return self.fake.infer(tensors, timeout_s)

    async def stream(self, tensors: Tensors, timeout_s: float | None = None) -> AsyncGenerator[Tensors, None]:
        responses = self.fake.stream(tensors, timeout_s)
        yield next(responses)
        await self._held()
        for response in responses:
            yield response

    async def _held(self) -> None:
        self.begun.set()
        try:
            while not self.let_go.is_set():
                await asyncio.sleep(0.01)
        except (asyncio.CancelledError, GeneratorExit):
            self.left.set()
            raise


def request_bytes(said: bytes, path: str = "/v1/images/generations") -> bytes:
    """An HTTP request as it goes over a socket."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(said)}"
    return f"{head}\r\n\r\n".encode() + said


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """A bare connection to a gateway."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
        yield connection


SMALL = Limits(prompt_bytes=64, adapters=2, picture_pixels=10_000, timeout_s=9.0)
