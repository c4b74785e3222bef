"""What the handlers of one app share: settings, the servers behind it, what admits, remembers and counts requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from starlette.requests import Request

from impasto_gateway.checks import Check, check_of
from impasto_gateway.drain import Drain
from impasto_gateway.idempotency import Answers
from impasto_gateway.keyring import Keys
from impasto_gateway.previews import Previews
from impasto_gateway.rates import Rates
from impasto_gateway.registry import Registry
from impasto_gateway.settings import GatewaySettings
from impasto_gateway.signing import Signer
from impasto_gateway.telemetry import Record, Telemetry
from impasto_gateway.upstream import Upstream


@dataclass(frozen=True)
class Parts:
    """One app's. `check` looks at each picture before it leaves, `signer` signs it, `registry` takes uploads; each is
    None where there is none.
    """

    settings: GatewaySettings
    upstream: Upstream
    drain: Drain
    keys: Keys
    rates: Rates
    answers: Answers
    previews: Previews
    registry: Registry | None
    telemetry: Telemetry
    check: Check | None
    signer: Signer | None

    @classmethod
    def of(cls, settings: GatewaySettings, upstream: Upstream, drain: Drain) -> Parts:
        """All that the settings ask for."""
        return cls(
            settings=settings,
            upstream=upstream,
            drain=drain,
            keys=Keys.of(settings),
            rates=Rates(),
            answers=Answers(),
            previews=Previews(upstream, settings.limits.timeout_s),
            registry=Registry(str(settings.registry)) if settings.registry else None,
            telemetry=Telemetry.of(settings),
            check=check_of(settings),
            signer=Signer.of(settings),
        )

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Starlette's: closes what is open when the app ends."""
        try:
            yield
        finally:
            await self.upstream.close()
            self.telemetry.close()


def parts_of(request: Request) -> Parts:
    """Those of the app that serves this request."""
    return cast(Parts, request.app.state.parts)


def record_of(request: Request) -> Record:
    """What is logged and counted of this request."""
    return cast(Record, request.state.record)
