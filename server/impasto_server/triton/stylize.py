"""Triton model `stylize`: one request, one picture; and the process that holds the weights.

The model is unary (not decoupled), yet requests overlap: `execute` hands a request to the pipeline, keeps its response
sender and returns at once; the answer is sent later, from a pipeline thread, exactly once.
"""

from __future__ import annotations

import os
from threading import Event
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from impasto_server.errors import ImpastoError, as_impasto_error
from impasto_server.families.offers import FIELDS
from impasto_server.ops.guardian import SERVER
from impasto_server.pipeline import Caller, Pipeline, Result
from impasto_server.settings import Settings
from impasto_server.triton.drain import Drains
from impasto_server.triton.log import forward_log
from impasto_server.triton.messages import read, response
from impasto_server.triton.metrics import Metrics
from impasto_server.triton.relay import Relay, address_for
from impasto_server.triton.watch import Watch


class TritonPythonModel:
    """What the Python backend looks for in model.py."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle and compile it; an error here keeps the server from becoming ready."""
        forward_log()
        self.pipeline = Pipeline.load(Settings.from_env())
        self.metrics = Metrics(self.pipeline.stats)
        self.watch = Watch()
        self.relay = Relay(self.pipeline, address_for(os.environ[SERVER]))
        self.drains = Drains(self.pipeline.drain, "stylize")

    def execute(self, requests: list[Any]) -> None:
        """Start on every request; answers follow from the pipeline's threads."""
        for request in requests:
            self._start(request)

    def finalize(self) -> None:
        """Finish what was taken, then free the threads."""
        self.drains.close()
        self.pipeline.close()
        self.relay.close()
        self.watch.close()
        self.metrics.close()

    def _start(self, request: Any) -> None:
        sender, gone = request.get_response_sender(), Event()
        self.drains.taken()
        forget = self.watch.over(sender.is_cancelled, gone.set)

        def done(outcome: Result | ImpastoError) -> None:
            forget()
            try:
                sender.send(response(outcome), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            finally:
                self.drains.told()

        try:
            asked = read(request, self.pipeline.offer, FIELDS, self.pipeline)
            self.pipeline.submit(asked, Caller(done, gone.is_set))
        except Exception as error:
            done(as_impasto_error(error))
