"""The gateway's refusals, in the envelope of OpenAI's API: {"error": {"message", "type", "param", "code"}}.

Every answer that is no success is a Refusal that was raised, or one that `refusal_of` made of a client's error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from impasto_client.errors import (
    AdapterNotFound,
    ConnectError,
    DeadlineExceeded,
    ImpastoError,
    InvalidRequest,
    MarkError,
    ServerFull,
    ServerUnavailable,
)
from impasto_client.fields import TABLE

INVALID, AUTHENTICATION, PERMISSION = "invalid_request_error", "authentication_error", "permission_error"
RATE, SERVER = "rate_limit_error", "server_error"

_REQUEST_ID = r"(?:\[request id: [^\]]*\] )?"
_ADDRESS = re.compile(r" (?:at|from|to) \S+:\d+")
_GRPC = re.compile(r" \(.*\)$", re.DOTALL)

CLOSING = MappingProxyType({"connection": "close"})  # headers of an answer that is the connection's last
# What callers of the gateway do in place of a command.
_COMMANDS = {
    "`impasto models` lists": "GET /v1/adapters lists",
    "`impasto models`": "GET /v1/models",
    "`impasto adapters import`": "PUT /v1/adapters/NAME",
}
# What is quoted, or the wire's name of a field.
_NAMES = re.compile(r"""(?<!\w)'[^']*'(?!\w)|"[^"]*"|\b([A-Z][A-Z_]+)\b""")
# Fields of the wire in the words of HTTP. Callers say some in another way: weights come with their adapters, files as
# `image` and `mask`.
WORDS: Mapping[str, str] = MappingProxyType(
    {
        **{field.name: field.word for field in TABLE.fields},
        "ADAPTER_WEIGHTS": "adapters",
        "FORMAT": "output_format",
        "STYLE_IMAGES": "image",
        "MASKS": "mask",
        "BASE_IMAGE": "image",
        "PREVIEW_EVERY": "partial_images",
    }
)

CANCELLED = 499  # nginx's status for a caller who left; it stands in logs, nobody receives it


@dataclass
class Refusal(Exception):
    """An answer that is no success.

    `message` reads `field: what was got; what to do`; `param` is the caller's name of the field, or None. `code` is one
    word that programs match on. With `again` the same request may succeed later; else the answer says
    `x-should-retry: false`. `retry_after_s` is in seconds; it is sent rounded up.
    """

    status: int
    message: str
    code: str
    param: str | None = None
    kind: str = INVALID
    again: bool = False
    retry_after_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def body(self) -> dict[str, dict[str, str | None]]:
        """OpenAI's envelope."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def all_headers(self) -> dict[str, str]:
        """What the SDKs read: x-should-retry, and retry-after in whole seconds where it is known."""
        said = {"x-should-retry": "true" if self.again else "false", **self.headers}
        if self.retry_after_s is not None:
            said["retry-after"] = str(max(1, -int(-self.retry_after_s // 1)))
        return said


def wrong(param: str, problem: str, code: str = "invalid_value") -> Refusal:
    """The refusal of a field's value: `problem` reads `what was got; what to do`."""
    param = param[:64]
    return Refusal(400, f"{param}: {problem}", code, param)


def left() -> Refusal:
    """The refusal that nobody hears, for the log."""
    return Refusal(CANCELLED, "the caller left before the answer", "cancelled")


def refusal_of(error: ImpastoError, names: Mapping[str, str] = MappingProxyType({})) -> Refusal:
    """The refusal for a client's error. `names`: the wire's name of a field -> what this caller called it. Messages
    that begin with the one begin with the other then.
    """
    wire = getattr(error, "field", None)
    param = names.get(wire) or WORDS.get(wire, wire.lower()) if wire else None
    message = _worded(str(error), {**WORDS, **names, **({wire: param} if wire and param else {})})
    if wire and param:
        message = re.sub(rf"^{_REQUEST_ID}{re.escape(param)}: ", f"{param}: ", message)
    match error:
        case InvalidRequest():
            return Refusal(400, message, "invalid_value", param)
        case AdapterNotFound():
            return Refusal(404, message, "adapter_not_found", param)
        case MarkError():  # words that fit into a request, but not into a file
            return Refusal(400, f"metadata: {message}", "too_long_to_mark", "metadata")
        case DeadlineExceeded():
            return Refusal(504, _outwards(message), "deadline_exceeded", kind=SERVER)
        case ServerFull():
            return Refusal(429, message, "server_full", kind=RATE, again=True, retry_after_s=error.retry_after_s)
        case ServerUnavailable() | ConnectError():
            return Refusal(503, _outwards(message), "unavailable", kind=SERVER, again=True, retry_after_s=1.0)
        case _:
            return Refusal(500, message, "server_error", kind=SERVER)


def _worded(message: str, names: Mapping[str, str]) -> str:
    """In words of HTTP: fields as callers say them, but not in what is quoted, and addresses in place of commands."""
    for command, address in _COMMANDS.items():
        message = message.replace(command, address)
    return _NAMES.sub(lambda found: names.get(found[1], found[0]) if found[1] else found[0], message)


def _outwards(message: str) -> str:
    """Without the servers' addresses, and what gRPC says of connections: callers know the gateway alone."""
    return _ADDRESS.sub("", _GRPC.sub("", message))
