"""The hook for an operator's check: it sees every picture before it leaves, may change it, and may refuse it.

    impasto gateway --check mychecks:corner

names a callable in a module that can be imported: RGB uint8 [H, W, 3] and the request's words in, RGB or a Refused out.
It must be safe to call from several threads. If it raises, nothing is delivered. docs/examples/checks.py has two.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from impasto_client.errors import ImpastoError
from impasto_gateway.errors import SERVER, Refusal
from impasto_gateway.settings import GatewaySettings

Pixels = NDArray[np.uint8]

# As the server encodes, so a changed picture is no larger and no worse than it must be.
_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 1, "compress_type": zlib.Z_RLE},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
}


@dataclass(frozen=True)
class Refused:
    """A check's refusal; `reason` is told to the caller."""

    reason: str


class Check(Protocol):
    """What an operator writes."""

    def __call__(self, rgb: Pixels, words: str) -> Pixels | Refused:
        """`rgb` is uint8 [H, W, 3], `words` the prompt, "" for a photo. The same array back means: as it is."""
        ...


@dataclass(frozen=True)
class Checked:
    """A picture that passed. `changed`: the file is another than the server's."""

    data: bytes
    changed: bool


def check_of(settings: GatewaySettings) -> Check | None:
    """The check that the settings name as `module:attribute`. Raises ImpastoError where there is none of that name."""
    if settings.check is None:
        return None
    try:
        found = resolve_name(settings.check)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImpastoError(f"check: {settings.check!r} can't be imported ({error}); pass MODULE:NAME") from None
    if not callable(found):
        raise ImpastoError(f"check: {settings.check!r} is a {type(found).__name__}; name a function")
    check: Check = found
    return check


def checked(data: bytes, words: str, check: Check) -> Checked:
    """The file after the check. It is encoded anew only if the check changed a pixel.

    Raises Refusal: 400 if the check refused, 500 if it failed.
    """
    with Image.open(io.BytesIO(data)) as picture:
        kind, rgb = picture.format or "PNG", np.asarray(picture.convert("RGB"))
    try:
        found = check(rgb.copy(), words)
    except Exception as error:
        raise _failed(f"it raised {type(error).__name__}") from error
    if isinstance(found, Refused):
        raise Refusal(400, f"prompt: {found.reason}", "moderation_blocked", "prompt")
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
        raise _failed("it returned no RGB uint8 [H, W, 3]")
    if np.array_equal(found, rgb):
        return Checked(data, False)
    file = io.BytesIO()
    Image.fromarray(found).save(file, kind, **_OPTIONS[kind])
    return Checked(file.getvalue(), True)


def _failed(problem: str) -> Refusal:
    message = f"the operator's check failed ({problem}), so no picture is sent; the gateway's log says more"
    return Refusal(500, message, "check_failed", kind=SERVER)
