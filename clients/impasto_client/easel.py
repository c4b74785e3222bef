"""Paint photos and clips in order; one that fails doesn't stop the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.markup import escape
from rich.progress import Progress as Bar

from impasto_client.album import Job
from impasto_client.client import Client
from impasto_client.errors import (
    AdapterNotFound,
    ConnectError,
    ImpastoError,
    MissingExtra,
    RequestError,
    ServerUnavailable,
)
from impasto_client.marks import Mark, marked
from impasto_client.order import in_order
from impasto_client.painting import Painting
from impasto_client.patience import until_room
from impasto_client.photo_words import Wish
from impasto_client.video.extra import extra

# Fields whose errors concern a single photo; others concern all.
_THE_PHOTOS = (None, "IMAGE", "MASKS", "DETAIL", "LONG_SIDE", "CLIP")


@dataclass(frozen=True)
class Done:
    """The result of a job: the server's report on a photo, or an error. The painting itself is in its file."""

    job: Job
    warnings: tuple[str, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict)
    error: Exception | None = None

    @classmethod
    def of(cls, job: Job, painting: Painting) -> Done:
        told = {"timings": asdict(painting.timings), "warnings": [*painting.warnings], "meta": {**painting.meta}}
        return cls(job, painting.warnings, told)

    def document(self) -> dict[str, Any]:
        """The entry for --json."""
        if self.error is not None:
            return {"photo": str(self.job.source), "error": str(self.error)}
        return {"photo": str(self.job.source), "out": str(self.job.out), **self.told}


@dataclass(frozen=True)
class Easel:
    """Paints photos and clips as the wish says; with `metadata`, a painted photo's file says how."""

    client: Client
    wish: Wish
    in_flight: int
    smooth: float
    limit_s: float | None
    metadata: bool = True

    def photos(self, jobs: Sequence[Job], bar: Bar) -> Iterator[Done]:
        """Paint photos, in order, several in flight. Raises ImpastoError for an error that concerns all of them."""
        if not jobs:
            return
        task = bar.add_task("painting", total=len(jobs))
        with closing(in_order(jobs, self._photo, self.in_flight)) as done:
            for one in done:
                bar.advance(task)
                yield one

    def clip(self, job: Job, bar: Bar) -> Done:
        """Paint a clip. Raises ImpastoError for an error that concerns other jobs, too."""
        task = bar.add_task(escape(job.source.name), total=None)

        def paint(frames: Iterator[Any]) -> Iterator[Any]:
            options: Any = self.wish.options
            film = self.client.stylize_frames(
                frames, self._styles, smooth=self.smooth, in_flight=self.in_flight, **options
            )
            with closing(film):
                for frame in film:
                    bar.advance(task)
                    yield frame

        try:
            with extra("a clip"):
                from impasto_client.video.clip import repaint
            repaint(job.source, job.out, paint, lambda count: bar.update(task, total=count))
        except (ImpastoError, OSError) as error:
            return _failed(job, error)
        return Done(job)

    @property
    def _styles(self) -> Any:
        return self.wish.styles or None

    def _photo(self, job: Job) -> Done:
        options: Any = self.wish.options

        def ask() -> Painting:
            return self.client.stylize(job.source, self._styles, format=job.format, **options)

        try:
            painting = until_room(ask, self.limit_s)
            job.out.write_bytes(self._file(job, painting))
        except (ImpastoError, OSError) as error:
            return _failed(job, error)
        return Done.of(job, painting)

    def _file(self, job: Job, painting: Painting) -> bytes:
        if not self.metadata:
            return painting.data
        said = {"photo": job.source, "style": self._styles, "format": job.format, **self.wish.options}
        return marked(painting.data, Mark.of("", said, painting))


def _failed(job: Job, error: Exception) -> Done:
    """The failed job. Raises `error` if it concerns other jobs, too."""
    everybodys = isinstance(error, AdapterNotFound | ConnectError | MissingExtra | ServerUnavailable)
    if everybodys or (isinstance(error, RequestError) and error.field not in _THE_PHOTOS):
        raise error
    return Done(job, error=error)
