"""Triton model `clip_score`: pictures in, for each the cosine to a text or to another picture out.

It has a copy of the scorer's weights of its own, so that scoring never waits for the pipeline, or the pipeline for it.
Requests overlap as those of `stylize` do.
"""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from impasto_server.engines.runtime import Runtime
from impasto_server.errors import ImpastoError, as_impasto_error
from impasto_server.scoring import comparison
from impasto_server.scoring.score import Array, Scorer
from impasto_server.scoring.scoring import Scoring
from impasto_server.settings import Settings
from impasto_server.timeout import seconds
from impasto_server.triton.drain import Drains
from impasto_server.triton.log import forward_log
from impasto_server.triton.messages import filled, refusal, tensors


class TritonPythonModel:
    """What the Python backend looks for in model.py."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the scorer and compile it; an error here keeps the server from becoming ready."""
        forward_log()
        settings = Settings.from_env()
        assert settings.scorer, "without a scorer this model isn't in the repository"
        self.scorer = Scorer.open(settings.scorer, Runtime.of(settings))
        self.scoring = Scoring(self.scorer, settings.max_requests)
        self.drains = Drains(self.scoring.drain, "clip_score")

    def execute(self, requests: list[Any]) -> None:
        """Start on every request; answers follow from the scoring thread."""
        for request in requests:
            self._start(request)

    def finalize(self) -> None:
        """Finish what was taken, then free the thread."""
        self.drains.close()
        self.scoring.close()

    def _start(self, request: Any) -> None:
        sender = request.get_response_sender()
        self.drains.taken()

        def done(outcome: Array | ImpastoError) -> None:
            answer = refusal(outcome) if isinstance(outcome, ImpastoError) else filled({"SCORE": outcome})
            try:
                sender.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            finally:
                self.drains.told()

        try:
            asked = comparison.parse(tensors(request), self.scorer.unread, seconds(request.timeout()))
            self.scoring.submit(asked, done, sender.is_cancelled)
        except Exception as error:
            done(as_impasto_error(error))
