"""Encode a request for a picture as tensors, and decode the answer. This does no input or output, except that it reads
pictures given by their Path.

All tensors are 1-D; text is UTF-8 bytes in arrays of dtype object (KServe's BYTES).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

from numpy.typing import NDArray
from typing_extensions import Unpack

from impasto_client.encoding import encoded, one
from impasto_client.errors import ProtocolError
from impasto_client.fields import TABLE, Options
from impasto_client.generation import Candidate, Generation, Progress, Timings
from impasto_client.tensor import texts

MODEL = "stylize"
STREAM = "stylize_stream"

Tensors: TypeAlias = Mapping[str, NDArray[Any]]

_Kind = TypeVar("_Kind")


def encode(prompt: str, **options: Unpack[Options]) -> dict[str, NDArray[Any]]:
    """The input tensors of a request. None is left out, so that the server's default holds; so are empty adapters and
    styles.

    Only what tensors can't carry is refused here (InvalidRequest); the server checks the rest.
    Raises TypeError for an unknown option.
    """
    check_words(options, Options)
    return {"PROMPT": texts("PROMPT", prompt), **encoded(options, TABLE)}


def encode_stream(prompt: str, preview_every: int, **options: Unpack[Options]) -> dict[str, NDArray[Any]]:
    """As `encode`, for the model that streams; a preview comes every `preview_every` steps, none for 0."""
    every = {} if preview_every is None else one(TABLE.by_name["PREVIEW_EVERY"], preview_every)
    return {**encode(prompt, **options), **{name: tensor for name, tensor in every.items() if tensor.any()}}


def decode(tensors: Tensors) -> Generation:
    """The answer from output tensors IMAGE BYTES [n], SEED INT64 [n], META BYTES [1] (JSON) and, if the candidates are
    scored, SCORE FP32 [n]. Raises ProtocolError."""
    meta, timings, warnings = account(tensors)
    return Generation(candidates=_candidates(tensors), timings=timings, warnings=warnings, meta=meta)


def account(tensors: Tensors) -> tuple[dict[str, object], Timings, tuple[str, ...]]:
    """The server's report in META BYTES [1]: all of it, its timings, its warnings.

    Raises ProtocolError."""
    meta = _meta(_only(tensors, "META", bytes))
    return meta, _timings(meta), _warnings(meta)


def decode_part(tensors: Tensors) -> Progress | Generation:
    """A response of a stream: the answer if it has an IMAGE, else progress from STEP INT32 [1], STEPS INT32 [1],
    ETA_S FP32 [1] and sometimes PREVIEW BYTES [n]. Raises ProtocolError."""
    if "IMAGE" in tensors:
        return decode(tensors)
    return Progress(
        step=_only(tensors, "STEP", int),
        steps=_only(tensors, "STEPS", int),
        eta_s=_only(tensors, "ETA_S", float),
        previews=tuple(values_of(tensors, "PREVIEW", bytes)) if "PREVIEW" in tensors else (),
    )


def check_words(options: Mapping[str, object], kind: type[Any]) -> None:
    """Raises TypeError for an option that `kind`, a TypedDict, doesn't have."""
    known = kind.__annotations__
    for word in options:
        if word not in known:
            near = difflib.get_close_matches(word, known, 1)
            raise TypeError(f"there is no option {word!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def values_of(tensors: Tensors, name: str, kind: type[_Kind]) -> list[_Kind]:
    """An output's values, at least one. Raises ProtocolError."""
    values = tensors[name].tolist() if name in tensors else None
    if not isinstance(values, list) or not values or not all(isinstance(value, kind) for value in values):
        raise ProtocolError(f"the server's answer has no {name} of type {kind.__name__}")
    return values


def _candidates(tensors: Tensors) -> tuple[Candidate, ...]:
    """The candidates in the server's order. Raises ProtocolError where the outputs disagree on their number."""
    images, seeds = values_of(tensors, "IMAGE", bytes), values_of(tensors, "SEED", int)
    scores = values_of(tensors, "SCORE", float) if "SCORE" in tensors else [None] * len(images)
    if not len(images) == len(seeds) == len(scores):
        problem = f"{len(images)} of IMAGE, {len(seeds)} of SEED and {len(scores)} of SCORE"
        raise ProtocolError(f"the server's answer has {problem}; the numbers should be equal")
    return tuple(map(Candidate, images, seeds, scores))


def _only(tensors: Tensors, name: str, kind: type[_Kind]) -> _Kind:
    values = values_of(tensors, name, kind)
    if len(values) != 1:
        raise ProtocolError(f"the server's answer has no {name} of one {kind.__name__}")
    return values[0]


def _meta(text: bytes) -> dict[str, object]:
    try:
        meta = json.loads(text)
    except ValueError as error:
        raise ProtocolError(f"the server's META is not JSON: {error}") from None
    if not isinstance(meta, dict):
        raise ProtocolError("the server's META is not a JSON object")
    return meta


def _timings(meta: Mapping[str, object]) -> Timings:
    timings = meta.get("timings")
    wanted = Timings.__dataclass_fields__
    if not isinstance(timings, dict) or not all(isinstance(timings.get(name), (int, float)) for name in wanted):
        raise ProtocolError(f"the server's META has no timings with {', '.join(wanted)}")
    return Timings(**{name: float(timings[name]) for name in wanted})


def _warnings(meta: Mapping[str, object]) -> tuple[str, ...]:
    warnings = meta.get("warnings")
    if not isinstance(warnings, list) or not all(isinstance(warning, str) for warning in warnings):
        raise ProtocolError("the server's META has no list of warnings")
    return tuple(warnings)
