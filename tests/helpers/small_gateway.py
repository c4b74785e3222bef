"""A gateway that paints squares of one colour, for the page's tests: it speaks as much of the API as the page does.

It shows what the page asked for, holds a painting until the test lets it go on, and counts those that were left.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from impasto_gateway import page
from impasto_gateway.errors import AUTHENTICATION, RATE, Refusal
from tests.helpers.waiting import wait_until

Json = dict[str, Any]
STEPS = 4
STYLES: Mapping[str, Json] = {
    **{name: {"kind": "lora", "fits": ["studio"]} for name in ("halftone", "mosaic", "stained-glass", "stipple")},
    "crosshatch": {"kind": "embedding", "fits": ["studio"], "trigger": "<crosshatch>", "prompt": "{context}, {style}"},
    **{name: {"kind": "vector", "fits": ["photo"]} for name in ("wave", "woodcut")},
}
COLOURS = {"halftone": "#888", "mosaic": "#b44", "stained-glass": "#46a", "stipple": "#585", "wave": "#269"}
SIZE = {"width": 64, "height": 64, "multiple_of": 8, "max_pixels": 1 << 16}
RULES = [
    {"name": "cfg", "strengths": [{"field": "GUIDANCE_SCALE", "default": 3.0, "low": 0.0, "high": 50.0}]},
    {"name": "styledrop", "strengths": [{"field": "STYLE_STRENGTH", "default": 2.0, "low": -50.0, "high": 50.0}]},
]
PAINTER = {
    "family": "diffusion",
    "size": SIZE,
    "samplers": ["ddim", "euler"],
    "defaults": {"scheduler": "ddim", "steps": STEPS},
    "rules": RULES,
    "fields": "prompt negative_prompt steps scheduler guidance guidance_scale style_strength format image strength".split(),
    "control": [],
    "stages": ["base"],
}
STYLIST = {**PAINTER, "family": "feedforward", "samplers": [], "rules": [], "fields": ["format", "image", "strength"]}


@dataclass
class SmallGateway:
    """`asked` are the requests, `left` counts those whose reader went away. With `key`, requests must bring it. While
    `held` is set, a painting stops after its first preview.
    """

    url: str = ""
    key: str = ""
    held: bool = False
    asked: list[Json] = field(default_factory=list)
    photos: list[bytes] = field(default_factory=list)
    left: int = 0

    def app(self) -> Starlette:
        routes = [
            Route("/v1/models", self.models),
            Route("/v1/adapters", self.adapters),
            Route("/v1/adapters/{name}/preview", self.preview),
            Route("/v1/images/generations", self.generations, methods=["POST"]),
            Route("/v1/images/edits", self.edits, methods=["POST"]),
            *page.routes(),
        ]
        return Starlette(routes=routes, exception_handlers={Refusal: _refused})

    async def models(self, request: Request) -> Response:
        self._check(request)
        bundles = {"studio": PAINTER, "photo": STYLIST}
        data = [{"id": name, "bundle": bundle, "default": name == "studio"} for name, bundle in bundles.items()]
        alias = {"id": "studio:mosaic", "parent": "studio", "adapter": STYLES["mosaic"]}
        return JSONResponse({"object": "list", "data": [*data, alias]})

    async def adapters(self, request: Request) -> Response:
        self._check(request)
        data = [{"name": name, "preview": f"/v1/adapters/{name}/preview", **said} for name, said in STYLES.items()]
        return JSONResponse({"object": "list", "data": data})

    async def preview(self, request: Request) -> Response:
        self._check(request)
        return Response(_png(COLOURS.get(request.path_params["name"], "#987")), media_type="image/png")

    async def generations(self, request: Request) -> Response:
        self._check(request)
        said = json.loads(await request.body())
        self.asked.append(said)
        if "full" in said["prompt"]:
            raise Refusal(429, "the server is full", "server_full", kind=RATE, again=True, retry_after_s=2)
        if said.get("steps", 1) > 200:
            raise Refusal(400, "steps: 999 is out of range; pass 1 to 200", "invalid_value", "steps")
        return self._stream(self._painted(said))

    async def edits(self, request: Request) -> Response:
        self._check(request)
        async with request.form() as form:
            said = {name: value for name, value in form.items() if isinstance(value, str)}
            (photo,) = (await value.read() for value in form.values() if not isinstance(value, str))
        self.asked.append(said)
        self.photos.append(photo)
        with Image.open(io.BytesIO(photo)) as image:
            picture = ImageOps.invert(image.convert("RGB"))
        return self._stream(_told("image_edit.completed", b64_json=_b64(_bytes(picture)), warnings=["painted small"]))

    def _stream(self, events: AsyncGenerator[str, None]) -> Response:
        return StreamingResponse(events, media_type="text/event-stream")

    async def _painted(self, said: Json) -> AsyncGenerator[str, None]:
        finished = False
        try:
            for step in range(1, STEPS):
                preview = {"b64_json": _b64(_png("#777")), "partial_image_index": step - 1}
                yield _event("image_generation.partial_image", **preview, step=step, steps=STEPS)
                while self.held:
                    yield ": ping\n\n"  # Starlette notices at a send that nobody reads
                    await asyncio.sleep(0.02)
            for place in range(said["n"]):
                seed = said.get("seed", 41) + place
                picture = _b64(_png(_colour(said), _marks(said, seed)))
                yield _event("image_generation.completed", b64_json=picture, seed=seed, index=place)
            finished = True
        finally:
            self.left += not finished

    def _check(self, request: Request) -> None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            raise Refusal(401, "no such key", "invalid_api_key", kind=AUTHENTICATION)


@contextmanager
def small_gateway() -> Iterator[SmallGateway]:
    """One on a free loopback port, in a thread of its own."""
    gateway = SmallGateway()
    config = uvicorn.Config(gateway.app(), port=0, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, "the gateway listens")
        gateway.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield gateway
    finally:
        gateway.held = False
        server.should_exit = True
        thread.join()


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return JSONResponse(error.body(), error.status, headers=error.all_headers())


async def _told(name: str, **data: Any) -> AsyncGenerator[str, None]:
    yield _event(name, **data)


def _event(name: str, **data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n"


def _colour(said: Json) -> str:
    return next((COLOURS[name] for name in said.get("adapters", {}) if name in COLOURS), "#ca5")


def _marks(said: Json, seed: int) -> PngInfo:
    """What a gateway's pictures say of themselves."""
    styles = [{"name": name, "weight": weight, "kind": "adapter"} for name, weight in said.get("adapters", {}).items()]
    request = {name: said[name] for name in ("prompt", "steps", "guidance_scale") if name in said}
    width, height = map(int, said["size"].split("x"))
    settings = {"width": width, "height": height, "steps": STEPS}
    mark = {"request": request, "seed": seed, "bundle": said["model"], "adapters": styles, "settings": settings}
    marks = PngInfo()
    marks.add_itxt("impasto", json.dumps(mark), zip=True)
    return marks


def _png(colour: str, marks: PngInfo | None = None) -> bytes:
    return _bytes(Image.new("RGB", (64, 64), colour), marks)


def _bytes(picture: Image.Image, marks: PngInfo | None = None) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=marks)
    return file.getvalue()


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
