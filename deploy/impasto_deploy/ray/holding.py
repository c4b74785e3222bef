"""What a replica tells routers of the adapters that its server has, since they are asked for by all gateways."""

from __future__ import annotations

from typing import Any

from impasto_gateway.residency import Residency
from impasto_gateway.routing import Wanted


class Holding:
    """The adapters that were asked for since the server started."""

    def __init__(self) -> None:
        self._residency = Residency()
        self._bundles: set[str] = set()
        self._emptied = 0

    def sent(self, wanted: Wanted) -> None:
        """The server gets a request."""
        self._bundles.add(wanted.bundle)
        self._residency.sent(wanted)

    def emptied(self) -> None:
        """The server was lost; the next one begins without adapters."""
        self._emptied += 1
        self._residency.restarted()

    def told(self) -> dict[str, Any]:
        """How often that was, and the adapters by bundle; plain values, as Ray wants them."""
        return {"emptied": self._emptied, "held": {bundle: self._of(bundle) for bundle in sorted(self._bundles)}}

    def _of(self, bundle: str) -> list[str]:
        return sorted(self._residency.seen("", Wanted(bundle), 0).resident)
