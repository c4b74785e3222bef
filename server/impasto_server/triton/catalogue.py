"""The Triton model `catalogue`: what the server has, as JSON.

It reads manifests and the registry in its own process. So it answers while pictures are painted, and a hanging registry
delays nobody else.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from impasto_server.adapters.bucket import shelf_of
from impasto_server.catalogue import FRESH_S, Catalogue
from impasto_server.errors import as_impasto_error
from impasto_server.front import opened
from impasto_server.outputs import listed
from impasto_server.settings import Settings
from impasto_server.triton.drain import Drains
from impasto_server.triton.log import forward_log
from impasto_server.triton.messages import filled, refusal

THREADS = 2


class TritonPythonModel:
    """The class that the Python backend looks for in model.py."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the bundles' manifests; nothing is compiled."""
        forward_log()
        settings = Settings.from_env()
        self.catalogue = Catalogue(opened(settings), shelf_of(settings, FRESH_S))
        self.readers = ThreadPoolExecutor(THREADS, "catalogue")
        self.drains = Drains(lambda grace_s: 0, "catalogue")

    def execute(self, requests: list[Any]) -> None:
        """Queue the requests; they are answered from the readers' threads, since files may be slow."""
        for request in requests:
            self.drains.taken()
            self.readers.submit(self._answer, request.get_response_sender())

    def finalize(self) -> None:
        """Answer the requests under way, then end the threads."""
        self.readers.shutdown()
        self.drains.close()
        self.catalogue.close()

    def _answer(self, sender: Any) -> None:
        try:
            answer = filled(listed(self.catalogue.read()))
        except Exception as error:
            answer = refusal(as_impasto_error(error))
        try:
            sender.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        finally:
            self.drains.told()
