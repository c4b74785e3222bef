"""Transports without a server, for the tests of those who use the client.

client = Client(transport=FakeTransport())
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from impasto_client.errors import ImpastoError
from impasto_client.wire import Tensors

_DEFAULTS: dict[str, Any] = {
    "STEPS": 25,
    "GUIDANCE_SCALE": 5.0,
    "SCHEDULER": b"dpmpp_2m",
    "SEED": 0,
    "WIDTH": 128,
    "HEIGHT": 128,
    "FORMAT": b"png",
}


class FakeTransport:
    """Answers every request with a picture that depends on the request alone, or with `error`; `requests` records them.

    The seed of a request that brings none is 0. `warnings` are what every answer warns of.
    """

    def __init__(self, *, error: ImpastoError | None = None, warnings: Sequence[str] = (), ready: bool = True) -> None:
        self.error = error
        self.warnings = tuple(warnings)
        self.ready = ready
        self.closed = False
        self.requests: list[Tensors] = []

    def infer(self, tensors: Tensors) -> Tensors:
        """Raises `error` when one was given."""
        self.requests.append(tensors)
        if self.error is not None:
            raise self.error
        return _answer(tensors, self.warnings)

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

    async def infer(self, tensors: Tensors) -> Tensors:
        """As FakeTransport.infer."""
        return self.fake.infer(tensors)

    async def is_ready(self) -> bool:
        """As FakeTransport.is_ready."""
        return self.fake.is_ready()

    async def close(self) -> None:
        """As FakeTransport.close."""
        self.fake.close()


def _answer(tensors: Tensors, warnings: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    asked = {name: tensors[name].tolist()[0] if name in tensors else value for name, value in _DEFAULTS.items()}
    meta = {
        "warnings": list(warnings),
        "timings": dict.fromkeys(("queue_ms", "encode_ms", "denoise_ms", "decode_ms", "total_ms"), 0.0),
        "engine": "fake",
        "precision": "f32",
        "bundle": "0" * 64,
        "adapters": _adapters(tensors),
        "steps": asked["STEPS"],
        "guidance_scale": asked["GUIDANCE_SCALE"],
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
    names = [name.decode() for name in tensors["ADAPTER_NAMES"].tolist()] if "ADAPTER_NAMES" in tensors else []
    weights = tensors["ADAPTER_WEIGHTS"].tolist() if "ADAPTER_WEIGHTS" in tensors else [1.0] * len(names)
    return [
        {"name": name, "digest": hashlib.sha256(name.encode()).hexdigest(), "weight": weight}
        for name, weight in zip(names, weights, strict=True)
    ]


def _picture(tensors: Tensors, asked: dict[str, Any]) -> bytes:
    """A gradient between four colours drawn from a hash of the request."""
    told = sorted((name, tensor.tolist()) for name, tensor in tensors.items())
    corners = np.frombuffer(hashlib.sha256(repr(told).encode()).digest()[:12], np.uint8).reshape(2, 2, 3)
    image = Image.fromarray(corners).resize((asked["WIDTH"], asked["HEIGHT"]), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, format=asked["FORMAT"].decode())
    return file.getvalue()
