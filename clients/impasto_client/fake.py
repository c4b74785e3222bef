"""Transports without a server, for the tests of those who use the client.

client = Client(transport=FakeTransport())
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from impasto_client.errors import ImpastoError
from impasto_client.wire import Tensors

_DEFAULTS: dict[str, Any] = {
    "STEPS": 25,
    "GUIDANCE": b"cfg",
    "GUIDANCE_SCALE": 3.0,
    "SCHEDULER": b"dpmpp_2m",
    "SEED": 0,
    "WIDTH": 128,
    "HEIGHT": 128,
    "FORMAT": b"png",
    "PREVIEW_EVERY": 0,
}
_STYLE_CONTENT = {"GUIDANCE_SCALE": 5.0, "STYLE_GUIDANCE": 0.5, "CONTENT_GUIDANCE": 3.0}  # where GUIDANCE is asked for
_STRENGTH = {"STRENGTH": 0.8}  # where there is an IMAGE
_STEP_S = 0.1  # what a step is said to take; none of it is waited for


class FakeTransport:
    """Answers every request with a picture that depends on the request alone, or with `error`.

    The seed of a request that brings none is 0. `warnings` are what every answer warns of. `requests` records what was
    asked, `timeouts` how long each was to take at most, and `cancelled` counts the streams left before their picture.
    """

    def __init__(self, *, error: ImpastoError | None = None, warnings: Sequence[str] = (), ready: bool = True) -> None:
        self.error = error
        self.warnings = tuple(warnings)
        self.ready = ready
        self.closed = False
        self.cancelled = 0
        self.requests: list[Tensors] = []
        self.timeouts: list[float | None] = []

    def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """Raises `error` when one was given."""
        self.requests.append(tensors)
        self.timeouts.append(timeout_s)
        if self.error is not None:
            raise self.error
        return _answer(tensors, self.warnings)

    def stream(self, tensors: Tensors, timeout_s: float | None = None) -> Generator[Tensors, None, None]:
        """Every step at once, then the answer. Raises `error` when one was given."""
        answer = self.infer(tensors, timeout_s)
        try:
            yield from _steps(tensors)
        except GeneratorExit:
            self.cancelled += 1
            raise
        yield answer

    def is_ready(self) -> bool:
        """What `ready` was given."""
        return self.ready

    def close(self) -> None:
        """Sets `closed`."""
        self.closed = True


class AsyncFakeTransport:
    """A FakeTransport for AsyncClient; `fake` holds the record."""

    def __init__(self, fake: FakeTransport | None = None) -> None:
        self.fake = FakeTransport() if fake is None else fake

    async def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """As FakeTransport.infer."""
        return self.fake.infer(tensors, timeout_s)

    async def stream(self, tensors: Tensors, timeout_s: float | None = None) -> AsyncGenerator[Tensors, None]:
        """As FakeTransport.stream."""
        with closing(self.fake.stream(tensors, timeout_s)) as responses:
            for response in responses:
                yield response

    async def is_ready(self) -> bool:
        """As FakeTransport.is_ready."""
        return self.fake.is_ready()

    async def close(self) -> None:
        """As FakeTransport.close."""
        self.fake.close()


def _steps(tensors: Tensors) -> Iterator[Tensors]:
    asked = _asked(tensors)
    every, steps = asked["PREVIEW_EVERY"], asked["STEPS"]
    shown = range(every, steps, every) if every else ()  # the last step's would be the picture itself
    for step in range(1, steps + 1):
        yield {
            "STEP": np.array([step], dtype=np.int32),
            "STEPS": np.array([steps], dtype=np.int32),
            "ETA_S": np.array([(steps - step) * _STEP_S], dtype=np.float32),
            **({"PREVIEW": np.array([_preview(tensors)], dtype=np.object_)} if step in shown else {}),
        }


def _asked(tensors: Tensors) -> dict[str, Any]:
    """What was asked, and the defaults of what was not; STEPS are those that are run."""
    rule = _STYLE_CONTENT if "GUIDANCE" in tensors else {}
    start = _STRENGTH if "IMAGE" in tensors else {}
    defaults = {**_DEFAULTS, **rule, **start}
    asked = {name: tensors[name].tolist()[0] if name in tensors else value for name, value in defaults.items()}
    return {**asked, "STEPS": int(asked["STEPS"] * round(asked.get("STRENGTH", 1.0), 6))}


def _answer(tensors: Tensors, warnings: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    asked = _asked(tensors)
    meta = {
        "warnings": list(warnings),
        "timings": dict.fromkeys(("queue_ms", "encode_ms", "denoise_ms", "decode_ms", "total_ms"), 0.0),
        "engine": "fake",
        "precision": "f32",
        "bundle": "0" * 64,
        "adapters": _adapters(tensors),
        "embeddings": [{"name": name, "digest": _digest(name)} for name in dict.fromkeys(_names(tensors, "STYLE"))],
        "steps": asked["STEPS"],
        "guidance": asked["GUIDANCE"].decode(),
        "guidance_scale": asked["GUIDANCE_SCALE"],
        **{name.lower(): asked[name] for name in ("STYLE_GUIDANCE", "CONTENT_GUIDANCE", "STRENGTH") if name in asked},
        "scheduler": asked["SCHEDULER"].decode(),
        "width": asked["WIDTH"],
        "height": asked["HEIGHT"],
    }
    return {
        "IMAGE": np.array([_picture(tensors, asked)], dtype=np.object_),
        "SEED": np.array([asked["SEED"]], dtype=np.int64),
        "META": np.array([json.dumps(meta).encode()], dtype=np.object_),
    }


def _adapters(tensors: Tensors) -> list[dict[str, object]]:
    names = _names(tensors, "ADAPTER_NAMES")
    weights = tensors["ADAPTER_WEIGHTS"].tolist() if "ADAPTER_WEIGHTS" in tensors else [1.0] * len(names)
    return [
        {"name": name, "digest": _digest(name), "weight": weight} for name, weight in zip(names, weights, strict=True)
    ]


def _names(tensors: Tensors, field: str) -> list[str]:
    return [name.decode() for name in tensors[field].tolist()] if field in tensors else []


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _picture(tensors: Tensors, asked: dict[str, Any]) -> bytes:
    """A gradient between the request's four colours."""
    size = (asked["WIDTH"], asked["HEIGHT"])
    return _file(_corners(tensors).resize(size, Image.Resampling.BILINEAR), asked["FORMAT"].decode())


def _preview(tensors: Tensors) -> bytes:
    """The same four colours, one for each pixel of a PNG."""
    return _file(_corners(tensors), "png")


def _corners(tensors: Tensors) -> Image.Image:
    """Four colours drawn from a hash of the request; previews don't change the picture."""
    told = sorted((name, tensor.tolist()) for name, tensor in tensors.items() if name != "PREVIEW_EVERY")
    return Image.fromarray(np.frombuffer(hashlib.sha256(repr(told).encode()).digest()[:12], np.uint8).reshape(2, 2, 3))


def _file(image: Image.Image, format: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format)
    return file.getvalue()
