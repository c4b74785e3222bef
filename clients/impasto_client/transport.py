"""What carries tensors to a server and back; see `triton.py` for the real one and `fake.py` for the one in tests."""

from __future__ import annotations

from typing import Protocol

from impasto_client.wire import Tensors


class Transport(Protocol):
    """Safe to call from several threads at once. `infer` and `is_ready` raise errors of the ImpastoError tree."""

    def infer(self, tensors: Tensors) -> Tensors:
        """Input tensors to output tensors."""
        ...

    def is_ready(self) -> bool:
        """Whether `infer` would be served now."""
        ...

    def close(self) -> None:
        """Free what it holds; may be called twice."""
        ...


class AsyncTransport(Protocol):
    """The same for asyncio; used from one event loop."""

    async def infer(self, tensors: Tensors) -> Tensors:
        """Input tensors to output tensors."""
        ...

    async def is_ready(self) -> bool:
        """Whether `infer` would be served now."""
        ...

    async def close(self) -> None:
        """Free what it holds; may be called twice."""
        ...
