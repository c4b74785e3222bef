"""The middleware that asks for a key, and keeps other pages of a browser away from a gateway without keys."""

from __future__ import annotations

import re
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from impasto_gateway.callers import ANYBODY, NOBODY, Caller, need
from impasto_gateway.errors import AUTHENTICATION, PERMISSION, Refusal
from impasto_gateway.keyring import Keys

__all__ = ["Caller", "Keys", "KeysMiddleware", "need"]

OPEN = frozenset({"/", "/health", "/ready", "/openapi.json"})
STATIC = "/static/"
METRICS = "/metrics"
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+))(?::[0-9]{1,5})?")
_SECRET_CHARACTERS = 512  # longer ones aren't hashed
_FIX = "send the header `Authorization: Bearer KEY`"


class KeysMiddleware:
    """Sets scope["state"]["caller"], or answers 401. With `open_metrics`, /metrics wants no key.

    Without keys, everybody on this machine may do everything. Then a browser is the danger: any page may send requests
    to loopback, and may even have a name that leads there. So the header `host` must name loopback, and an `origin`, if
    there is one, must be our own or one of `origins`.
    """

    def __init__(self, app: ASGIApp, keys: Keys, origins: tuple[str, ...] = (), *, open_metrics: bool = False) -> None:
        self._app = app
        self._keys = keys
        self._origins = origins
        self._open_metrics = open_metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        caller = self._caller(scope)
        scope.setdefault("state", {})["caller"] = caller
        if record := scope["state"].get("record"):
            record.key = caller.name
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        headers, path = Headers(scope=scope), scope["path"]
        if not self._keys.are_asked_for:
            check_neighbours(headers, self._origins)
            return ANYBODY
        if path in OPEN or path.startswith(STATIC) or (path == METRICS and (self._open_metrics or is_near(scope))):
            return NOBODY
        caller = self._keys.caller(secret_of(headers))
        if caller is None:
            raise _unknown("the key is not known here, or was withdrawn")
        if path == METRICS and "metrics" not in caller.roles:
            raise _forbidden(f"key: {caller.name!r} may not read metrics; ask for a key with that role", "role_missing")
        return caller


def secret_of(headers: Headers) -> str:
    """The secret that came along. Raises Refusal (401) where there is none, or more than one."""
    said = headers.getlist("authorization")
    if not said:
        raise _unknown("there is none")
    scheme, _, secret = said[0].partition(" ")
    secret = secret.strip()
    if len(said) > 1 or scheme.lower() != "bearer" or not 0 < len(secret) <= _SECRET_CHARACTERS:
        raise _unknown("the header `Authorization` is not one Bearer and a key")
    return secret


def check_neighbours(headers: Headers, origins: tuple[str, ...]) -> None:
    """Raises Refusal (403) for what another page of this machine's browser sent to a gateway without keys."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if not is_loopback(_name(host)):
        fix = "call 127.0.0.1, or start the gateway with --keys"
        raise _forbidden(f"host: {host[:100]!r} is not this machine; {fix}", "foreign_host")
    if origin is not None and origin.partition("://")[2] != host and origin not in origins:
        fix = "start the gateway with --origin to let them"
        raise _forbidden(f"origin: pages of {origin[:100]!r} may not call; {fix}", "foreign_origin")


def is_near(scope: Scope) -> bool:
    """Whether the request comes from this machine, and no proxy on it has passed it on."""
    passed_on = {"x-forwarded-for", "forwarded"} & {*Headers(scope=scope)}
    return bool(scope.get("client")) and is_loopback(scope["client"][0]) and not passed_on


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _name(host: str) -> str:
    """A host without its port; "" for what is none. Nothing that a URL may have besides is let through."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]).lower() if found else ""


def _unknown(problem: str) -> Refusal:
    return Refusal(
        401, f"key: {problem}; {_FIX}", "invalid_api_key", None, AUTHENTICATION, headers={"www-authenticate": "Bearer"}
    )


def _forbidden(message: str, code: str) -> Refusal:
    return Refusal(403, message, code, None, PERMISSION)
