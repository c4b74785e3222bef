"""The gateway as a child of `impasto serve`: started, started again, and ended in order. A script plays its part."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from impasto_server.errors import SetupError
from impasto_server.ops import gateway as module
from impasto_server.ops.gateway import Door, Gateway
from impasto_server.ops.supervise import GaveUp, Restarts

PATIENCE_S = 60.0
LOOPBACK = "127.0.0.1"
# Listens where it is told to, and ends in order, but not before a file says so.
LISTENS = """
import os, signal, socket, sys, time
said = dict(word[2:].split("=", 1) for word in sys.argv[1:])
line = socket.create_server((said["host"], int(said["port"])))
def end(*_):
    print("ending", flush=True)
    while "wait" in said and not os.path.exists(said["wait"]):
        time.sleep(0.01)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
print("listening", os.getpid(), flush=True)
while True:
    signal.pause()
"""
PARENT = """
import signal, sys
from impasto_server.ops import gateway
from impasto_server.ops.supervise import Restarts
gateway.COMMAND = (sys.executable, "-c", sys.argv[1])
door = gateway.Door("127.0.0.1", int(sys.argv[2]), "", grace_s=1)
gateway.Gateway(door, Restarts(0), lambda line: print(line, flush=True), print).start()
signal.pause()
"""
# Answers /ready with 200 once a file is there, and with 503 before.
ANSWERS = """
import http.server, os, sys
said = dict(word[2:].split("=", 1) for word in sys.argv[1:])
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" and os.path.exists(said["when"]) else 503)
        self.end_headers()
http.server.HTTPServer((said["host"], int(said["port"])), Answer).serve_forever()
"""
FAILS = "import sys; sys.exit('no such key file')"


class Lines:
    """What was logged and said."""

    def __init__(self) -> None:
        self.logged: list[str] = []
        self.said: list[str] = []


def until(done: Callable[[], object]) -> None:
    deadline = monotonic() + PATIENCE_S
    while not done():
        assert monotonic() < deadline
        sleep(0.01)


def looked(gateway: Gateway, done: Callable[[], object]) -> None:
    """Look after it until something is so."""

    def look() -> object:
        gateway.look()
        return done()

    until(look)


def door(*options: str, grace_s: float = 30.0) -> Door:
    with socket.create_server((LOOPBACK, 0)) as line:
        port = line.getsockname()[1]
    return Door(LOOPBACK, port, f"{LOOPBACK}:9", options, grace_s)


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, lines: Lines) -> Iterator[Callable[..., Gateway]]:
    """Starts the script as a gateway."""
    begun: list[Gateway] = []

    def started(script: str = LISTENS, restarts: int = 3, *options: str, grace_s: float = 30.0) -> Gateway:
        monkeypatch.setattr(module, "COMMAND", (sys.executable, "-c", script))
        one = Gateway(door(*options, grace_s=grace_s), Restarts(restarts), lines.logged.append, lines.said.append)
        begun.append(one)
        one.start()
        return one

    yield started
    for one in begun:
        one.stop()


def pid_of(lines: Lines) -> int:
    """The newest one's."""
    return int([line for line in lines.logged if line.startswith("listening")][-1].split()[1])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_is_there_when_start_returns_and_gone_after_stop(start: Callable[..., Gateway], lines: Lines) -> None:
    gateway = start()
    socket.create_connection((LOOPBACK, gateway.door.port), 1).close()
    until(lambda: lines.logged)
    pid = pid_of(lines)
    gateway.stop()
    gateway.stop()
    assert not alive(pid)
    assert gateway.stopped_in_order
    assert lines.logged[-1] == "ending"


def test_it_is_ready_when_it_says_so(start: Callable[..., Gateway], tmp_path: Path) -> None:
    gateway = start(ANSWERS, 0, f"--when={tmp_path}/open")
    assert not gateway.is_ready(within_s=0)
    (tmp_path / "open").touch()
    assert gateway.is_ready()


