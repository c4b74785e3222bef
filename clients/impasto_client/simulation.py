"""The answers of a FakeTransport: pictures and scores that depend only on the request."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from impasto_client.errors import InvalidRequest
from impasto_client.field import Rule
from impasto_client.fields import TABLE
from impasto_client.wire import Tensors

MAX_SEED = 2**63 - 1

SIDE = 128  # pixels of a picture, by default
_UNSEEN = ("PREVIEW_EVERY", "N", "RERANK", "STYLE_IMAGE")  # inputs that change no picture
_STEP_S = 0.1  # the stated duration of a step; nobody waits for it


def answer(tensors: Tensors, warnings: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The outputs of model `stylize` for a request for pictures."""
    alone = _alone(tensors)
    pictures, seeds = [_picture(one) for one in alone], [one["SEED"].item() for one in alone]
    ranks = _ranks(tensors, pictures)
    order = sorted(range(len(alone)), key=lambda place: -ranks[place]) if ranks else range(len(alone))
    scored = {"SCORE": np.array([ranks[place] for place in order], dtype=np.float32)} if ranks else {}
    return {
        "IMAGE": np.array([pictures[place] for place in order], dtype=np.object_),
        "SEED": np.array([seeds[place] for place in order], dtype=np.int64),
        "META": np.array([json.dumps(_meta(tensors, warnings)).encode()], dtype=np.object_),
        **scored,
    }


def steps(tensors: Tensors) -> Iterator[Tensors]:
    """The responses of a stream, except the last."""
    asked = _asked(tensors)
    every, last = asked["PREVIEW_EVERY"], asked["STEPS"]
    shown = range(every, last, every) if every else ()  # the last step's preview would be the picture itself
    for step in range(1, last + 1):
        yield {
            "STEP": np.array([step], dtype=np.int32),
            "STEPS": np.array([last], dtype=np.int32),
            "ETA_S": np.array([(last - step) * _STEP_S], dtype=np.float32),
            **(_previews(tensors) if step in shown else {}),
        }


def scores(tensors: Tensors) -> dict[str, NDArray[Any]]:
    """The outputs of model `clip_score` for a request."""
    images, wanted = tensors["IMAGE"], tensors["TEXT" if "TEXT" in tensors else "REFERENCE"]
    pairs = zip(images, np.broadcast_to(wanted, images.shape), strict=True)
    return {"SCORE": np.array([_score(image, one) for image, one in pairs], dtype=np.float32)}


def account(warnings: tuple[str, ...]) -> dict[str, object]:
    """The part of META that is the same for every request."""
    return {
        "warnings": list(warnings),
        "timings": dict.fromkeys(("queue_ms", "encode_ms", "denoise_ms", "decode_ms", "total_ms"), 0.0),
        "engine": "fake",
        "precision": "f32",
        "version": "fake",
        "model": "fake",
        "bundle": "0" * 64,
    }


def digest_of(content: bytes) -> str:
    """sha256 in hex."""
    return hashlib.sha256(content).hexdigest()


def names_in(tensors: Tensors, field: str) -> list[str]:
    """The texts of an input; empty where it is missing."""
    return [name.decode() for name in tensors[field].tolist()] if field in tensors else []


def file_of(image: Image.Image, format: str) -> bytes:
    """The image as a png, jpeg or webp file."""
    file = io.BytesIO()
    image.save(file, format=format)
    return file.getvalue()


def _rule(tensors: Tensors) -> Rule:
    return TABLE.by_rule[tensors["GUIDANCE"].tolist()[0].decode()] if "GUIDANCE" in tensors else TABLE.rules[0]


def _asked(tensors: Tensors) -> dict[str, Any]:
    """The request's values, with defaults for those left out; STEPS is the number that is run."""
    usual = {field.name: field.default for field in TABLE.fields if field.default is not None}
    strengths = {name for rule in TABLE.rules for name in rule.defaults} - {*_rule(tensors).defaults}
    defaults = {**usual, "SEED": 0, "WIDTH": SIDE, "HEIGHT": SIDE, **_rule(tensors).defaults}
    said = {name: _value(tensors[name].tolist()[0]) for name in tensors if name in defaults}
    left = () if "IMAGE" in tensors else ("STRENGTH",)
    asked = {name: value for name, value in {**defaults, **said}.items() if name not in (*strengths, *left)}
    return {**asked, "STEPS": int(asked["STEPS"] * round(asked.get("STRENGTH", 1.0), 6))}


