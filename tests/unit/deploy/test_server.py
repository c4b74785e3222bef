"""A replica's server is a process that ends when the replica does, however that happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from impasto_deploy.ray import server as module
from impasto_deploy.ray.server import DidNotStart, Server
from tests.helpers.waiting import PATIENCE_S, eventually
from tests.unit.deploy import standin


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the stand-in's processes print."""
    monkeypatch.setattr(module, "_impasto", lambda: str(standin.impasto(tmp_path)))
    return []


@contextmanager
def started(lines: list[str], *options: str, cores: tuple[int, ...] = ()) -> Iterator[Server]:
    server = Server(options, cores, lines.append)
    try:
        yield server
    finally:
        server.stop(0)
        assert server.process.stdout is not None
        server.process.stdout.close()


def test_it_says_where_it_is_and_ends_in_order(lines: list[str]) -> None:
    with started(lines, "--bundle", "toy") as server:
        assert server.ready() == "127.0.0.1:7"
        server.stop(PATIENCE_S)
        assert server.process.returncode == 0
        assert lines[0].startswith("serve --bundle toy --port 0 ")
        assert lines[-1] == "stopped"


def test_it_may_be_kept_on_some_cores(lines: list[str]) -> None:
    core = max(os.sched_getaffinity(0))
    with started(lines, cores=(core,)) as server:
        server.ready()
        assert os.sched_getaffinity(server.process.pid) == {core}


def test_one_that_can_not_start_says_why(lines: list[str]) -> None:
    with started(lines, "--broken") as server, pytest.raises(DidNotStart, match="bundle: there is none"):
        server.ready()


def test_one_that_was_killed_says_how(lines: list[str]) -> None:
    with started(lines) as server:
        server.ready()
        server.process.kill()
        assert server.ended().startswith("impasto serve ended with status -9:\n")


def test_one_that_does_not_end_is_killed(lines: list[str]) -> None:
    with started(lines, "--stubborn") as server:
        server.ready()
        server.stop(0.05)
        assert server.process.returncode == -signal.SIGKILL


REPLICA = """
import sys
from impasto_deploy.ray import server
server._impasto = lambda: sys.argv[1]
one = server.Server([], (), lambda line: None)
one.ready()
print(one.process.pid, flush=True)
one.process.wait()
"""


def test_it_ends_when_its_replica_is_killed(tmp_path: Path) -> None:
    """The kernel closes the leash; nobody is left who could."""
    command = [sys.executable, "-c", REPLICA, str(standin.impasto(tmp_path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as replica:
        assert replica.stdout is not None
        said = replica.stdout.readline()
        replica.kill()
        replica.wait()
        pid = int(said)
        eventually(lambda: not is_alive(pid))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_command_stands_beside_the_interpreter() -> None:
    assert module._impasto() == str(Path(sys.executable).parent / "impasto")
