"""The Triton model `stylize_stream`: it answers every step of a request, with previews, and the pictures last.

It holds no weights and parses no request. It passes tensors on to the model `stylize` in another process (relay.py), so
unary and streamed requests share backbones, adapter banks and batches.
"""

from __future__ import annotations

import os
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from impasto_server.errors import ImpastoError, as_impasto_error
from impasto_server.front import Asker
from impasto_server.ops.guardian import SERVER
from impasto_server.outputs import Tensors
from impasto_server.triton.drain import Drains
from impasto_server.triton.log import forward_log
from impasto_server.triton.messages import STREAMED, response, tensors
from impasto_server.triton.relay import Remote, address_for


class TritonPythonModel:
    """The class that the Python backend looks for in model.py."""

    def initialize(self, args: dict[str, str]) -> None:
        """Set up; the connection to the process with the weights is made at the first request."""
        forward_log()
        self.painter = Remote(address_for(os.environ[SERVER]))
        self.drains = Drains(lambda grace_s: 0, "stylize_stream")

    def execute(self, requests: list[Any]) -> None:
        """Start on every request; the remote's thread sends the responses."""
        for request in requests:
            self._start(request)

    def finalize(self) -> None:
        """Close everything; Triton has no request left by now."""
        self.drains.close()
        self.painter.close()

    def _start(self, request: Any) -> None:
        sender = request.get_response_sender()
        self.drains.taken()

        def progress(step: Tensors) -> None:
            sender.send(response(step))

        def done(outcome: Tensors | ImpastoError) -> None:
            try:
                sender.send(response(outcome, STREAMED), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            finally:
                self.drains.told()

        try:
            asker = Asker(done, sender.is_cancelled, progress)
            self.painter.submit(tensors(request), request.timeout(), asker)
        except Exception as error:
            done(as_impasto_error(error))
