"""A request's way through the servers: where it is now, and what became of it where it was before."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from impasto_client.errors import ConnectError, ServerLost, ServerUnavailable
from impasto_gateway.routing import Wanted
from impasto_gateway.server import Server

# Why a request is sent again: its server was lost while it had it, took nothing just then, or couldn't be reached.
Reason = Literal["lost", "declined", "unreachable"]
REASONS: tuple[Reason, ...] = ("lost", "declined", "unreachable")
SUSPECT = 2  # after so many deaths, a request may be what they died of


@dataclass
class Turn:
    """One request, which needs what is `wanted`.

    `server` has it now; `passed` are those that failed it since one was last waited for. `failed` counts why;
    `failed_at_s` is when it was failed first, and `lost_at_s` when a server was lost last, on the monotonic clock.
    `step` is how far its caller was told of.
    """

    wanted: Wanted
    server: Server | None = None
    passed: set[Server] = field(default_factory=set)
    failed: Counter[Reason] = field(default_factory=Counter)
    failed_at_s: float = inf
    lost_at_s: float = 0.0
    step: int = 0

    @property
    def others(self) -> int:
        """How many other requests of this gateway that server works on now. They share its passes, and its time."""
        return 0 if self.server is None else max(0, self.server.painting - 1)

    @property
    def deaths(self) -> int:
        """How many servers were lost while they had it."""
        return self.failed["lost"]

    @property
    def is_suspect(self) -> bool:
        return self.deaths >= SUSPECT

    @property
    def warnings(self) -> tuple[str, ...]:
        """What its caller is told of that, when it was answered all the same."""
        if not self.failed:
            return ()
        why = ", ".join(f"{reason} {count}" for reason, count in sorted(self.failed.items()))
        return (f"server: the request was sent again ({why}); the picture is the same",)


def reason_of(error: ConnectError | ServerUnavailable) -> Reason:
    """Why the request has to be sent again."""
    if isinstance(error, ConnectError):
        return "unreachable"
    return "lost" if isinstance(error, ServerLost) else "declined"
