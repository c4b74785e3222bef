"""The models inside this process, without Triton: the same tensors in and out.

It is for embedding, and for `impasto generate --local`, which finds it by the entry-point group `impasto.local`. In
Python the pipeline itself is shorter:

    pipeline = Pipeline.load(Settings(bundle=Path("bundle"), registry=Path("registry")))
    result = pipeline.generate(pipeline.offer.request("a red boat", seed=7, width=128, height=128))
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

from numpy.typing import NDArray

from impasto_server.adapters.bucket import shelf_of
from impasto_server.catalogue import FRESH_S, Catalogue
from impasto_server.errors import ImpastoError, SetupError
from impasto_server.front import Asker, Front, opened
from impasto_server.outputs import Tensors, listed
from impasto_server.scoring import comparison
from impasto_server.scoring.score import Scorer
from impasto_server.settings import Settings


class Local:
    """Pipelines that take and answer tensors; IMPASTO_* variables say which engine, registry and so on.

    Safe to use from several threads. Raises ImpastoError; its `code` is the gRPC status.
    """

    def __init__(self, bundle: Path) -> None:
        settings = Settings.from_env(bundle)
        self._front = Front.load(settings)
        self._catalogue = Catalogue(opened(settings), shelf_of(settings, FRESH_S))

    def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """As model `stylize`."""
        told: Future[Tensors | ImpastoError] = Future()
        self._front.submit(tensors, _microseconds(timeout_s), Asker(told.set_result))
        return _unless_refused(told.result())

    def stream(self, tensors: Tensors, timeout_s: float | None = None) -> Iterator[Tensors]:
        """As model `stylize_stream`; closing the iterator cancels the request."""
        news: SimpleQueue[tuple[bool, Tensors | ImpastoError]] = SimpleQueue()
        gone = Event()

        def done(outcome: Tensors | ImpastoError) -> None:
            news.put((True, outcome))

        def progress(step: Tensors) -> None:
            news.put((False, step))

        self._front.submit(tensors, _microseconds(timeout_s), Asker(done, gone.is_set, progress))
        try:
            last = False
            while not last:
                last, told = news.get()
                yield _unless_refused(told)
        finally:
            gone.set()

    def score(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """As model `clip_score`."""
        return {"SCORE": comparison.scores(comparison.parse(tensors, self._scorer.unread), self._scorer)}

    def catalogue(self) -> Tensors:
        """As model `catalogue`."""
        return listed(self._catalogue.read())

    def close(self) -> None:
        self._front.close()
        self._catalogue.close()

    @property
    def _scorer(self) -> Scorer:
        """The scorer, the same one that ranks candidates. Raises SetupError without one."""
        if self._front.scorer is None:
            raise SetupError("IMPASTO_SCORER is not set; make a scorer with `impasto link CLIP --out DIR` and set it")
        return self._front.scorer


def _microseconds(timeout_s: float | None) -> int:
    """The timeout as on the wire, where 0 is no limit."""
    return 0 if timeout_s is None else max(1, round(1e6 * timeout_s))


def _unless_refused(outcome: Tensors | ImpastoError) -> Tensors:
    if isinstance(outcome, ImpastoError):
        raise outcome
    return outcome
