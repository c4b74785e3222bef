"""The Triton model `stylize`: one response for each request. Its process holds the weights.

The model is unary (not decoupled), yet requests overlap: `execute` passes a request to its pipeline, keeps its response
sender and returns at once. A pipeline thread sends the answer later, exactly once.
"""

from __future__ import annotations

import os
from threading import Event
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from impasto_server.errors import ImpastoError, as_impasto_error
from impasto_server.front import Asker, Front
from impasto_server.ops.guardian import SERVER
from impasto_server.outputs import Tensors
from impasto_server.settings import Settings
from impasto_server.triton.drain import Drains
from impasto_server.triton.log import forward_log
from impasto_server.triton.messages import response, tensors
from impasto_server.triton.metrics import Metrics
from impasto_server.triton.relay import Relay, address_for
from impasto_server.triton.watch import Watch


class TritonPythonModel:
    """The class that the Python backend looks for in model.py."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open and compile the bundles; an error here keeps the server from becoming ready."""
        forward_log()
        self.front = Front.load(Settings.from_env())
        self.metrics = Metrics(self.front.stats, self.front.wearers)
        self.watch = Watch()
        self.relay = Relay(self.front, address_for(os.environ[SERVER]))
        self.drains = Drains(self.front.drain, "stylize")

    def execute(self, requests: list[Any]) -> None:
        """Start on every request; the pipelines' threads answer."""
        for request in requests:
            self._start(request)

    def finalize(self) -> None:
        """Finish the requests under way, then end the threads."""
        self.drains.close()
        self.front.close()
        self.relay.close()
        self.watch.close()
        self.metrics.close()

    def _start(self, request: Any) -> None:
        sender, gone = request.get_response_sender(), Event()
        self.drains.taken()
        forget = self.watch.over(sender.is_cancelled, gone.set)

        def done(outcome: Tensors | ImpastoError) -> None:
            forget()
            try:
                sender.send(response(outcome), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            finally:
                self.drains.told()

        try:
            self.front.submit(tensors(request), request.timeout(), Asker(done, gone.is_set))
        except Exception as error:
            done(as_impasto_error(error))
