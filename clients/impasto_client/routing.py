"""The header x-adapter: by it a proxy sends a request to a server that has its adapters already."""

from __future__ import annotations

from hashlib import sha256
from urllib.parse import quote

from impasto_client.headers import Headers, headers
from impasto_client.wire import Tensors

ADAPTER = "x-adapter"
NAMING = ("ADAPTER_NAMES", "STYLE", "CONTENT")  # inputs with names of the registry
_MOST = 512  # characters; a longer text is sent as its hash, since proxies limit headers


def routed(tensors: Tensors) -> Headers:
    """What a request that is sent now carries: the headers of `sending`, and x-adapter unless that is one of them.

    Its value is the names in the request, each once, sorted, with commas between them: requests that name the same
    adapters have the same value, whatever their order and weights. A request that names none has no such header.
    """
    said = headers()
    value = _names(tensors)
    if not value or any(name == ADAPTER for name, _ in said):
        return said
    return (*said, (ADAPTER, value if len(value) <= _MOST else sha256(value.encode()).hexdigest()))


def _names(tensors: Tensors) -> str:
    """ASCII: what a header can't carry, and a comma in a name, are written as %XX."""
    found = {quote(name, safe="") for field in NAMING if field in tensors for name in tensors[field].ravel() if name}
    return ",".join(sorted(found))
