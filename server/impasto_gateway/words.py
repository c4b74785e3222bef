"""The words of a request: the server's table of fields, OpenAI's names, and a few of the gateway's own.

A row that the server's table gains is a word here, and in /openapi.json, by itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from impasto_client.fields import TABLE
from impasto_gateway.errors import WORDS, Refusal, wrong

# The kinds of values, as in the table of fields.
OWN: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "text",
        "model": "text",
        "size": "text",
        "stream": "flag",
        "partial_images": "number",
        "upscale": "flag",
        "progress": "flag",
        "metadata": "flag",
        "timeout": "number",
        "mask": "picture",
    }
)

ALIASES: Mapping[str, str] = MappingProxyType({"num_inference_steps": "steps", "output_format": "format"})

# What other programs call our fields. They aren't taken for them, since their values may mean something else.
ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "cfg_scale": "guidance_scale",
        "denoising_strength": "strength",
        "sampler": "scheduler",
        "sampler_name": "scheduler",
        "batch_size": "n",
        "num_images": "n",
        "num_images_per_prompt": "n",
        "loras": "adapters",
    }
)

# OpenAI's fields that mean nothing here, and the values with which nothing is lost.
IGNORED: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "quality": ("auto",),
        "background": ("auto", "opaque"),
        "moderation": ("auto",),
        "user": (),
        "safety_identifier": (),
        "response_format": ("b64_json",),
        "output_compression": (100,),
        "input_fidelity": (),
        "complexity": (),
        "frame_count": (),
        "frame_duration_ms": (),
        "svg": (),
    }
)

# Fields of the wire that callers say in another way: weights come with their adapters, files as `image` and `mask`,
# previews as `partial_images`.
_UNSAID = ("ADAPTER_WEIGHTS", "STYLE_IMAGES", "MASKS", "PREVIEW_EVERY")


def kinds() -> dict[str, str]:
    """Every word that means something, and the kind of its values."""
    told = {field.word: field.kind for field in TABLE.fields if field.name not in _UNSAID}
    return {**OWN, **told}


KINDS = kinds()


@dataclass(frozen=True)
class Words:
    """What a caller said, by our words; `names` are the caller's words for fields of the wire."""

    values: Mapping[str, Any]
    names: Mapping[str, str]
    warnings: tuple[str, ...]


def words_of(said: Mapping[str, Any]) -> Words:
    """Read a request's fields; null is the same as nothing. Raises Refusal for a field that nobody knows."""
    values: dict[str, Any] = {}
    names, warnings = dict(WORDS), []
    for word, value in said.items():
        if word in IGNORED:
            warnings += _ignored(word, value)
            continue
        ours = ALIASES.get(word, word)
        wire = _WIRE.get(ours, ours.upper())
        if ours not in KINDS:
            raise _unknown(word)
        if value is None:
            continue
        if ours in values:
            raise wrong(word, f"{names[wire]} says the same; send one of them")
        values[ours] = value
        names[wire] = word
    return Words(values, names, tuple(warnings))


_WIRE = {field.word: field.name for field in TABLE.fields}


def _ignored(word: str, value: Any) -> list[str]:
    harmless = value is None or any(value is one or value == one for one in IGNORED[word])
    return [] if harmless else [f"{word}: it has no effect here"]


def _unknown(word: str) -> Refusal:
    known = [*KINDS, *ALIASES]
    near = [ELSEWHERE[word]] if word in ELSEWHERE else difflib.get_close_matches(word[:64], known, 1)
    fix = f"did you mean {near[0]!r}?" if near else "leave it out; /openapi.json lists all fields"
    return wrong(word, f"there is no such field; {fix}", "unknown_field")
