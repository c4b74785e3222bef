"""GET /openapi.json."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response


async def document(request: Request) -> Response:
    """The description of all endpoints."""
    return JSONResponse({"openapi": "3.1.0"})
