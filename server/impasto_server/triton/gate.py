"""The Triton model `gate`, which keeps a server's models loaded while it stops: see its config.pbtxt."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]


class TritonPythonModel:
    """The class that the Python backend looks for in model.py."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer with the input."""
        return [pb_utils.InferenceResponse(request.inputs()) for request in requests]
