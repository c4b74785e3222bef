"""What a foreign adapter lies in: a safetensors file, a pickle of tensors, or a folder with files of known names.

Which of the two a file is, its first bytes tell, whatever it is called.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from impasto_export.adapters import pickles
from impasto_export.adapters.pickles import SCALARS
from impasto_export.architecture import Json
from impasto_export.errors import AdapterError
from impasto_export.weights import Header, read_header, sha256_file

LORA, PEFT, BOTTLENECK = "pytorch_lora_weights.safetensors", "adapter_model.safetensors", "bottleneck.safetensors"
# An embedding's files for one text encoder, and for a second one.
EMBEDDINGS = tuple((f"learned_embeds{end}", f"learned_embeds_2{end}") for end in (".safetensors", ".bin"))
PAIR = re.compile(r"learned_embeds(?:_2)?(?P<rest>(?:-steps-\d+)?\.(?:safetensors|bin))")
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
# Files that are read together, in the order in which they are looked for.
SETS = (
    (LORA,),
    (PEFT,),
    tuple(f"{component}/{PEFT}" for component in COMPONENTS),
    (BOTTLENECK,),
    *EMBEDDINGS,
)


@dataclass(frozen=True)
class Source:
    """`place` is what the user named, `files` are those it holds, or of which it is one. A pickle's header is that of
    the safetensors file made of it, and `notes` are the numbers and strings it holds beside its tensors."""

    place: Path
    files: tuple[Path, ...]
    headers: tuple[Header, ...]
    notes: Json = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.place)

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
        """Which files were read that the user did not name, nor a folder of them, in words."""
        others = [path.name for path in self.files if path != self.place] if not self.place.is_dir() else []
        return [f"{name} beside it was read, too: the vectors for the other text encoder" for name in others]

    def component(self, header: Header) -> str | None:
        """The component that a file of a set is of, by its folder in `place`."""
        folder = header.path.parent
        return folder.name if folder != self.place and folder.parent == self.place else None

    def facts(self, layout: str, assumed: list[str]) -> Json:
        """What an adapter's record says of where it came from; `assumed`: what was decided here, in words."""
        names = (str(path.relative_to(self.place)) if self.place.is_dir() else path.name for path in self.files)
        return {"file": ", ".join(names), "sha256": self._digest(), "layout": layout, "assumed": assumed}

    def _digest(self) -> str:
        """sha256 of the file; of several, sha256 of their digests in order."""
        digests = [sha256_file(path) for path in self.files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@contextmanager
def opened(place: Path) -> Iterator[Source]:
    """The source's headers, readable until the block ends. Raises AdapterError, or ExportError for a damaged file."""
    files = _files(place)
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
    known = ", ".join((LORA, PEFT, BOTTLENECK, *(first for first, _ in EMBEDDINGS)))
    raise AdapterError(f"{place} holds none of {known}; name the adapter's file itself")


def _with_partner(place: Path) -> tuple[Path, ...]:
    """The file, and the one beside it that diffusers writes for the other text encoder of a pair."""
    match = PAIR.fullmatch(place.name)
    pair = [place.with_name(f"learned_embeds{number}{match['rest']}") for number in ("", "_2")] if match else [place]
    return tuple(path for path in pair if path.is_file())
