"""The Triton model `clip_score`: it scores pictures by their cosine to a text or to another picture.

It has its own copy of the scorer's weights, so that scoring and painting never wait for each other. Requests overlap as
those of `stylize` do.
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
    """The class that the Python backend looks for in model.py."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open and compile the scorer; an error here keeps the server from becoming ready."""
        forward_log()
        settings = Settings.from_env()
        assert settings.scorer, "without a scorer this model isn't in the repository"
        self.scorer = Scorer.open(settings.scorer, Runtime.of(settings))
        self.scoring = Scoring(self.scorer, settings.max_requests)
        self.drains = Drains(self.scoring.drain, "clip_score")

    def execute(self, requests: list[Any]) -> None:
        """Start on every request; the scoring thread answers."""
        for request in requests:
            self._start(request)

    def finalize(self) -> None:
        """Finish the requests under way, then end the thread."""
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
