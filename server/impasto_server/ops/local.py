"""The models in this process, without Triton: the same tensors in and out.

For embedding, and for `impasto generate --local`, which finds it by the entry-point group `impasto.local`. In Python
the pipeline itself says it in fewer words:

    pipeline = Pipeline.load(Settings(bundle=Path("bundle"), registry=Path("registry")))
    result = pipeline.generate(pipeline.offer.request("a red boat", seed=7, width=128, height=128))
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from impasto_server.engines.runtime import Runtime
from impasto_server.errors import ImpastoError, SetupError
from impasto_server.families.offers import FIELDS, STREAM_FIELDS
from impasto_server.offer import parse
from impasto_server.pipeline import Caller, Pipeline, Progress, Result
from impasto_server.scoring import comparison
from impasto_server.scoring.score import Scorer
from impasto_server.settings import Settings

Tensors: TypeAlias = Mapping[str, NDArray[Any]]


class Local:
    """A pipeline behind the wire's tensors; IMPASTO_* variables say which engine, registry and so on.

    Safe to use from several threads. Raises errors of the server's tree; `code` is their gRPC status.
    """

    def __init__(self, bundle: Path) -> None:
        self._settings = Settings.from_env(bundle)
        self._pipeline = Pipeline.load(self._settings)

    def infer(self, tensors: Tensors, timeout_s: float | None = None) -> dict[str, NDArray[Any]]:
        """As model `stylize`."""
        return answer(self._pipeline.generate(parse(tensors, self._pipeline.offer, FIELDS, timeout_s)))

    def stream(self, tensors: Tensors, timeout_s: float | None = None) -> Iterator[dict[str, NDArray[Any]]]:
        """As model `stylize_stream`; closing the iterator cancels the request."""
        request = parse(tensors, self._pipeline.offer, STREAM_FIELDS, timeout_s)
        news: SimpleQueue[Progress | Result | ImpastoError] = SimpleQueue()
        gone = Event()
        self._pipeline.submit(request, Caller(news.put, gone.is_set, news.put))
        try:
            while isinstance(told := news.get(), Progress):
                yield report(told)
            if isinstance(told, ImpastoError):
                raise told
            yield answer(told)
        finally:
            gone.set()

    def score(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """As model `clip_score`."""
        return {"SCORE": comparison.scores(comparison.parse(tensors, self._scorer.unread), self._scorer)}

    def close(self) -> None:
        self._pipeline.close()

    @cached_property
    def _scorer(self) -> Scorer:
        """Compiled when it is first needed."""
        if self._settings.scorer is None:
            raise SetupError("IMPASTO_SCORER is not set; make a scorer with `impasto link CLIP --out DIR`, and name it")
        return Scorer.open(self._settings.scorer, Runtime.of(self._settings))


def report(progress: Progress) -> dict[str, NDArray[Any]]:
    """A step's outputs: STEP INT32 [1], STEPS INT32 [1], ETA_S FP32 [1] and, if there are some, PREVIEW BYTES [n]."""
    preview = {"PREVIEW": np.array(progress.previews, np.object_)} if progress.previews else {}
    return {
        "STEP": np.array([progress.step], np.int32),
        "STEPS": np.array([progress.steps], np.int32),
        "ETA_S": np.array([progress.eta_s], np.float32),
        **preview,
    }


def answer(result: Result) -> dict[str, NDArray[Any]]:
    """A result's outputs: IMAGE BYTES [n], SEED INT64 [n], META BYTES [1] (JSON), and SCORE FP32 [n] if it has some."""
    scores = {} if result.scores is None else {"SCORE": np.array(result.scores, np.float32)}
    return {
        "IMAGE": np.array(result.images, np.object_),
        "SEED": np.array(result.seeds, np.int64),
        "META": np.array([json.dumps(result.meta).encode()], np.object_),
        **scores,
    }
