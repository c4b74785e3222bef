"""One run of a tritonserver on our model repository, from its start to its end, after which nothing is left.

with serve(settings) as server:
    ...  # gRPC clients talk to server.grpc_url

supervise.py starts another when one has died.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from resource import RLIMIT_FSIZE, prlimit
from signal import Signals
from subprocess import TimeoutExpired
from threading import Thread
from time import monotonic, sleep
from typing import Any

from impasto_server.adapters.budget import capacity
from impasto_server.adapters.layout import Layout
from impasto_server.engines.calibration import Calibration
from impasto_server.engines.runtime import Runtime
from impasto_server.errors import SetupError
from impasto_server.front import opened
from impasto_server.ops.endpoints import Endpoints, Ports, is_loopback
from impasto_server.ops.guardian import CUT, SERVER, SIGNALLED, Charge
from impasto_server.ops.process import Guarded, children, is_child
from impasto_server.ops.ready import is_ready, open_gate
from impasto_server.ops.repository import chosen_models, working
from impasto_server.ops.tracing import tracing
from impasto_server.ops.tritonserver import Installation, find
from impasto_server.scoring.score import ScorerBundle
from impasto_server.settings import Settings

LOOPBACK = "127.0.0.1"
GRACE_S = 30.0  # how long requests in flight may take once the server is told to stop
SHM_BYTES = 512 << 20  # limit of the shared memory through which requests reach a model; it grows and never shrinks
EXIT_S = 30
READY_S = 300.0  # how long a server may take to start
TAIL_LINES = 30

Log = Callable[[str], None]


class ServerDied(Exception):
    """The server, or the Python process of a model, ended without being asked to."""


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before a server starts, and stays the same when it is restarted.

    `traces` is the URL of a collector of traces.
    """

    installation: Installation
    settings: Settings
    endpoints: Endpoints
    grace_s: float = GRACE_S
    shm_bytes: int = SHM_BYTES
    traces: str | None = None

    @classmethod
    def of(
        cls,
        settings: Settings,
        endpoints: Endpoints,
        grace_s: float = GRACE_S,
        shm_bytes: int = SHM_BYTES,
        traces: str | None = None,
    ) -> Plan:
        """A checked plan. Raises SetupError when such a server can't start."""
        installation, host = find(), endpoints.ports.host
        if installation.flaws and not is_loopback(host):
            raise SetupError(
                f"host: {host} is not loopback, but the tritonserver here {installation.flaws}; "
                "serve from NVIDIA's current Triton image, or on loopback behind a proxy"
            )
        if traces is not None:
            tracing(traces)  # refuses a bad URL
        settings = _resolved(settings)
        # The models would raise the same errors, but deep in a log.
        bundles, runtime = opened(settings), Runtime.of(settings)
        for bundle in bundles:
            Calibration.read(bundle)
            capacity(Layout.of(bundle.manifest, settings.page_rank, runtime.table_precision), settings, runtime)
        if settings.scorer:
            ScorerBundle.open(settings.scorer)
        return cls(installation, settings, endpoints, grace_s, shm_bytes, traces)

    def start(self, on_log: Log) -> Server:
        """Start a server; it isn't ready yet. `on_log` gets every line of its log, from another thread."""
        workspace = Path(tempfile.mkdtemp(prefix="impasto-"))
        shm_prefix = f"impasto_{os.getpid()}_{secrets.token_hex(4)}_"
        command = [
            str(self.installation.binary),
            f"--model-repository={chosen_models(self.settings, workspace)}",
            f"--backend-directory={self.installation.prepare(workspace)}",
            f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
            f"--id={shm_prefix}",
            "--model-control-mode=none",
            "--disable-auto-complete-config",  # auto-complete would start a Python process for what config.pbtxt says
            *self.endpoints.options(),
            *([] if self.traces is None else tracing(self.traces)),
            f"--exit-timeout-secs={ceil(self.grace_s) + EXIT_S}",  # if nobody kills it before
            "--log-format=ISO8601",
        ]
        order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # CUDA then numbers GPUs as nvidia-smi does
        named = {SERVER: shm_prefix}
        environment = {**os.environ, **self.installation.environment(), **order, **named, **self.settings.to_env()}
        port, models = self.endpoints.ports.grpc, working(self.settings)
        charge = Charge(command, port, models, self.grace_s, shm_prefix, str(workspace))
        return Server(Guarded(charge, environment), self.endpoints.ports, on_log, shm_prefix, self.shm_bytes)


