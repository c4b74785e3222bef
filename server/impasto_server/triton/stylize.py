"""Triton model `stylize`: tensors → Request → pipeline → tensors.

The model is unary (not decoupled), yet requests overlap: `execute` hands a request to the pipeline, keeps its response
sender and returns at once; the answer is sent later, from a pipeline thread, exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from impasto_server.errors import Code, ImpastoError, as_impasto_error
from impasto_server.local import answer
from impasto_server.pipeline import Pipeline, Result
from impasto_server.request import parse
from impasto_server.settings import Settings
from impasto_server.triton.log import forward_log
from impasto_server.triton.metrics import Metrics

# Triton's names for our codes. Names, because the stub fills pb_utils only after this module is imported.
CODES: Mapping[Code, str] = {
    "INVALID_ARGUMENT": "INVALID_ARG",
    "NOT_FOUND": "NOT_FOUND",
    "UNAVAILABLE": "UNAVAILABLE",
    "RESOURCE_EXHAUSTED": "UNAVAILABLE",  # Triton has no code of its own for it
    "CANCELLED": "CANCELLED",
    "INTERNAL": "INTERNAL",
}


class TritonPythonModel:
    """What the Python backend looks for in model.py."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle and compile it; an error here keeps the server from becoming ready."""
        forward_log()
        self.pipeline = Pipeline.load(Settings.from_env())
        self.metrics = Metrics(self.pipeline.stats)

    def execute(self, requests: list[Any]) -> None:
        """Start on every request; answers follow from the pipeline's threads."""
        for request in requests:
            self._start(request)

    def finalize(self) -> None:
        """Finish what was taken, then free the threads."""
        self.pipeline.close()
        self.metrics.close()

    def _start(self, request: Any) -> None:
        sender = request.get_response_sender()
        done = answer_with(sender)
        try:
            self.pipeline.submit(parse(tensors(request), self.pipeline.manifest), done, sender.is_cancelled)
        except Exception as error:
            done(as_impasto_error(error))


def answer_with(sender: Any) -> Callable[[Result | ImpastoError], None]:
    """A callback that sends the one response of a request."""

    def done(outcome: Result | ImpastoError) -> None:
        response = refusal(outcome) if isinstance(outcome, ImpastoError) else picture(outcome)
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    return done


def tensors(request: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The inputs that were sent, by name; BYTES are object arrays of `bytes`."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def picture(result: Result) -> Any:
    """The outputs as a response."""
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in answer(result).items()])


def refusal(error: ImpastoError) -> Any:
    """An error response with the status that fits it."""
    code = getattr(pb_utils.TritonError, CODES[error.code])
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))
