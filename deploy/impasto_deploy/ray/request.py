"""What a request needs of a replica, read from its tensors; it goes first among a call's arguments."""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_hex

from impasto_client.wire import Tensors
from impasto_gateway.routing import Wanted

NAMING = ("ADAPTER_NAMES", "STYLE", "CONTENT")  # the fields that name what a server loads from its registry


@dataclass(frozen=True)
class Routed:
    """`avoided` are replicas that lost a request a moment ago: others are preferred, if there are any."""

    wanted: Wanted
    avoided: frozenset[str] = frozenset()


def wanted(tensors: Tensors) -> Wanted:
    """The bundle and the set of adapters; "" is the default bundle. Fields are checked by the server, not here."""
    adapters = frozenset(name for field in NAMING for name in _texts(tensors, field))
    return Wanted("".join(_texts(tensors, "MODEL")[:1]), adapters, "" if adapters else token_hex(8))


def _texts(tensors: Tensors, field: str) -> list[str]:
    if field not in tensors:
        return []
    return [one.decode(errors="replace") for one in tensors[field].ravel().tolist() if isinstance(one, bytes) and one]
