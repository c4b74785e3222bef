"""POST /v1/images/generations and /v1/images/edits."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response


async def generations(request: Request) -> Response:
    """Paint a prompt."""
    raise NotImplementedError


async def edits(request: Request) -> Response:
    """Paint a picture anew, or stylise a photo."""
    raise NotImplementedError
