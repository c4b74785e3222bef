"""The text `parameters` of a picture, as AUTOMATIC1111's web UI writes it and many tools read it.

a red boat <lora:neon:0.8>
Negative prompt: blurry
Steps: 25, Sampler: DPM++ 2M, CFG scale: 3, Seed: 7, Size: 128x128, Model: studio, Lora hashes: "neon: 0f2a…"

It says less than impasto's own mark, and anybody can write it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_SAMPLERS = {
    "ddim": "DDIM",
    "dpmpp_2m": "DPM++ 2M",
    "euler": "Euler",
    "euler_a": "Euler a",
    "lcm": "LCM",
    "unipc": "UniPC",
}
_NEGATIVE = "Negative prompt:"
# "Key: value, Key: value" where a value with a comma, a colon or a line break is a JSON string.
_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_LONGEST = 16 << 10  # characters of a last line that is no longer the prompt's
_CONTROL = re.compile(r"[\0-\x08\x0b-\x1f\x7f]")
_FEWEST = 3  # pairs in a last line that is no longer the prompt's, by the web UI's own reading


@dataclass(frozen=True)
class Parameters:
    """What such a text says. `loras` are names with weights; `hashes` are names with the first digits of a digest."""

    prompt: str
    negative: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


def written(prompt: str, negative: str, loras: Sequence[tuple[str, float]], settings: Mapping[str, object]) -> str:
    """The text. `loras` are named at the prompt's end; settings that are None are left out."""
    tags = " ".join(f"<lora:{name}:{weight:g}>" for name, weight in loras)
    said = ", ".join(f"{key}: {_quoted(_plain(str(value)))}" for key, value in settings.items() if value is not None)
    lines = [f"{_plain(prompt)} {tags}".strip(), f"{_NEGATIVE} {_plain(negative)}" if negative else "", said]
    return "\n".join(line for line in lines if line)


def sampler_name(scheduler: object) -> object:
    """The web UI's name of a scheduler; one that it doesn't have keeps ours."""
    return _SAMPLERS.get(scheduler, scheduler) if isinstance(scheduler, str) else scheduler


def read(text: str) -> Parameters:
    """What the text says; a text of another kind is all prompt."""
    *lines, last = text.strip().split("\n")
    pairs = [*_pairs(last)] if len(last) <= _LONGEST else []
    if len(pairs) < _FEWEST:
        lines, pairs = [*lines, last], []
    prompt, negative = _parted(lines)
    return Parameters(prompt, negative, {key: _unquoted(value.strip()) for key, value in pairs})


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """Keys and values. What begins behind a comma is tried once, so that no line takes long."""
    at = 0
    while at < len(line):
        found = _PAIR.match(line, at)
        if found:
            yield found[1], found[2]
        at = found.end() if found else (line.find(",", at) + 1 or len(line))


def _parted(lines: Sequence[str]) -> tuple[str, str]:
    """Prompt and negative prompt; the latter goes from the line that begins it to the end."""
    first = next((place for place, line in enumerate(lines) if line.strip().startswith(_NEGATIVE)), len(lines))
    return "\n".join(lines[:first]), "\n".join(_without_heading(lines[first:]))


def _without_heading(lines: Sequence[str]) -> Iterator[str]:
    for place, line in enumerate(lines):
        yield line.strip().removeprefix(_NEGATIVE).strip() if place == 0 else line


def _plain(text: str) -> str:
    """Without control characters, which neither PNG nor XML can hold."""
    return _CONTROL.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if set(value) & set(",:\n") else value


def _unquoted(value: str) -> str:
    try:
        said = json.loads(value) if value.startswith('"') else value
    except ValueError:
        return value
    return said if isinstance(said, str) else value
