"""The front of all pipelines: it reads requests from tensors, passes each to its bundle, and answers in tensors.

A request names its bundle in MODEL. That bundle's offer says how it is read, and that bundle counts it if it can't be.
One process reads all requests, whichever of Triton's models they came through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from impasto_server.bundle import Bundle
from impasto_server.errors import ImpastoError, InvalidArgument, shown
from impasto_server.families import open_bundle
from impasto_server.families.offers import FIELDS, STREAM_FIELDS
from impasto_server.job import Caller, Progress, Result
from impasto_server.offer import parse
from impasto_server.outputs import Tensors, answer, report
from impasto_server.pipeline import Pipeline
from impasto_server.request import Request
from impasto_server.scoring.score import Scorer
from impasto_server.settings import Settings
from impasto_server.shared import Shared
from impasto_server.stats import Stats
from impasto_server.timeout import seconds
from impasto_server.values import MODEL
from impasto_server.wearers import Wearers


@dataclass(frozen=True)
class Asker:
    """Who waits for a request: a Caller that is told in tensors. With `progress` it asks for a stream."""

    done: Callable[[Tensors | ImpastoError], None]
    gone: Callable[[], bool] = lambda: False
    progress: Callable[[Tensors], None] | None = None


class Front:
    """All bundles' pipelines; requests that name no bundle go to the first. `submit` from any thread."""

    def __init__(self, pipelines: Sequence[Pipeline], shared: Shared) -> None:
        self._pipelines = {one.name: one for one in pipelines}
        self._shared = shared

    @classmethod
    def load(cls, settings: Settings) -> Front:
        """Open every bundle and compile its graphs. Raises SetupError."""
        bundles = opened(settings)
        shared = Shared.of(settings, bundles)
        pipelines = list[Pipeline]()
        with ExitStack() as loaded:  # closes the pipelines so far if a later one fails
            for bundle in bundles:
                pipelines.append(Pipeline(bundle, settings, shared))
                loaded.callback(pipelines[-1].close)
            loaded.pop_all()
        return cls(pipelines, shared)

    @property
    def stats(self) -> Mapping[str, Stats]:
        """Each bundle's counters, by its name."""
        return {name: pipeline.stats for name, pipeline in self._pipelines.items()}

    @property
    def wearers(self) -> Mapping[str, Wearers]:
        """Each bundle's, by its name."""
        return {name: pipeline.wearers for name, pipeline in self._pipelines.items()}

    @property
    def scorer(self) -> Scorer | None:
        """The scorer that all bundles share; None where the settings name none."""
        return self._shared.scorer

    def submit(self, tensors: Tensors, timeout_us: int, asker: Asker) -> None:
        """Start on the request in `tensors` and return; `timeout_us` as Triton has it. Raises ImpastoError."""
        pipeline = next(iter(self._pipelines.values()))
        try:
            if MODEL.name in tensors:
                pipeline = self._pipeline(MODEL.read(tensors[MODEL.name]))
            request = _read(tensors, timeout_us, pipeline, asker)
        except InvalidArgument:
            pipeline.refused()
            raise
        pipeline.submit(request, _caller(asker))

    def drain(self, grace_s: float) -> int:
        """As Shared.drain."""
        return self._shared.drain(grace_s)

    def close(self) -> None:
        """Refuse new requests, finish those under way, and end the threads."""
        for pipeline in self._pipelines.values():
            pipeline.close()

    def _pipeline(self, name: str) -> Pipeline:
        """Raises InvalidArgument."""
        if name not in self._pipelines:
            known = ", ".join(self._pipelines)
            raise InvalidArgument(MODEL.name, f"{shown(name)} is unknown", f"pass one of {known}, or leave it out")
        return self._pipelines[name]


def opened(settings: Settings) -> list[Bundle]:
    """The bundles of these settings, the default first. Raises SetupError."""
    return [open_bundle(folder, name) for name, folder in settings.folders.items()]


def _read(tensors: Tensors, timeout_us: int, pipeline: Pipeline, asker: Asker) -> Request:
    fields = FIELDS if asker.progress is None else STREAM_FIELDS
    return parse(tensors, pipeline.offer, fields, seconds(timeout_us))


def _caller(asker: Asker) -> Caller:
    """A caller that passes everything on to `asker`, as tensors."""

    def done(outcome: Result | ImpastoError) -> None:
        asker.done(outcome if isinstance(outcome, ImpastoError) else answer(outcome))

    def progress(step: Progress) -> None:
        assert asker.progress is not None
        asker.progress(report(step))

    return Caller(done, asker.gone, None if asker.progress is None else progress)
