"""Replicas on this machine: `impasto serve` in processes of their own, each on its share of the cores."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from time import monotonic
from urllib.request import urlopen

from benchmarks.common.door import IMPASTO, TIED

from impasto_client import Client
from impasto_client.errors import ImpastoError
from impasto_server.ops.process import children

HOST = "127.0.0.1"
READY_S = 300.0
STOP_S = 60.0  # for a replica that was told to stop
LOOK_S = 0.25
COUNTED = ("impasto_adapter_loads", "impasto_bank_writes", "impasto_done")


@dataclass
class Replica:
    """One `impasto serve`, on one core. It may be started again, on the same port."""

    name: str
    core: int
    options: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)  # beside ours
    port: int = field(default_factory=lambda: free_pair())
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """host:port of its gRPC."""
        return f"{HOST}:{self.port}"

    def start(self) -> None:
        """Begin to start; call it from the main thread: the replica is told to stop when that thread ends."""
        serve = [IMPASTO, "serve", "--port", str(self.port), "--threads", "1", "--grace", "30", "--deaths", "100"]
        pinned = [*TIED, "taskset", "--cpu-list", str(self.core)]
        with self.log.open("ab") as log:  # a session of its own: Ctrl-C is for the benchmark, which then stops it
            self.process = subprocess.Popen(
                [*pinned, *serve, *self.options],
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def is_ready(self) -> bool:
        """Whether it would paint now."""
        try:
            with Client(self.url, timeout=2.0) as client:
                return client.is_ready()
        except ImpastoError:
            return False

    async def await_ready(self) -> None:
        """Raises RuntimeError, with the end of its log, when it isn't ready in time."""
        deadline = monotonic() + READY_S
        while not await asyncio.to_thread(self.is_ready):
            ended = self.process is None or self.process.poll() is not None
            if ended or monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start; the end of its log:\n{self.log.read_text()[-2000:]}")
            await asyncio.sleep(LOOK_S)

    def stop(self) -> None:
        """Let it finish what it has, and end. May be repeated."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL for `impasto serve` itself; its guardian then ends the server."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill_triton(self) -> None:
        """SIGKILL for the server alone: `impasto serve` starts another. Raises LookupError while there is none."""
        assert self.process is not None
        for guardian in children(self.process.pid):
            for server in children(guardian):
                os.kill(server, SIGKILL)
                return
        raise LookupError(f"{self.name} has no server now")

    def counted(self) -> Mapping[str, float]:
        """Its counters of COUNTED; they are half a second old."""
        with urlopen(f"http://{HOST}:{self.port + 1}/metrics", timeout=10) as answer:
            return counters(answer.read().decode())


@asynccontextmanager
async def started(replicas: Sequence[Replica]) -> AsyncIterator[None]:
    """Start them all, together; they end with the block."""
    try:
        for one in replicas:
            one.start()
        for one in replicas:
            await one.await_ready()
        yield
    finally:
        for one in replicas:  # told all at once, then waited for
            if one.process is not None:
                one.process.terminate()
        with ExitStack() as stopping:
            for one in replicas:
                stopping.callback(one.stop)


def counters(text: str) -> dict[str, float]:
    """The sums over bundles of COUNTED, from a page of Prometheus metrics."""
    found = dict.fromkeys(COUNTED, 0.0)
    for line in text.splitlines():
        name = line.partition("{")[0]
        if name in found:
            found[name] += float(line.rpartition(" ")[2])
    return found


def free_pair() -> int:
    """A port that was free a moment ago, and so was the one above, which is for metrics."""
    while True:
        with closing(socket.socket()) as low, closing(socket.socket()) as high:
            low.bind((HOST, 0))
            port = int(low.getsockname()[1])
            try:
                high.bind((HOST, port + 1))
            except (OSError, OverflowError):
                continue
            return port
