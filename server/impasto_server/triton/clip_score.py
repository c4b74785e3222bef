"""Triton model `clip_score`: pictures in, for each the cosine to a text or to another picture out.

It has a copy of the scorer's weights of its own, so that scoring never waits for the pipeline, or the pipeline for it.
"""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from impasto_server import comparison
from impasto_server.errors import as_impasto_error
from impasto_server.score import Scorer
from impasto_server.settings import Settings
from impasto_server.triton.log import forward_log
from impasto_server.triton.messages import response, tensors


class TritonPythonModel:
    """What the Python backend looks for in model.py."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the scorer and compile it; an error here keeps the server from becoming ready."""
        forward_log()
        settings = Settings.from_env()
        assert settings.scorer, "without a scorer this model isn't in the repository"
        self.scorer = Scorer.open(settings.scorer, settings)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One request after the other: each has the engine for itself."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            scores = comparison.parse(tensors(request)).scores(self.scorer)
        except Exception as error:
            return response(as_impasto_error(error))
        return pb_utils.InferenceResponse([pb_utils.Tensor("SCORE", scores)])
