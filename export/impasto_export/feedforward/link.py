"""`impasto link` of feed-forward nets: find the reader that knows the file, and write the bundle."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from impasto_export import bundles
from impasto_export.bundles import Linked
from impasto_export.errors import CheckpointError
from impasto_export.feedforward import (
    clipstyler,
    content,
    decoder,
    examples,
    johnson,
    lengstrom,
    lua,
    magenta,
    onnx_trunks,
    source,
    studio,
)
from impasto_export.feedforward.found import NOTHING, Found, Said
from impasto_export.feedforward.source import Source
from impasto_export.files import Progress, silent

# Each has `recognises(source)` and `read(source, said) -> Found`; the first that recognises a file reads it.
READERS: tuple[ModuleType, ...] = (
    studio,
    onnx_trunks,
    magenta,
    examples,
    johnson,
    lua,
    lengstrom,
    clipstyler,
    decoder,
)


def recognises(place: str | Path) -> bool:
    """Whether a reader knows the file. Raises CheckpointError for a damaged file, and for an unknown one of a kind that
    only feed-forward nets come in."""
    with source.opened(Path(place)) as found:
        if found is None or _reader(found) is not None:
            return found is not None
        if found.alone:
            raise _unknown(place, found)
        return False


def read(place: Path, said: Said = NOTHING) -> Found:
    """What the file's reader finds. Raises CheckpointError when no reader knows it, or its reader refuses it."""
    with source.opened(place) as opened:
        reader = _reader(opened) if opened else None
        if opened is None or reader is None:
            raise _unknown(place, opened)
        found: Found = reader.read(opened, said)
        return found


def _reader(opened: Source) -> ModuleType | None:
    return next((reader for reader in READERS if reader.recognises(opened)), None)


def _unknown(place: str | Path, opened: Source | None) -> CheckpointError:
    fix = "link a diffusion checkpoint from .safetensors or a folder"
    return CheckpointError(f"{place}: not a feed-forward net of a known layout; {_held(opened)}; {fix}")


def _held(opened: Source | None) -> str:
    names = sorted(opened.shapes) if opened else []
    return f"its tensors: {', '.join(names[:5])}" if names else "it holds no tensors that can be read"


def link(place: Path, out: Path, said: Said = NOTHING, progress: Progress = silent) -> Linked:
    """Make the bundle `out`. It appears whole or not at all; if it already is this bundle, nothing is written.

    Raises CheckpointError for a file that can't be linked, BundleError when `out` is something else, DiskFull.
    """
    bundles.check_target(out)
    found = read(place, said)
    return bundles.write(out, content.of(found, place, said), progress, (*told(found), *_styles(found, place, out)))


def told(found: Found) -> list[str]:
    """What was found in the file, a line for each fact."""
    return [f"{fact}: {what}" for fact, what in found.told.items()]


def _styles(found: Found, place: Path, out: Path) -> list[str]:
    if not found.vectors:
        return []
    how = f"impasto adapters import {place} --name NAME --bundle {out}"
    first, *_, last = (*found.vectors, *found.vectors)
    return [f"it holds {len(found.vectors)} styles: `{how}` keeps them as NAME-{first} to NAME-{last}"]