def test_one_that_died_is_not_ready(start: Callable[..., Gateway], lines: Lines) -> None:
    gateway = start()
    until(lambda: lines.logged)
    os.kill(pid_of(lines), signal.SIGKILL)
    assert not gateway.is_ready(within_s=PATIENCE_S)


def test_what_it_is_told(tmp_path: Path) -> None:
    found = Door.of(
        LOOPBACK,
        0,
        "127.0.0.1:8001",
        keys=tmp_path / "keys",
        registry=tmp_path,
        bundles={None: tmp_path / "one", "photos": tmp_path / "two"},
        grace_s=7,
        metrics_url="http://127.0.0.1:8002/metrics",
        traces="http://collector:4318",
    )
    assert found.url == f"http://127.0.0.1:{found.port}"
    assert found.command()[len(module.COMMAND) :] == [
        "--host=127.0.0.1",
        f"--port={found.port}",
        "--url=127.0.0.1:8001",
        "--grace=7",
        f"--registry={tmp_path}",
        f"--bundle={tmp_path}/one",
        f"--bundle=photos={tmp_path}/two",
        f"--keys={tmp_path}/keys",
        "--metrics-url=http://127.0.0.1:8002/metrics",
        "--traces=http://collector:4318",
    ]


def door_of(registry: Path, port: int) -> Door:
    """With nothing that may be left out."""
    found: dict[str, Any] = {"keys": None, "bundles": {}, "metrics_url": "", "traces": None, "requests": False}
    return Door.of(LOOPBACK, port, "", registry=registry, grace_s=1, **found)


def test_a_door_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as line:
        port = line.getsockname()[1]
        for number, why in ((port, "Address already in use"), (70_000, "there is no such port")):
            with pytest.raises(SetupError, match=rf"http: 127.0.0.1:{number} can't be bound \({why}\)"):
                door_of(tmp_path, number)


def test_one_that_does_not_start_says_why(start: Callable[..., Gateway]) -> None:
    with pytest.raises(SetupError, match="http: the gateway did not start: no such key file"):
        start(FAILS)


def test_one_that_died_is_started_again(start: Callable[..., Gateway], lines: Lines) -> None:
    gateway = start()
    until(lambda: lines.logged)
    first = pid_of(lines)
    os.kill(first, signal.SIGKILL)
    looked(gateway, lambda: lines.said)
    assert "the gateway ended with status -9" in lines.said[0]
    assert "it is restarted in 0 s (death 1 of 3 allowed within 10 minutes)" in lines.said[0]
    looked(gateway, lambda: pid_of(lines) != first)
    assert len(lines.said) == 1


def test_one_that_dies_too_often(start: Callable[..., Gateway], lines: Lines) -> None:
    gateway = start(LISTENS, 0)
    until(lambda: lines.logged)
    os.kill(pid_of(lines), signal.SIGKILL)
    with pytest.raises(GaveUp, match=r"(?s)the gateway ended with status -9.*restarting is turned off"):
        looked(gateway, lambda: False)


def test_it_may_finish_what_runs(start: Callable[..., Gateway], lines: Lines, tmp_path: Path) -> None:
    done = tmp_path / "done"
    gateway = start(LISTENS, 0, f"--wait={done}")
    until(lambda: lines.logged)
    os.kill(pid_of(lines), signal.SIGTERM)
    until(lambda: lines.logged[-1] == "ending")
    assert alive(pid_of(lines))
    done.touch()
    gateway.stop()
    assert gateway.stopped_in_order


def test_one_that_does_not_end_is_killed(
    start: Callable[..., Gateway], lines: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLACK_S", 0.2)
    gateway = start(LISTENS, 0, f"--wait={tmp_path}/never", grace_s=0.2)
    until(lambda: lines.logged)
    gateway.stop()
    assert not alive(pid_of(lines))
    assert not gateway.stopped_in_order


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Also when that is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, LISTENS, str(door().port)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline().split()[1])
        assert alive(pid)
        parent.kill()
    until(lambda: not alive(pid))
