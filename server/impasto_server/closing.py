"""The end of a server's time, seen from work that is under way."""

from __future__ import annotations

from impasto_server.errors import Unavailable


class Closing:
    """Whether the time is over that a server has for what it took."""

    def __init__(self) -> None:
        self._over = False

    def now(self) -> None:
        self._over = True

    def check(self) -> None:
        """Raises Unavailable once it is."""
        if self._over:
            raise Unavailable("the server stopped before this was done; send the request to another one, or later")
