"""The protocol of transports, which carry tensors to a server and back; see `triton.py` and, for tests, `fake.py`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Protocol

from impasto_client.wire import Tensors


class Transport(Protocol):
    """A transport; several threads may use it at once. Requests raise errors of the ImpastoError tree.

    `timeout_s` bounds a request up to its last response, in seconds; None waits for ever.
    """

    def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """Input tensors to output tensors."""
        ...

    def stream(self, tensors: Tensors, timeout_s: float | None = None) -> Generator[Tensors, None, None]:
        """Input tensors to the tensors of each response. Closing the generator early cancels the request."""
        ...

    def score(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """The scorer's input tensors to its output tensors."""
        ...

    def catalogue(self, timeout_s: float | None = None) -> Tensors:
        """The output tensors of the server's model `catalogue`."""
        ...

    def is_ready(self) -> bool:
        """Whether `infer` would be served now."""
        ...

    def close(self) -> None:
        """Free its resources; may be called twice."""
        ...


class AsyncTransport(Protocol):
    """A transport for asyncio; used from one event loop."""

    async def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """Input tensors to output tensors."""
        ...

    def stream(self, tensors: Tensors, timeout_s: float | None = None) -> AsyncGenerator[Tensors, None]:
        """Input tensors to the tensors of each response. Closing the generator early cancels the request."""
        ...

    async def score(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """The scorer's input tensors to its output tensors."""
        ...

    async def catalogue(self, timeout_s: float | None = None) -> Tensors:
        """The output tensors of the server's model `catalogue`."""
        ...

    async def is_ready(self) -> bool:
        """Whether `infer` would be served now."""
        ...

    async def close(self) -> None:
        """Free its resources; may be called twice."""
        ...
