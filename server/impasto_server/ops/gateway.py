"""The gateway beside a server: `impasto gateway` as a child process, started again when it died.

It is a client of the server and outlives its restarts; /ready says whether there is a server behind it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from urllib.parse import urlsplit

from impasto_server.errors import SetupError
from impasto_server.ops.supervise import GaveUp, Restarts
from impasto_server.settings import Place, settled

COMMAND = (sys.executable, "-c", "from impasto_client.cli import main; main()", "gateway")
READY_S = 60.0
OPEN_S = 15.0  # for /ready to say 200 once the server is ready
ANSWER_S = 10.0
SLACK_S = 10.0  # after the grace, to close
TAIL_LINES = 20
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Door:
    """Where the gateway listens, the server's gRPC behind it, and what its callers may reach.

    With `requests`, its log of requests goes to our standard output, as it is. `options` are more words of
    `impasto gateway`. Its other options have variables, which it gets from us.
    """

    host: str
    port: int
    grpc_url: str
    options: tuple[str, ...] = ()
    grace_s: float = 30.0
    requests: bool = False

    @classmethod
    def of(
        cls,
        host: str,
        port: int,
        grpc_url: str,
        *,
        keys: Path | None,
        registry: Place,
        bundles: Mapping[str | None, Path],
        grace_s: float,
        metrics_url: str | None = None,
        traces: str | None = None,
        requests: bool = False,
    ) -> Door:
        """A door whose port is free; 0 picks one. Raises SetupError."""
        options = [f"--registry={settled(registry)}"]
        for name, folder in bundles.items():
            options.append(f"--bundle={folder.resolve()}" if name is None else f"--bundle={name}={folder.resolve()}")
        if keys is not None:
            options.append(f"--keys={keys.resolve()}")
        if metrics_url is not None:
            options.append(f"--metrics-url={metrics_url}")
        if traces is not None:
            options.append(f"--traces={traces}")
        return cls(host, _free(host, port), grpc_url, tuple(options), grace_s, requests)

    @property
    def url(self) -> str:
        """As callers reach it, unless a variable gave it a certificate."""
        scheme = "https" if os.environ.get("IMPASTO_GATEWAY_TLS_CERTIFICATE") else "http"
        return f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def command(self) -> list[str]:
        """That starts it."""
        place = [f"--host={self.host}", f"--port={self.port}", f"--url={self.grpc_url}", f"--grace={self.grace_s}"]
        return [*COMMAND, *place, *self.options]


@dataclass
class Gateway:
    """A running gateway, made by `start`. `on_log` gets its lines, from another thread; `say` hears of its deaths."""

    door: Door
    restarts: Restarts
    on_log: Callable[[str], None]
    say: Callable[[str], None]
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    stopped_in_order: bool = True

    def start(self) -> None:
        """Start it, and return when its port is open; then it isn't ready before its server is. Raises SetupError."""
        self._again_at: float | None = None
        self._launch()
        deadline = monotonic() + READY_S
        while not _answers(self.door.host, self.door.port):
            if self._process.poll() is not None:
                raise SetupError(f"http: the gateway did not start: {self._last_words()}")
            if monotonic() > deadline:
                self.stop()
                raise SetupError(f"http: the gateway was not there after {READY_S:g} s: {self._last_words()}")
            sleep(0.05)

    def is_ready(self, within_s: float = OPEN_S) -> bool:
        """Whether /ready says so, within a while: its connection to a server that has just started takes a moment."""
        deadline = monotonic() + within_s
        while not _is_ready(self.door):
            if monotonic() > deadline or self._process.poll() is not None:
                return False
            sleep(0.2)
        return True

    def look(self) -> None:
        """Start another when it has died, after the pause that is due. Raises GaveUp when it died too often."""
        if self._again_at is None:
            if self._process.poll() is None:
                return
            said = f"the gateway ended with status {self._process.returncode}: {self._last_words()}"
            try:
                pause_s = self.restarts.died(monotonic())
            except GaveUp as error:
                raise GaveUp(f"{said}\n{error}") from None
            self.say(f"{said}\nit is restarted in {pause_s:g} s ({self.restarts})")
            self._again_at = monotonic() + pause_s
        if monotonic() >= self._again_at:
            self._again_at = None
            self._launch()

    def stop(self) -> None:
        """Let it finish its requests, within the grace, and end it. May be repeated."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(self.door.grace_s + SLACK_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self.stopped_in_order = self._process.wait() == 0
        self._reader.join(5)

    def _launch(self) -> None:
        self._process = subprocess.Popen(
            self.door.command(),
            stdin=subprocess.DEVNULL,
            stdout=None if self.door.requests else subprocess.PIPE,
            stderr=subprocess.PIPE if self.door.requests else subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is ours: it ends first, then the server
            preexec_fn=partial(_end_with, os.getpid()),
        )
        self._reader = Thread(target=self._read, args=(self._process,), name="gateway-log", daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        told = process.stderr or process.stdout
        assert told is not None
        with told as lines:
            for line in lines:
                self.on_log(line.rstrip())
                self.tail.append(line.rstrip())

    def _last_words(self) -> str:
        self._reader.join(5)
        return "\n".join(self.tail)


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((_near(host), port), timeout=1).close()
    except OSError:
        return False
    return True


def _is_ready(door: Door) -> bool:
    """Whether GET /ready is answered 200. Its certificate is another name's: this only asks our own child."""
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    near = _near(door.host)
    if urlsplit(door.url).scheme == "https":
        line: HTTPConnection = HTTPSConnection(near, door.port, timeout=ANSWER_S, context=unverified)
    else:
        line = HTTPConnection(near, door.port, timeout=ANSWER_S)
    try:
        line.request("GET", "/ready")
        return line.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        line.close()


def _near(host: str) -> str:
    """An address at which this machine reaches what listens on `host`."""
    return host if host not in ("0.0.0.0", "::") else {"0.0.0.0": "127.0.0.1", "::": "::1"}[host]


def _free(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else "there is no such port"
            raise SetupError(f"http: {host}:{port} can't be bound ({why}); pass another --http, or 0") from None
        return int(listener.getsockname()[1])


def _end_with(parent: int) -> None:
    """Run in the child: it gets SIGTERM when `impasto serve` ends, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