@dataclass
class Server:
    """A running tritonserver, made by a Plan."""

    guarded: Guarded
    ports: Ports
    on_log: Log
    shm_prefix: str
    shm_bytes: int
    pid: int = 0
    stubs: list[int] = field(default_factory=list)
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))

    def __post_init__(self) -> None:
        self._reader = Thread(target=self._read_log, name="triton-log", daemon=True)
        self._reader.start()

    @property
    def grpc_url(self) -> str:
        """host:port, as gRPC clients take it."""
        return f"{self.ports.host}:{self.ports.grpc}"

    @property
    def metrics_url(self) -> str:
        """The URL that Prometheus reads."""
        return f"http://{self.ports.host}:{self.ports.metrics}/metrics"

    @property
    def http_url(self) -> str | None:
        """http://host:port; None where HTTP is off."""
        return None if self.ports.http is None else f"http://{self.ports.host}:{self.ports.http}"

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Return once every model is loaded. Raises SetupError, with the end of the log, if that doesn't happen."""
        deadline = monotonic() + timeout_s
        while not is_ready(self.ports.host, self.ports.grpc, self.shm_prefix):
            if self.guarded.process.poll() is not None:
                raise SetupError(f"the server did not start; the end of its log:\n{self._tail_text()}")
            if monotonic() > deadline:
                raise SetupError(f"the server was not ready after {timeout_s:g} s; its log:\n{self._tail_text()}")
            sleep(0.1)
        try:
            (self.pid,) = children(self.guarded.process.pid)
            self.stubs = children(self.pid)
            # Shared memory is the only kind of file that it writes; a request that doesn't fit is refused.
            prlimit(self.pid, RLIMIT_FSIZE, (self.shm_bytes, self.shm_bytes))
        except (ValueError, ProcessLookupError):
            raise SetupError(f"the server ended as soon as it was ready; its log:\n{self._tail_text()}") from None
        if problem := open_gate(self.ports.host, self.ports.grpc):
            self.on_log(f"the gate can't be opened ({problem}); while it stops, this server may answer NOT_FOUND")

    def check(self) -> None:
        """Raise ServerDied unless the server and the processes that run its models are alive."""
        # Triton still reports ready when the Python process of a model is gone.
        gone = [pid for pid in self.stubs if not is_child(pid, self.pid)]
        if gone:  # perhaps the server itself is dying: its children seem gone a moment before
            with suppress(TimeoutExpired):
                self.guarded.process.wait(0.5)
        status = self.guarded.process.poll()
        if status is not None:
            raise ServerDied(f"tritonserver ended {_how(status)}:\n{self._tail_text()}")
        if gone:
            raise ServerDied(
                f"the Python process of a model (pid {gone[0]}) is gone; see the log, and whether memory ran out"
            )

    def stop(self, grace_s: float = 0.0) -> bool:
        """End the server, and leave nothing running or in /dev/shm. Requests in flight may take `grace_s` seconds.

        Requests that take longer or arrive meanwhile are answered UNAVAILABLE. False when requests were cut off.
        """
        status = self.guarded.let_go(grace_s)
        self._reader.join(5)
        return status != CUT

    def _read_log(self) -> None:
        assert self.guarded.process.stdout is not None
        with self.guarded.process.stdout as lines:
            for line in lines:
                self.on_log(line.rstrip())
                if line[0] not in "|+\n":  # Triton's tables
                    self.tail.append(line.rstrip().replace("\\n", "\n"))

    def _tail_text(self) -> str:
        """The end of the log, complete if the server has ended."""
        if self.guarded.process.poll() is not None:
            self._reader.join(5)
        return "\n".join(self.tail)


@contextmanager
def serve(
    settings: Settings,
    *,
    host: str = LOOPBACK,
    port: int = 0,
    http: bool = False,
    on_log: Log = lambda line: None,
    ready_timeout_s: float = READY_S,
    grace_s: float = GRACE_S,
    traces: str | None = None,
) -> Iterator[Server]:
    """Start a server, wait until it is ready, and stop it on the way out.

    port is gRPC's; 0 picks free ones. Raises SetupError when the server can't start.
    """
    server = Plan.of(settings, Endpoints(Ports.choose(host, port, http)), grace_s, traces=traces).start(on_log)
    try:
        server.wait_ready(ready_timeout_s)
        yield server
    finally:
        server.stop(grace_s if server.stubs else 0)


def _resolved(settings: Settings) -> Settings:
    """The settings with absolute paths, for another process."""
    fields = ("registry", "scorer", "cache_dir", "registry_cache")
    found: dict[str, Any] = {name: value for name in fields if isinstance(value := getattr(settings, name), Path)}
    given = settings.bundle
    bundle = given.resolve() if isinstance(given, Path) else {name: path.resolve() for name, path in given.items()}
    return replace(settings, bundle=bundle, **{name: path.resolve() for name, path in found.items()})


def _how(status: int) -> str:
    """How the server ended, in words, by its guardian's exit status."""
    if status < 0:
        return "since its guardian was killed"
    return f"with status {status}" if status <= SIGNALLED else f"by {Signals(status - SIGNALLED).name}"
