"""Triton model `stylize_stream`: every step of a request, with previews, and the picture last.

It holds no weights: it submits to the pipeline of model `stylize`, which runs in another process (see relay.py), so
unary and streamed requests share one backbone, one bank of adapters and their batches.
"""

from __future__ import annotations

import os
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from impasto_server.errors import ImpastoError, as_impasto_error
from impasto_server.families import open_bundle
from impasto_server.families.offers import STREAM_FIELDS, offer_of
from impasto_server.ops.guardian import SERVER
from impasto_server.pipeline import Caller, Progress, Result
from impasto_server.settings import Settings
from impasto_server.triton.drain import Drains
from impasto_server.triton.log import forward_log
from impasto_server.triton.messages import read, response
from impasto_server.triton.relay import Remote, address_for


class TritonPythonModel:
    """What the Python backend looks for in model.py."""

    def initialize(self, args: dict[str, str]) -> None:
        """Needs the bundle's manifest alone; the pipeline is looked for when the first request comes."""
        forward_log()
        self.offer = offer_of(open_bundle(Settings.from_env().bundle).manifest)
        self.painter = Remote(address_for(os.environ[SERVER]))
        self.drains = Drains(lambda grace_s: 0, "stylize_stream")

    def execute(self, requests: list[Any]) -> None:
        """Start on every request; its responses follow from the thread that hears the pipeline."""
        for request in requests:
            self._start(request)

    def finalize(self) -> None:
        """Triton has no request left by now."""
        self.drains.close()
        self.painter.close()

    def _start(self, request: Any) -> None:
        sender = request.get_response_sender()
        self.drains.taken()

        def progress(step: Progress) -> None:
            sender.send(response(step))

        def done(outcome: Result | ImpastoError) -> None:
            try:
                sender.send(response(outcome), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            finally:
                self.drains.told()

        try:
            asked = read(request, self.offer, STREAM_FIELDS, self.painter)
            self.painter.submit(asked, Caller(done, sender.is_cancelled, progress))
        except Exception as error:
            done(as_impasto_error(error))
