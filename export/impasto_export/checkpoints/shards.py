"""Find a part's weight files, of one variant: a single safetensors file, or the shards that an index names.

diffusers and transformers name them `STEM.safetensors` and `STEM.fp16.safetensors`; in shards,
`STEM-00001-of-00002.safetensors` with `STEM.safetensors.index.json`, and `STEM.fp16-00001-of-00002.safetensors` with
`STEM.safetensors.index.fp16.json`, formerly `STEM.safetensors.fp16.index.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from impasto_export.architecture import read_json
from impasto_export.errors import CheckpointError

SHARD = "-?????-of-?????"


@dataclass(frozen=True)
class Names:
    """The file names of one component; `stem` is "model" or "diffusion_pytorch_model"."""

    stem: str
    variant: str | None = None

    @property
    def file(self) -> str:
        return f"{self._varied}.safetensors"

    @property
    def indices(self) -> tuple[str, ...]:
        index = f"{self.stem}.safetensors.index"
        if not self.variant:
            return (f"{index}.json",)
        return f"{index}.{self.variant}.json", f"{self.stem}.safetensors.{self.variant}.index.json"

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns of all files that may belong to it."""
        once = (f"{self.stem}{SHARD}.{self.variant}.safetensors",) if self.variant else ()
        return self.file, *self.indices, f"{self._varied}{SHARD}.safetensors", *once

    @property
    def _varied(self) -> str:
        return f"{self.stem}.{self.variant}" if self.variant else self.stem


def find(folder: Path, names: Names) -> tuple[Path, ...]:
    """The files, in the index's order; none where there is neither a file nor an index of these names.

    Where there are both, the index counts, as in diffusers. Raises CheckpointError when the index names a missing file.
    """
    for index in names.indices:
        if (folder / index).is_file():
            return tuple(_shard(folder / index, name) for name in _named(folder / index))
    path = folder / names.file
    return (path.resolve(),) if path.is_file() else ()


def _named(index: Path) -> list[str]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index}: weight_map is {places!r}; it must name each tensor's shard")
    return sorted(set(map(str, places.values())))


def _shard(index: Path, name: str) -> Path:
    path = index.parent / name
    if Path(name).name != name or path.suffix != ".safetensors":
        raise CheckpointError(f"{index}: {name!r} is not the name of a safetensors file beside it")
    if not path.is_file():
        raise CheckpointError(f"{index}: its shard {name} is missing; get it, too")
    return path.resolve()


def missing(folder: Path, names: Names) -> CheckpointError:
    """The error for when `find` found nothing."""
    held = ", ".join(sorted(item.name for item in folder.glob("*") if item.name != "config.json")) or "nothing else"
    return CheckpointError(f"{folder / names.file} is missing, and so is an index of shards; the folder holds {held}")
