"""How textual inversions in the wild spell their tokens, stages and text encoders: the keys in order."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from impasto_export.adapters import layouts
from impasto_export.errors import AdapterError, UnaccountedKeys

FIRST, SECOND = "text_encoder", "text_encoder_2"
A1111, KOHYA = "string_to_param/", "emb_params"
# SDXL's two text encoders by their names in A1111 and kohya files.
SDXL = {"clip_l": FIRST, "clip_g": SECOND}
STAGE = re.compile(r"(?P<token>.+)-T(?P<number>\d+)")


@dataclass(frozen=True)
class Layout:
    """`keys` by text encoder: for each stage, the tensors whose rows one after the other are its vectors."""

    name: str
    token: str | None
    keys: Mapping[str, list[list[str]]]


def recognise(source: str, keys: Collection[str]) -> Layout | None:
    """The layout that the tensors' names speak of; None when they speak of none.

    Raises UnaccountedKeys for tensors the layout has no place for, AdapterError for tensors it misses.
    """
    found = _recognise(source, keys)
    if found is not None:
        used = {key for stages in found.keys.values() for stage in stages for key in stage}
        extra = sorted(set(keys) - used)
        if extra:
            reason = f"not of the embedding {found.token or ''}".rstrip()
            raise UnaccountedKeys(source, [f"{key}: {reason} ({found.name} layout)" for key in extra])
    return found


def _recognise(source: str, keys: Collection[str]) -> Layout | None:
    if any(key.startswith(A1111) for key in keys):
        key = min(key for key in keys if key.startswith(A1111))
        return Layout("a1111", key.removeprefix(A1111), {FIRST: [[key]]})
    if KOHYA in keys:
        return Layout("kohya", None, {FIRST: [[KOHYA]]})
    if SDXL.keys() & keys:
        if not SDXL.keys() <= set(keys):
            raise AdapterError(f"{source} has {' or '.join(SDXL.keys() & keys)} alone; SDXL needs clip_l and clip_g")
        return Layout("sdxl", None, {encoder: [[key]] for key, encoder in SDXL.items()})
    staged = [match for key in keys if (match := STAGE.fullmatch(key))]
    if staged:
        return _dreamstyler(source, staged)
    if keys and not any(_is_path(key) for key in keys):
        return _diffusers(source, keys)
    return None


def _is_path(key: str) -> bool:
    """Whether it names a module's tensor: a token has no dot, unless in its angle brackets."""
    return layouts.is_lora(key) or ("." in key and not key.startswith("<"))


def _dreamstyler(source: str, staged: list[re.Match[str]]) -> Layout:
    """`<token>-T0` … `<token>-T<n>`: by number, since T10 comes before T2 by its letters."""
    token = min(match["token"] for match in staged)
    stages: dict[int, str] = {}
    for match in sorted((match for match in staged if match["token"] == token), key=lambda match: match.string):
        stages.setdefault(int(match["number"]), match.string)
    _check_complete(source, f"{token}-T", stages.keys(), 0)
    return Layout("dreamstyler", token, {FIRST: [[stages[number]] for number in sorted(stages)]})


def _diffusers(source: str, keys: Collection[str]) -> Layout:
    """One token, or `tok`, `tok_1`, `tok_2`: several tokens that are one embedding."""
    token = max(sorted(keys), key=lambda key: len(_further(key, keys)))
    further = _further(token, keys)
    _check_complete(source, f"{token}_", further.keys(), 1)
    return Layout("diffusers", token, {FIRST: [[token, *(further[number] for number in sorted(further))]]})


def _further(token: str, keys: Collection[str]) -> dict[int, str]:
    """number -> key of `token_<number>`."""
    matches = [re.fullmatch(rf"{re.escape(token)}_([1-9]\d*)", key) for key in keys]
    return {int(match[1]): match.string for match in matches if match}


def _check_complete(source: str, prefix: str, numbers: Collection[int], first: int) -> None:
    """Raises AdapterError unless `numbers` run from `first` without a gap."""
    missing = sorted(set(range(first, first + len(numbers))) - set(numbers))
    if missing:
        names = ", ".join(f"{prefix}{number}" for number in missing)
        raise AdapterError(f"{source} is incomplete: it has {len(numbers)} keys {prefix}…, but {names} is missing")
