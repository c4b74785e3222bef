"""A least-recently-used cache with a limit in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BytesLru(Generic[K, V]):
    """Keeps the most recently used values, of at most `capacity` bytes together. Not thread-safe."""

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
        """Keep a value, unless it is larger than the whole cache; then nothing is evicted for it."""
        if key in self._values:
            self.nbytes -= self._values.pop(key)[1]
        if nbytes > self._capacity:
            return
        self._values[key] = (value, nbytes)
        self.nbytes += nbytes
        while self.nbytes > self._capacity:
            _, (_, freed) = self._values.popitem(last=False)
            self.nbytes -= freed
