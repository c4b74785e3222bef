"""A least-recently-used cache bounded by bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BytesLru(Generic[K, V]):
    """Keeps the most recently used values whose sizes add up to at most `capacity` bytes. Not thread-safe."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.nbytes = 0

    def get(self, key: K) -> V | None:
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: K, value: V, nbytes: int) -> None:
        """A value larger than the whole cache isn't kept, and makes no room for itself."""
        if key in self._values:
            self.nbytes -= self._values.pop(key)[1]
        if nbytes > self._capacity:
            return
        self._values[key] = (value, nbytes)
        self.nbytes += nbytes
        while self.nbytes > self._capacity:
            _, (_, freed) = self._values.popitem(last=False)
            self.nbytes -= freed
