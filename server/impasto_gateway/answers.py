"""Refusals as HTTP answers, wherever they are raised: in a handler, in a middleware, in Starlette itself."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from impasto_client.errors import ImpastoError
from impasto_gateway.errors import CLOSING, SERVER, Refusal, left, refusal_of

_CODES = {404: "not_found", 405: "method_not_allowed"}
_FIXES = {404: "nothing is here; see /openapi.json", 405: "this address takes another method; see /openapi.json"}


def refused(refusal: Refusal) -> Response:
    """The refusal in its envelope, with the headers that say whether to try again."""
    return JSONResponse(refusal.body(), refusal.status, headers=refusal.all_headers())


def refusal_for(error: BaseException) -> Refusal:
    """The refusal that an exception becomes."""
    match error:
        case Refusal():
            return error
        case ImpastoError():
            return refusal_of(error)
        case HTTPException():
            message = _FIXES.get(error.status_code, error.detail)
            code = _CODES.get(error.status_code, "invalid_request")
            return Refusal(error.status_code, message, code, headers=dict(error.headers or {}))
        case ClientDisconnect():  # while the body arrived
            return left()
        case _:
            # uvicorn closes the connection after an exception, so callers must know
            message = "the gateway failed; its log says why"
            return Refusal(500, message, "internal_error", kind=SERVER, again=True, headers=CLOSING)


async def _answered(request: Request, error: Exception) -> Response:
    return refused(refusal_for(error))


# Starlette's exception handlers. It raises what is none of the first four again, for the server's log.
HANDLERS: dict[Any, Any] = dict.fromkeys((Refusal, ImpastoError, HTTPException, ClientDisconnect, Exception), _answered)


class RefusalsMiddleware:
    """Answers refusals that the middlewares below it raise."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def seen(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, seen)
        except Refusal as refusal:
            if begun or scope["type"] != "http":
                raise
            await refused(refusal)(scope, receive, send)
