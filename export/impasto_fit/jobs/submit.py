"""A request with its files is looked at before it becomes a job: what can be seen to fail, fails here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from impasto_export import manifest
from impasto_export.adapters.registry import check_name
from impasto_export.errors import ExportError
from impasto_fit import pictures as looked_at
from impasto_fit.errors import JobError, PictureError, WordsError
from impasto_fit.jobs.folder import Folder
from impasto_fit.jobs.job import Job
from impasto_fit.jobs.kinds import CHECKPOINT, KINDS, PHOTOS, PICTURES, Kind
from impasto_fit.jobs.request import Request
from impasto_fit.jobs.shelf import shelf, taken
from impasto_fit.recipe import Words

MOST = 200  # files of one kind
MOST_PIXELS = 256 << 20  # of all together: 768 MiB when they are read
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def submit(folder: Folder, request: Request, files: Mapping[str, Sequence[Path]]) -> Job:
    """Put the job there. `files` are the inputs, by what they are for; a folder stands for the pictures in it.

    Raises:
        FitError, ExportError: the request is nothing to work on; nothing was put there.
        OSError: the job can't be written; nothing of it is left.
    """
    kind = KINDS.get(request.recipe)
    if kind is None:
        raise JobError(f"recipe: got {request.recipe!r}; choose {', '.join(KINDS)}")
    found = {role: pictures_in(role, sources) for role, sources in files.items() if sources}
    _check_uses(request, kind)
    _check_words(request, kind, found)
    _check_goal(request, kind)
    _check_pictures(request, kind, found)
    return folder.put(request, found)


def pictures_in(role: str, sources: Sequence[Path]) -> list[Path]:
    """Files as they are; of folders the pictures in them, in the order of their names.

    Raises:
        PictureError: there are too many.
    """
    found: list[Path] = []
    for source in sources:
        inner = sorted(source.iterdir()) if source.is_dir() else ()
        found += [one for one in inner if one.suffix.lower() in SUFFIXES] if source.is_dir() else [source]
    if len(found) > MOST:
        raise PictureError(f"{role}: got {len(found)}, of at most {MOST}; choose the best of them")
    return found


def _check_uses(request: Request, kind: Kind) -> None:
    for role in kind.uses:
        if not request.uses.get(role):
            raise JobError(f"{role}: got none, and {request.recipe} needs one; give --{role}{_hint(request, role)}")
    place = request.uses.get(CHECKPOINT)
    if place and not Path(place).exists():
        raise JobError(f"{CHECKPOINT}: {place} doesn't exist; give the one that the bundle was linked from")


def _hint(request: Request, role: str) -> str:
    """A bundle knows no place, only what its checkpoint was called."""
    if role != CHECKPOINT or not request.bundle:
        return ""
    called = manifest.load(Path(request.bundle)).get("source", {}).get("checkpoint", "")
    return f", the one that {request.bundle} was linked from{f' ({called})' if called else ''}"


def _check_words(request: Request, kind: Kind, found: Mapping[str, Sequence[Path]]) -> None:
    _ = request.budget
    if kind.worded and not request.style.strip():
        raise WordsError("text: got none; say how pictures shall look, such as --text 'a mosaic of stones'")
    Words(request.contexts).check(len(found.get(kind.shown, ())))
    if request.rounds > 1 and not (request.others and (request.contexts or request.uses.get("captioner"))):
        raise WordsError("rounds: more than one need contexts of the pictures, and --sample with what to paint between")


def _check_goal(request: Request, kind: Kind) -> None:
    if kind.gives != "adapter":
        if request.name or request.bundle:
            raise JobError(f"name: {request.recipe} makes a {kind.gives}, no adapter; leave --name and --bundle out")
        return
    if not (request.name and request.bundle):
        raise JobError("name: an adapter needs --name, and --bundle, which it is for")
    check_name(request.name)
    try:
        manifest.load(Path(request.bundle))
    except ExportError as error:
        raise JobError(f"bundle: {error}") from None
    if not request.replace and shelf(request).holds(request.name):
        raise taken(request)


def _check_pictures(request: Request, kind: Kind, found: Mapping[str, Sequence[Path]]) -> None:
    total = 0
    for role in (*kind.inputs, *(role for role in found if role not in kind.inputs)):
        read = []
        for source in found.get(role, ()):
            read.append(looked_at.read(source))
            total += math.prod(read[-1].shape[:2])
            if total > MOST_PIXELS:
                problem = f"have more than {MOST_PIXELS >> 20} million pixels together"
                raise PictureError(f"{PICTURES}: {problem}; make them smaller, or choose fewer")
        try:
            looked_at.check(read)
        except PictureError as error:
            raise PictureError(f"{role}: {str(error).removeprefix('pictures: ')}") from None
    if kind.gives == "picture" and len(found[PHOTOS]) != 1:
        raise PictureError(f"{PHOTOS}: got {len(found[PHOTOS])}; give the one that gets the style")
