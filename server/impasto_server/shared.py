"""What the pipelines of one server share: registry, scorer, admission, device, closing, and room in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from impasto_server.adapters.adapter import MAX_HEADER
from impasto_server.adapters.bucket import shelf_of
from impasto_server.adapters.registry import Registry
from impasto_server.admission import Admission
from impasto_server.bundle import Bundle
from impasto_server.closing import Closing
from impasto_server.engines.runtime import Runtime
from impasto_server.room import Room
from impasto_server.scoring.score import Scorer
from impasto_server.settings import Settings
from impasto_server.turnstile import Turnstile

DELTA_SHARE = 4  # a delta's most bytes, as a multiple of its bundle's: it may be float32, and in several factors


@dataclass(frozen=True)
class Shared:
    registry: Registry
    scorer: Scorer | None
    admission: Admission
    turnstile: Turnstile = field(default_factory=Turnstile)
    closing: Closing = field(default_factory=Closing)
    room: Room = field(default_factory=Room)

    @classmethod
    def of(cls, settings: Settings, bundles: Sequence[Bundle]) -> Shared:
        """For pipelines of `bundles`. Raises SetupError where the registry or the scorer can't be opened."""
        largest = max(bundle.nbytes for bundle in bundles)
        return cls(
            Registry(shelf_of(settings), MAX_HEADER + DELTA_SHARE * largest),
            Scorer.open(settings.scorer, Runtime.of(settings)) if settings.scorer else None,
            Admission(settings.max_requests, len(bundles)),
        )

    def drain(self, grace_s: float) -> int:
        """Refuse new requests and finish those under way. Those that take longer than `grace_s` are told Unavailable;
        returns how many.
        """
        late = self.admission.drain(grace_s)
        self.closing.now()
        self.admission.close()
        return late
