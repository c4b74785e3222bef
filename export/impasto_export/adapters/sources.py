"""Open a foreign adapter: a safetensors file, a pickle of tensors, or a folder with files of known names.

A file's first bytes tell which of the two it is, whatever its name. An adapter for two stages may come in two halves;
the second stage's half is then a separate file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from impasto_export.adapters import fitted, pickles
from impasto_export.adapters.pickles import SCALARS
from impasto_export.architecture import Json
from impasto_export.errors import AdapterError
from impasto_export.spellings import UPSCALER
from impasto_export.weights import Header, read_header, sha256_file

LORA, PEFT, BOTTLENECK = "pytorch_lora_weights.safetensors", "adapter_model.safetensors", "bottleneck.safetensors"
# An embedding's files for the first text encoder, and for the second.
EMBEDDINGS = tuple((f"learned_embeds{end}", f"learned_embeds_2{end}") for end in (".safetensors", ".bin"))
PAIR = re.compile(r"learned_embeds(?:_2)?(?P<rest>(?:-steps-\d+)?\.(?:safetensors|bin))")
SECOND = "upscaler.safetensors"  # the second stage's half
COMPONENTS = ("unet", "transformer", UPSCALER, "text_encoder", "text_encoder_2")
# Sets of files that are read together, in the order of the search.
SETS = (
    (LORA,),
    (PEFT,),
    tuple(f"{component}/{PEFT}" for component in COMPONENTS),
    (BOTTLENECK,),
    *EMBEDDINGS,
)


@dataclass(frozen=True)
class Source:
    """An open adapter. `place` is what the user named; `files` are those that are read. A pickle's header is that of
    the safetensors file made from it, and `notes` are the numbers and strings beside its tensors. `second` is the
    second stage's half, if that is a separate file; `graph` is the graph that all files are for, if that was stated."""

    place: Path
    files: tuple[Path, ...]
    headers: tuple[Header, ...]
    notes: Json = field(default_factory=dict)
    second: Source | None = None
    graph: str | None = None

    def __str__(self) -> str:
        return str(self.place)

    @property
    def halves(self) -> tuple[Source, ...]:
        """This half and, if there is one, the second; each with its own tensors only."""
        return (self,) if self.second is None else (self, self.second)

    @property
    def keys(self) -> list[str]:
        return [key for header in self.headers for key in header.tensors]

    @property
    def metadata(self) -> dict[str, str]:
        return {key: value for header in self.headers for key, value in header.metadata.items()}

    @property
    def pickled(self) -> bool:
        return any(header.path != path for header, path in zip(self.headers, self.files, strict=True))

    @property
    def joined(self) -> list[str]:
        """Notes on files that were read although the user named neither them nor their folder."""
        others = [path.name for path in self.files if path != self.place] if not self.place.is_dir() else []
        return [f"{name} beside it was read, too: the vectors for the other text encoder" for name in others]

    @property
    def left(self) -> list[str]:
        """A note on a file beside it that was not read, but may be the second half. No path: the note is hashed."""
        beside = self.place.parent / SECOND
        unread = self.place.is_file() and self.second is None and _taken(beside) and beside != self.place
        fix = "to have both stages, give it as --upscaler, or give the folder of both"
        return [f"{SECOND} beside it was not read; {fix}"] if unread else []

    def component(self, header: Header) -> str | None:
        """The component that a file is for: the stated `graph`, or its subfolder of `place`."""
        folder = header.path.parent
        return self.graph or self._named(folder)

    def _named(self, folder: Path) -> str | None:
        return folder.name if folder != self.place and folder.parent == self.place else None

    def facts(self, layout: str, assumed: list[str]) -> Json:
        """The record's entry on the adapter's source; `assumed` are notes on what was assumed."""
        names = [name for half in self.halves for name in half._names()]
        known = {"file": ", ".join(names), "sha256": self._digest(), "layout": layout, "assumed": assumed}
        return {**known, **fitted.facts(str(self), self.metadata)}

    def _names(self) -> list[str]:
        return [str(path.relative_to(self.place)) if self.place.is_dir() else path.name for path in self.files]

    def _digest(self) -> str:
        """sha256 of the file; for several, sha256 of their digests in order."""
        digests = [sha256_file(path) for half in self.halves for path in half.files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@contextmanager
def opened(place: Path, second: Path | None = None) -> Iterator[Source]:
    """The source, readable until the block ends, with its `second` half, which a folder may also contain.

    Raises AdapterError, or ExportError for a damaged file.
    """
    half = _second(place, second)
    with _opened(place, _files(place)) as source:
        if half is None:
            yield source
        else:
            with _opened(half, (half,)) as other:
                yield replace(source, second=replace(other, graph=UPSCALER))


def _second(place: Path, said: Path | None) -> Path | None:
    """The second half's file. Raises AdapterError when it is not a file, or when the folder has one, too."""
    inside = _inside(place)
    if said is None:
        return inside
    if not said.is_file():
        what = "is a folder" if said.is_dir() else "does not exist"
        raise AdapterError(f"--upscaler: {said} {what}; give the file of the second stage's half")
    if inside is not None:
        problem = f"got {said}, but {place} already holds {SECOND}"
        raise AdapterError(
            f"--upscaler: {problem}; leave the option out, or name the base's file instead of the folder"
        )
    return said


def _inside(folder: Path) -> Path | None:
    """The folder's second half, if it has one. Raises AdapterError when what has its name is not a file."""
    path = folder / SECOND
    if path.is_file():
        return path
    if not _taken(path):
        return None
    what = "is a dangling link" if not path.exists() else "is a folder" if path.is_dir() else "is not a regular file"
    raise AdapterError(f"{path}: {what}; get the file again, or name the base's file alone")


def _taken(path: Path) -> bool:
    """Whether anything has this name; a link has, even if it leads nowhere."""
    return path.exists() or path.is_symlink()


@contextmanager
def _opened(place: Path, files: tuple[Path, ...]) -> Iterator[Source]:
    with TemporaryDirectory(prefix="impasto-") as folder:
        headers = tuple(_header(path, Path(folder) / str(number)) for number, path in enumerate(files))
        notes = [json.loads(header.metadata[SCALARS]) for header in headers if header.path.is_relative_to(folder)]
        yield Source(place, files, headers, {key: value for one in notes for key, value in one.items()})


def _header(path: Path, folder: Path) -> Header:
    if not pickles.is_pickle(path):
        return read_header(path)
    folder.mkdir()
    return pickles.read(path, folder)


def _files(place: Path) -> tuple[Path, ...]:
    if not place.exists():
        raise AdapterError(f"{place}: there is no such file or folder")
    if not place.is_dir():
        return _with_partner(place)
    for names in SETS:
        found = tuple(place / name for name in names if (place / name).is_file())
        if found:
            return found
    if (place / SECOND).is_file():
        fix = f"put the base's half beside it, as {BOTTLENECK} or {LORA}, or give that and --upscaler"
        raise AdapterError(f"{place} holds only {SECOND}, the second stage's half of a pair; {fix}")
    known = ", ".join((LORA, PEFT, BOTTLENECK, *(first for first, _ in EMBEDDINGS)))
    raise AdapterError(f"{place} holds none of {known}; name the adapter's file itself")


def _with_partner(place: Path) -> tuple[Path, ...]:
    """The file, and the one beside it that diffusers writes for the other text encoder."""
    match = PAIR.fullmatch(place.name)
    pair = [place.with_name(f"learned_embeds{number}{match['rest']}") for number in ("", "_2")] if match else [place]
    return tuple(path for path in pair if path.is_file())