def _value(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _alone(tensors: Tensors) -> list[Tensors]:
    """A request for each candidate: with its own seed, and without inputs that change no picture."""
    asked = _asked(tensors)
    seen = {name: tensor for name, tensor in tensors.items() if name not in _UNSEEN}
    seeds = [(asked["SEED"] + place) % (MAX_SEED + 1) for place in range(asked["N"])]
    return [{**seen, "SEED": np.array([seed], dtype=np.int64)} for seed in seeds]


def _meta(tensors: Tensors, warnings: tuple[str, ...]) -> dict[str, object]:
    asked = _asked(tensors)
    return {
        **account(warnings),
        "adapters": _adapters(tensors),
        "embeddings": [{"name": name, "digest": digest_of(name.encode())} for name in _embeddings(tensors)],
        "steps": asked["STEPS"],
        "guidance": asked["GUIDANCE"],
        **{name.lower(): asked[name] for name in (*_rule(tensors).defaults, "STRENGTH") if name in asked},
        **{name.lower(): names_in(tensors, name)[0] for name in ("CONTENT", "RERANK") if name in tensors},
        **({"guidance_ramp": True} if asked["GUIDANCE_RAMP"] else {}),
        "scheduler": asked["SCHEDULER"],
        "width": asked["WIDTH"],
        "height": asked["HEIGHT"],
    }


def _adapters(tensors: Tensors) -> list[dict[str, object]]:
    """META's adapters: those of ADAPTER_NAMES, and those in STYLE and CONTENT if the rule takes adapters there."""
    names = names_in(tensors, "ADAPTER_NAMES")
    weights = tensors["ADAPTER_WEIGHTS"].tolist() if "ADAPTER_WEIGHTS" in tensors else [1.0] * len(names)
    ruled = [*names_in(tensors, "STYLE"), *names_in(tensors, "CONTENT")] if _by_adapters(tensors) else []
    weighed = [*zip(names, weights, strict=True), *((name, 1.0) for name in ruled)]
    return [{"name": name, "digest": digest_of(name.encode()), "weight": weight} for name, weight in weighed]


def _embeddings(tensors: Tensors) -> list[str]:
    return [] if _by_adapters(tensors) else list(dict.fromkeys(names_in(tensors, "STYLE")))


def _by_adapters(tensors: Tensors) -> bool:
    """Whether STYLE names an adapter, not an embedding."""
    return _rule(tensors).styled == "adapter"


def _ranks(tensors: Tensors, pictures: Sequence[bytes]) -> list[float]:
    """A score for each picture if RERANK asks for it, else none. Raises InvalidRequest."""
    if "RERANK" not in tensors:
        return []
    field = "STYLE_IMAGE" if tensors["RERANK"].item() == b"style" else "PROMPT"
    if field not in tensors:
        raise InvalidRequest(f"{field}: is missing, and RERANK style compares with it; pass a picture file", field)
    wanted = tensors[field].item()
    return [_score(picture, wanted) for picture in pictures]


def _score(picture: bytes, wanted: bytes) -> float:
    return float(_direction(picture) @ _direction(wanted))


def _direction(content: bytes) -> NDArray[np.float64]:
    """A vector of length 1, drawn from the content's hash."""
    spread = np.frombuffer(hashlib.sha256(content).digest(), np.uint8) - 127.5
    return np.asarray(spread / np.linalg.norm(spread), dtype=np.float64)


def _picture(alone: Tensors) -> bytes:
    """A gradient between the request's four colours."""
    asked = _asked(alone)
    size = (asked["WIDTH"], asked["HEIGHT"])
    return file_of(_corners(alone).resize(size, Image.Resampling.BILINEAR), asked["FORMAT"])


def _previews(tensors: Tensors) -> Tensors:
    """The same four colours, as a PNG of four pixels for each candidate."""
    previews = [file_of(_corners(alone), "png") for alone in _alone(tensors)]
    return {"PREVIEW": np.array(previews, dtype=np.object_)}


def _corners(alone: Tensors) -> Image.Image:
    """Four colours drawn from a hash of the request."""
    told = sorted((name, tensor.tolist()) for name, tensor in alone.items())
    return Image.fromarray(np.frombuffer(hashlib.sha256(repr(told).encode()).digest()[:12], np.uint8).reshape(2, 2, 3))
