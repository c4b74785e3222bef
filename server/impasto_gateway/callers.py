"""Who asks: a caller with a name, roles and an allowance, and what each handler asks of them."""

from __future__ import annotations

from dataclasses import dataclass, fields

from starlette.requests import Request

from impasto_gateway.errors import PERMISSION, Refusal

ROLES = ("generate", "adapters", "metrics")


@dataclass(frozen=True)
class Allowance:
    """What a caller may take; 0 means no bound. `pixels_per_minute` are those of finished pictures."""

    requests_per_minute: int = 0
    pixels_per_minute: int = 0
    concurrent: int = 0


ALLOWANCES = tuple(one.name for one in fields(Allowance))


@dataclass(frozen=True)
class Caller:
    """The holder of a key."""

    name: str
    roles: frozenset[str]
    limits: Allowance = Allowance()


ANYBODY = Caller("-", frozenset(ROLES))  # where there are no keys
NOBODY = Caller("-", frozenset())  # at a path that is open to all


def need(request: Request, *roles: str) -> Caller:
    """The request's caller. Raises Refusal (403) for one with none of these roles."""
    caller: Caller = request.state.caller
    if caller.roles.isdisjoint(roles):
        held = ", ".join(sorted(caller.roles)) or "none"
        fix = f"ask the operator for a key with the role {' or '.join(roles)}"
        raise Refusal(403, f"key: {caller.name!r} has the roles {held}; {fix}", "role_missing", None, PERMISSION)
    return caller
