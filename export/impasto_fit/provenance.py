"""Where a fitted adapter comes from, as its header tells: recipe, constants, digests of pictures and checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from impasto_fit.pictures import Picture, digest
from impasto_fit.recipe import Recipe, Words

KEY = "impasto_fit"  # of a safetensors file's metadata


@dataclass(frozen=True)
class Provenance:
    """`recipe` is its class's name; `constants` are its fields but for folders, which are known by digests."""

    recipe: str
    constants: dict[str, Any]
    checkpoint: str
    pictures: tuple[str, ...]
    words: dict[str, Any]

    @classmethod
    def of(cls, recipe: Recipe, checkpoint: str, pictures: Sequence[Picture], words: Words) -> Provenance:
        """`checkpoint` is a digest, or several in one."""
        return cls(type(recipe).__name__, constants(recipe), checkpoint, tuple(map(digest, pictures)), asdict(words))

    @property
    def fit(self) -> str:
        """What a kept state is of: sha256 of all this. A budget is no part of it: a fit may be resumed with more."""
        return hashlib.sha256(self.dump().encode()).hexdigest()

    def dump(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    def header(self, steps: int) -> dict[str, str]:
        """The metadata of a file that took so many steps."""
        return {KEY: json.dumps({**asdict(self), "steps": steps}, sort_keys=True, ensure_ascii=False)}


def constants(recipe: Any) -> dict[str, Any]:
    """The fields of a dataclass that are numbers, words, rows of them, or dataclasses of such."""
    found = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    plain = {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in found.items()
    }
    return {name: value for name, value in plain.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def digest_of(*files: Path) -> str:
    """sha256 of a file; of several, of theirs in order."""
    return digest_all(*(_sha256(path) for path in files))


def digest_all(*digests: str) -> str:
    """One as it is; of several, sha256 of them in order."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
