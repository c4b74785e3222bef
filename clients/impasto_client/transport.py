"""What carries tensors to a server and back; see `triton.py` for the real one and `fake.py` for the one in tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Protocol

from impasto_client.wire import Tensors


class Transport(Protocol):
    """Safe to call from several threads at once. Requests and readiness raise errors of the ImpastoError tree.

    `timeout_s` bounds a request, to its last response, in seconds; None waits for ever.
    """

    def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """Input tensors to output tensors."""
        ...

    def stream(self, tensors: Tensors, timeout_s: float | None = None) -> Generator[Tensors, None, None]:
        """Input tensors to the tensors of each response. Closing the generator early cancels the request."""
        ...

    def score(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """Of the server's scorer: input tensors to output tensors."""
        ...

    def catalogue(self, timeout_s: float | None = None) -> Tensors:
        """What the server has: output tensors of its model `catalogue`."""
        ...

    def is_ready(self) -> bool:
        """Whether `infer` would be served now."""
        ...

    def close(self) -> None:
        """Free what it holds; may be called twice."""
        ...


class AsyncTransport(Protocol):
    """The same for asyncio; used from one event loop."""

    async def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """Input tensors to output tensors."""
        ...

    def stream(self, tensors: Tensors, timeout_s: float | None = None) -> AsyncGenerator[Tensors, None]:
        """Input tensors to the tensors of each response. Closing the generator early cancels the request."""
        ...

    async def score(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """Of the server's scorer: input tensors to output tensors."""
        ...

    async def catalogue(self, timeout_s: float | None = None) -> Tensors:
        """What the server has: output tensors of its model `catalogue`."""
        ...

    async def is_ready(self) -> bool:
        """Whether `infer` would be served now."""
        ...

    async def close(self) -> None:
        """Free what it holds; may be called twice."""
        ...
