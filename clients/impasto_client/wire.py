"""The one place where a request becomes tensors and tensors become an answer. Does no input or output itself.

All tensors are 1-D; text travels as UTF-8 bytes in arrays of dtype object (KServe's BYTES).
"""

from __future__ import annotations

import difflib
import json
import operator
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat, SupportsIndex, TypeAlias, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from impasto_client.errors import InvalidRequest, ProtocolError
from impasto_client.generation import Generation, Progress, Timings

MODEL = "stylize"
STREAM = "stylize_stream"

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
Styles: TypeAlias = Mapping[str, float] | str | None

_Kind = TypeVar("_Kind")


class Options(TypedDict, total=False):
    """What may be said of a picture besides the prompt. What is left out or None is the server's to choose.

    styles: names of adapters in the server's registry to weights, -4 to 4; a lone name has the weight 1.
    negative_prompt: what the picture should not show.
    steps: denoising steps, 1 to 200.
    guidance_scale: how strongly the prompt counts, 0 to 50; 1 turns guidance off.
    scheduler: ddim, dpmpp_2m or euler.
    seed: 0 to 2**63-1; the same seed paints the same picture.
    width, height: pixels.
    format: png, jpeg or webp.
    """

    styles: Styles
    negative_prompt: str | None
    steps: int | None
    guidance_scale: float | None
    scheduler: str | None
    seed: int | None
    width: int | None
    height: int | None
    format: str | None


def encode(prompt: str, **options: Unpack[Options]) -> dict[str, NDArray[Any]]:
    """The input tensors of a request. What is None or empty is left out, so that the server's default counts.

    Only what a tensor can't carry is refused here (InvalidRequest); what is allowed is for the server to say.
    Raises TypeError for a word that is no option.
    """
    _check_words(options)
    return {
        "PROMPT": _texts("PROMPT", prompt),
        **_styles(options.get("styles")),
        **_optional_text("NEGATIVE_PROMPT", options.get("negative_prompt") or None),
        **_optional("STEPS", options.get("steps"), np.int32),
        **_optional("GUIDANCE_SCALE", options.get("guidance_scale"), np.float32),
        **_optional_text("SCHEDULER", options.get("scheduler")),
        **_optional("SEED", options.get("seed"), np.int64),
        **_optional("WIDTH", options.get("width"), np.int32),
        **_optional("HEIGHT", options.get("height"), np.int32),
        **_optional_text("FORMAT", options.get("format")),
    }


def encode_stream(prompt: str, preview_every: int, **options: Unpack[Options]) -> dict[str, NDArray[Any]]:
    """As `encode`, for the model that streams; `preview_every` counts steps, and 0 asks for no previews."""
    return {**encode(prompt, **options), **_optional("PREVIEW_EVERY", preview_every or None, np.int32)}


def decode(tensors: Tensors) -> Generation:
    """The answer in output tensors IMAGE BYTES [1], SEED INT64 [1], META BYTES [1] (JSON). Raises ProtocolError."""
    meta = _meta(_only(tensors, "META", bytes))
    return Generation(
        data=_only(tensors, "IMAGE", bytes),
        seed=_only(tensors, "SEED", int),
        timings=_timings(meta),
        warnings=_warnings(meta),
        meta=meta,
    )


def decode_part(tensors: Tensors) -> Progress | Generation:
    """One response of a stream: the answer where it has an IMAGE, else STEP INT32 [1], STEPS INT32 [1], ETA_S FP32 [1]
    and at times PREVIEW BYTES [1]. Raises ProtocolError."""
    if "IMAGE" in tensors:
        return decode(tensors)
    return Progress(
        step=_only(tensors, "STEP", int),
        steps=_only(tensors, "STEPS", int),
        eta_s=_only(tensors, "ETA_S", float),
        preview=_only(tensors, "PREVIEW", bytes) if "PREVIEW" in tensors else None,
    )


def _check_words(options: Mapping[str, object]) -> None:
    for word in options:
        if word not in Options.__annotations__:
            near = difflib.get_close_matches(word, Options.__annotations__, 1)
            raise TypeError(f"there is no option {word!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _styles(styles: Styles) -> dict[str, NDArray[Any]]:
    if not styles:
        return {}
    if isinstance(styles, str):
        return {"ADAPTER_NAMES": _texts("ADAPTER_NAMES", styles)}
    return {
        "ADAPTER_NAMES": _texts("ADAPTER_NAMES", *styles),
        "ADAPTER_WEIGHTS": _numbers("ADAPTER_WEIGHTS", list(styles.values()), np.float32),
    }


def _texts(name: str, *texts: str) -> NDArray[Any]:
    try:
        return np.array([text.encode() for text in texts], dtype=np.object_)
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{name}: character {error.start} can't be encoded; pass valid Unicode", name) from None


def _optional_text(name: str, text: str | None) -> dict[str, NDArray[Any]]:
    return {} if text is None else {name: _texts(name, text)}


def _optional(name: str, value: float | None, dtype: type[np.number[Any]]) -> dict[str, NDArray[Any]]:
    return {} if value is None else {name: _numbers(name, [value], dtype)}


def _numbers(name: str, values: Sequence[float], dtype: type[np.number[Any]]) -> NDArray[Any]:
    """Raises InvalidRequest where NumPy would round or wrap a value in silence to make it fit."""
    try:
        if issubclass(dtype, np.integer):
            return np.array([_whole(value, np.iinfo(dtype)) for value in values], dtype=dtype)
        with np.errstate(over="ignore"):  # a float too large becomes inf, and the server says what it allows
            return np.array([_real(value) for value in values], dtype=dtype)
    except (TypeError, OverflowError) as error:
        raise InvalidRequest(f"{name}: {error}", name) from None


def _whole(value: object, bounds: np.iinfo[Any]) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{value!r} is no whole number; pass one")
    whole = operator.index(value)
    if not bounds.min <= whole <= bounds.max:
        raise OverflowError(f"{value!r} does not fit in {bounds.bits} bits; pass {bounds.min} to {bounds.max}")
    return whole


def _real(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise TypeError(f"{value!r} is no number; pass one")
    return float(value)


def _only(tensors: Tensors, name: str, kind: type[_Kind]) -> _Kind:
    value = tensors[name].tolist() if name in tensors else None
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], kind):
        raise ProtocolError(f"the server's answer has no {name} holding one {kind.__name__}")
    return value[0]


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
