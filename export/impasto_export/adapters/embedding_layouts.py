"""File layouts of textual inversions. Widths tell text encoders apart; names order tokens and stages."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from impasto_export.adapters import layouts
from impasto_export.errors import AdapterError, UnaccountedKeys
from impasto_export.weights import Header, Tensor

# Widths of the text encoders of public checkpoints: SD 1.x and SDXL's first, SD 2.x, SDXL's second.
KNOWN = (768, 1024, 1280)
# Integers that A1111 keeps beside the vectors.
TOKEN_NUMBERS = "string_to_token/"
# By layout: the name of the tensor with all vectors for a text encoder.
WHOLE = {
    "a1111": re.compile(r"string_to_param/(?P<token>.+)"),
    "kohya": re.compile(r"emb_params"),
    "clip": re.compile(r"clip_[lgh]|text_encoders_\d"),
}
STAGE = re.compile(r"(?P<token>.+)-T(?P<number>\d+)")
# Tensors as wide as a text encoder that are not a token's embedding.
OTHERS = {
    re.compile(r"(?:IN|MID|OUT)\d*"): "for a block of a UNet (extended textual inversion), not for a text encoder",
    re.compile(r"(?:clip_[lgh]|emb_params)_out"): "for a text encoder's output (OneTrainer's), not for its input",
}
# Endings that no token has.
MODULES = (".weight", ".bias")


@dataclass(frozen=True)
class Part:
    """A tensor of one of a source's files."""

    header: Header
    key: str

    @property
    def tensor(self) -> Tensor:
        return self.header.tensors[self.key]


@dataclass(frozen=True)
class Layout:
    """An embedding of one width; for each stage, the tensors whose rows, in order, are its vectors."""

    name: str
    token: str | None
    stages: list[list[Part]]


def parts(headers: Iterable[Header]) -> list[Part]:
    """The tensors that may hold vectors."""
    return [Part(header, key) for header in headers for key in header.tensors if not key.startswith(TOKEN_NUMBERS)]


def recognises(found: Collection[Part], widths: Collection[int]) -> bool:
    """Whether all are vectors for text encoders of these or known widths, and none belongs to a LoRA or a module."""
    return bool(found) and all(_is_vector(part, {*KNOWN, *widths}) for part in found)


def _is_vector(part: Part, widths: Collection[int]) -> bool:
    shape, key = part.tensor.shape, part.key
    named = layouts.speaks_of_lora(key) or key.endswith(MODULES)
    return len(shape) in (1, 2) and shape[-1] in widths and not named


def by_width(source: str, found: Iterable[Part]) -> dict[int, Layout]:
    """Width -> layout. Raises UnaccountedKeys for tensors that don't belong to it, AdapterError for missing ones."""
    found = list(found)
    others = [(part.key, why) for part in found for name, why in OTHERS.items() if name.fullmatch(part.key)]
    if others:
        raise UnaccountedKeys(source, [f"{key}: {why}" for key, why in others])
    groups: dict[int, dict[str, Part]] = {}
    for part in found:
        group = groups.setdefault(part.tensor.shape[-1], {})
        if part.key in group:
            raise UnaccountedKeys(source, [f"{part.key}: in both files, {part.tensor.shape[-1]} wide in each"])
        group[part.key] = part
    return {width: _layout(source, groups[width]) for width in sorted(groups)}


def _layout(source: str, group: Mapping[str, Part]) -> Layout:
    name, token, stages = _ordered(source, group.keys())
    extra = sorted(group.keys() - {key for stage in stages for key in stage})
    if extra:
        reason = f"not of the embedding {token or ''}".rstrip()
        raise UnaccountedKeys(source, [f"{key}: {reason} ({name} layout)" for key in extra])
    return Layout(name, token, [[group[key] for key in stage] for stage in stages])


def _ordered(source: str, keys: Collection[str]) -> tuple[str, str | None, list[list[str]]]:
    """The layout's name, the token if stated, and the keys of each stage."""
    whole = (
        (name, match) for name, pattern in WHOLE.items() for key in sorted(keys) if (match := pattern.fullmatch(key))
    )
    name, found = next(whole, ("", None))
    if found:
        return name, found.groupdict().get("token"), [[found.string]]
    staged = [match for key in keys if (match := STAGE.fullmatch(key))]
    return _dreamstyler(source, staged) if staged else _diffusers(source, keys)


def _dreamstyler(source: str, staged: list[re.Match[str]]) -> tuple[str, str, list[list[str]]]:
    """`<token>-T0` … `<token>-T<n>`, sorted by number: as text, T10 would come before T2."""
    token = min(match["token"] for match in staged)
    stages: dict[int, str] = {}
    for match in sorted((match for match in staged if match["token"] == token), key=lambda match: match.string):
        stages.setdefault(int(match["number"]), match.string)
    _check_complete(source, f"{token}-T", stages.keys(), 0)
    return "dreamstyler", token, [[stages[number]] for number in sorted(stages)]


def _diffusers(source: str, keys: Collection[str]) -> tuple[str, str, list[list[str]]]:
    """One token, or `tok`, `tok_1`, `tok_2`: several tokens that are one embedding."""
    token = max(sorted(keys), key=lambda key: len(_further(key, keys)))
    further = _further(token, keys)
    _check_complete(source, f"{token}_", further.keys(), 1)
    return "diffusers", token, [[token, *(further[number] for number in sorted(further))]]


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
