"""Fake transports, so that users of the client can test without a server.

client = Client(transport=FakeTransport())
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import closing

from impasto_client.catalogue import Catalogue, encoded
from impasto_client.errors import ImpastoError
from impasto_client.example import EXAMPLE
from impasto_client.simulated_photo import painted
from impasto_client.simulation import answer, scores, steps
from impasto_client.wire import Tensors


class FakeTransport:
    """Answers every request with pictures that depend only on the request, or with `error`. A photo comes back in its
    own size, in two colours that depend on its styles. Scores are cosines between directions drawn from the bytes of
    files and texts: 1 if these are the same, else arbitrary.

    It has one bundle, called fake, and no adapters, or what `catalogue` lists.
    The default seed is 0. Every answer has these `warnings`. `requests` records the requests, `timeouts` their
    timeouts, and `cancelled` counts the streams that were left before their picture.
    """

    def __init__(
        self,
        *,
        error: ImpastoError | None = None,
        warnings: Sequence[str] = (),
        ready: bool = True,
        catalogue: Catalogue = EXAMPLE,
    ) -> None:
        self.error = error
        self.has = catalogue
        self.warnings = tuple(warnings)
        self.ready = ready
        self.closed = False
        self.cancelled = 0
        self.requests: list[Tensors] = []
        self.timeouts: list[float | None] = []

    def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """The simulated answer. Raises `error` when one was given; InvalidRequest for a photo that can't be decoded."""
        self.requests.append(tensors)
        self.timeouts.append(timeout_s)
        if self.error is not None:
            raise self.error
        return answer(tensors, self.warnings) if "PROMPT" in tensors else painted(tensors, self.warnings)

    def stream(self, tensors: Tensors, timeout_s: float | None = None) -> Generator[Tensors, None, None]:
        """Every step at once, then the answer. Raises `error` when one was given."""
        picture = self.infer(tensors, timeout_s)
        try:
            yield from steps(tensors)
        except GeneratorExit:
            self.cancelled += 1
            raise
        yield picture

    def score(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """A score for each of IMAGE. Raises `error` when one was given."""
        self.requests.append(tensors)
        self.timeouts.append(timeout_s)
        if self.error is not None:
            raise self.error
        return scores(tensors)

    def catalogue(self, timeout_s: float | None = None) -> Tensors:
        """The `catalogue` that was given. Raises `error` when one was given."""
        self.timeouts.append(timeout_s)
        if self.error is not None:
            raise self.error
        return encoded(self.has)

    def is_ready(self) -> bool:
        """The `ready` that was given."""
        return self.ready

    def close(self) -> None:
        """Sets `closed`."""
        self.closed = True


class AsyncFakeTransport:
    """A FakeTransport for AsyncClient; `fake` keeps the records."""

    def __init__(self, fake: FakeTransport | None = None) -> None:
        self.fake = FakeTransport() if fake is None else fake

    async def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """As FakeTransport.infer."""
        return self.fake.infer(tensors, timeout_s)

    async def stream(self, tensors: Tensors, timeout_s: float | None = None) -> AsyncGenerator[Tensors, None]:
        """As FakeTransport.stream."""
        with closing(self.fake.stream(tensors, timeout_s)) as responses:
            for response in responses:
                yield response

    async def score(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """As FakeTransport.score."""
        return self.fake.score(tensors, timeout_s)

    async def catalogue(self, timeout_s: float | None = None) -> Tensors:
        """As FakeTransport.catalogue."""
        return self.fake.catalogue(timeout_s)

    async def is_ready(self) -> bool:
        """As FakeTransport.is_ready."""
        return self.fake.is_ready()

    async def close(self) -> None:
        """As FakeTransport.close."""
        self.fake.close()
