"""Runs the gateway's app on uvicorn until a signal comes, and then lets what runs finish."""

from __future__ import annotations

import asyncio
from math import ceil
from time import monotonic
from types import FrameType

import uvicorn

from impasto_gateway.app import create_app
from impasto_gateway.connections import PatientProtocol
from impasto_gateway.drain import Drain
from impasto_gateway.settings import GatewaySettings

IDLE_S = 75  # how long a connection may wait for its next request
CLOSE_S = 2  # after the grace, for the last answers to go out
CONNECTIONS = 4096  # more are answered 503


class Gate(uvicorn.Server):
    """uvicorn's server; the first signal begins the drain.

    For `notice_s` seconds /ready fails while everything else is answered, so that balancers see it. Then the port is
    closed, and what runs has `grace_s` seconds; what isn't done then is answered that it is cut off. A second signal
    closes the port at once, a third ends everything.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain, grace_s: float, notice_s: float) -> None:
        super().__init__(config)
        self.cut_off = 0
        self._drain = drain
        self._grace_s = grace_s
        self._notice_s = notice_s
        self._closes_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signals' handler. uvicorn's own would send the signal to this process again, after an orderly end."""
        if self._closes_at is None:
            self._drain.begin()
            self._closes_at = monotonic() + self._notice_s
        elif not self.should_exit:
            self.should_exit = True
        else:
            self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Whether to close the port."""
        if self._closes_at is not None and monotonic() >= self._closes_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def _wait_tasks_to_complete(self) -> None:
        """uvicorn's, which ends when all is done, or a moment after the grace; `cut_off` is how many requests were."""
        cutting = asyncio.get_running_loop().call_later(self._grace_s, self._drain.cut)
        try:
            await super()._wait_tasks_to_complete()
        finally:
            cutting.cancel()
            self.cut_off = max(self._drain.cut_off, len(self.server_state.tasks))


def gate(settings: GatewaySettings, notice_s: float = 0.0) -> Gate:
    """A server of the settings' app that isn't running yet."""
    drain = Drain()
    config = uvicorn.Config(
        create_app(settings, drain=drain),
        host=settings.host,
        port=settings.port,
        http=PatientProtocol,
        ws="none",
        log_config=None,
        access_log=False,  # there is a line for each request in the gateway's own log
        server_header=False,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=list(settings.proxies),
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=ceil(settings.grace_s) + CLOSE_S,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    return Gate(config, drain, settings.grace_s, notice_s)
