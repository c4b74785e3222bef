"""Plan the jobs of `impasto stylize`: the photos and clips to paint, and the files to write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from impasto_client.words import FORMATS, format_of

CLIPS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".3gp", ".ogv", ".wmv", ".flv"}
WRITTEN_CLIPS = (".mp4", ".m4v", ".mov", ".mkv")
_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


@dataclass(frozen=True)
class Job:
    """A file to paint: `source` becomes `out`; `format` is a photo's, "" for a clip."""

    source: Path
    out: Path
    format: str

    @property
    def is_clip(self) -> bool:
        """Whether the source is a film."""
        return is_clip(self.source)


def is_clip(path: Path) -> bool:
    """Whether it is a film, by its suffix."""
    return path.suffix.lower() in CLIPS


def jobs_of(said: Sequence[Path], out: Path | None, label: str, format: str | None) -> list[Job]:
    """A job for each photo and clip, also in the folders given, in order. Subfolders are left out.

    `out` is the file of a single job, or else a folder, which is made; the default is the current folder. In a folder,
    files are named after the photo and `label`. Raises typer.BadParameter for a folder without photos or clips, and
    where a file would be written twice, over a photo, or into a folder that can't be made.
    """
    sources = [source for path in said for source in _sources(path)]
    if out is not None and out.suffix and not out.is_dir():
        jobs = [_single(sources, out, format)]
    else:
        jobs = [_placed(source, out or Path(), label, format) for source in sources]
    _check(jobs)
    for folder in dict.fromkeys(job.out.parent for job in jobs):
        _make(folder)
    return jobs


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"folder {str(folder)!r} can't be made ({error.strerror}); choose another"
        raise typer.BadParameter(problem, param_hint="--out") from None


def _sources(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    known = {*FORMATS, *CLIPS}
    found = sorted(one for one in path.iterdir() if one.suffix.lower() in known and one.is_file())
    if not found:
        problem = f"folder {str(path)!r} holds no photo and no clip; pass one with {', '.join(FORMATS)} or .mp4"
        raise typer.BadParameter(problem, param_hint="PHOTO")
    yield from found


def _single(sources: Sequence[Path], out: Path, format: str | None) -> Job:
    if len(sources) > 1:
        problem = f"{str(out)!r} is one file, but there are {len(sources)} to paint; pass a folder"
        raise typer.BadParameter(problem, param_hint="--out")
    (source,) = sources
    if is_clip(source):
        if out.suffix.lower() not in WRITTEN_CLIPS:
            raise typer.BadParameter(f"{out.name!r} does not end in {', '.join(WRITTEN_CLIPS)}", param_hint="--out")
        return Job(source, out, "")
    written = format_of(out)
    if format not in (None, written):
        raise typer.BadParameter(f"{format} is not what {out.name!r} ends in; leave one out", param_hint="--format")
    return Job(source, out, written)


def _placed(source: Path, folder: Path, label: str, format: str | None) -> Job:
    if is_clip(source):
        return Job(source, folder / f"{source.stem}-{label}.mp4", "")
    chosen = format or FORMATS.get(source.suffix.lower(), "png")
    suffix = source.suffix if FORMATS.get(source.suffix.lower()) == chosen else _SUFFIXES[chosen]
    return Job(source, folder / f"{source.stem}-{label}{suffix}", chosen)


def _check(jobs: Sequence[Job]) -> None:
    written: dict[Path, Path] = {}
    for job in jobs:
        if job.out.exists() and any(job.out.samefile(other.source) for other in jobs):
            raise typer.BadParameter(f"{str(job.out)!r} is a photo to paint; choose another file", param_hint="--out")
        place = job.out.resolve()
        if place in written:
            both = f"{str(written[place])!r} and {str(job.source)!r} would both become {str(job.out)!r}"
            raise typer.BadParameter(f"{both}; paint them with separate commands", param_hint="--out")
        written[place] = job.source
