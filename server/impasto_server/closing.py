"""A flag that tells work under way that the server is closing."""

from __future__ import annotations

from impasto_server.errors import Unavailable


class Closing:
    """Whether the server's time to finish its requests is over."""

    def __init__(self) -> None:
        self._over = False

    def now(self) -> None:
        self._over = True

    def check(self) -> None:
        """Raises Unavailable once it is."""
        if self._over:
            raise Unavailable("the server stopped before this was done; send the request to another one, or later")
