"""Whether the gateway is about to stop."""

from __future__ import annotations


class Drain:
    """From `begin` on, /ready fails, so that balancers send requests elsewhere; what runs is finished."""

    def __init__(self) -> None:
        self.begun = False

    def begin(self) -> None:
        """May be called twice, and by a signal's handler."""
        self.begun = True
