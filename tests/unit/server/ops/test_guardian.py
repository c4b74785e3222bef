"""A guardian ends what it guards when nobody wants it any more, and cleans up behind it, whatever it is."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from impasto_server.ops.guardian import CUT, SERVER, SIGNALLED, Charge, drain, flush, unsent
from impasto_server.ops.process import Guarded, children

SLEEPS = "print('up', flush=True); import time; time.sleep(600)"
# As a model's process: it is asked by its server's name.
DRAINS = """
import os, signal, time
from threading import Thread
from impasto_server.triton import drain
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as one that is still busy
drains = drain.Drains(lambda grace_s: print('grace', grace_s, flush=True) or {cut}, 'model')
print('up', flush=True)
time.sleep(600)
"""


@pytest.fixture
def region() -> str:
    """A prefix of shared memory, of which there is some."""
    prefix = f"impasto_test_{secrets.token_hex(4)}_"
    Path("/dev/shm", f"{prefix}a").touch()
    return prefix


def guarded(code: str, region: str, workspace: Path, grace_s: float = 0.0) -> Guarded:
    workspace.mkdir()
    charge = Charge([sys.executable, "-c", code], 1, ["model"], grace_s, region, str(workspace))
    return Guarded(charge, {**os.environ, SERVER: region})


def read_until(one: Guarded, wanted: str) -> str:
    assert one.process.stdout is not None
    return next(line for line in one.process.stdout if line.startswith(wanted))


def assert_nothing_is_left(region: str, workspace: Path) -> None:
    assert not list(Path("/dev/shm").glob(f"{region}*"))
    assert not workspace.exists()


@pytest.mark.parametrize(
    ("code", "status"), [("exit(9)", 9), ("import os; os.kill(os.getpid(), 11)", SIGNALLED + signal.SIGSEGV)]
)
def test_it_ends_with_what_it_guards_and_says_how(code: str, status: int, region: str, tmp_path: Path) -> None:
    one = guarded(code, region, tmp_path / "workspace")
    with one.process:
        assert one.process.wait(60) == status
        assert one.let_go(0) == status
    assert_nothing_is_left(region, tmp_path / "workspace")


@pytest.mark.parametrize(("cut", "status"), [(0, 0), (2, CUT)])
def test_let_go_it_asks_for_an_end_and_says_whether_it_was_in_order(
    cut: int, status: int, region: str, tmp_path: Path
) -> None:
    one = guarded(DRAINS.format(cut=cut), region, tmp_path / "workspace")
    with one.process:
        read_until(one, "up")
        assert one.let_go(1.5) == status
        assert read_until(one, "grace") == "grace 1.5\n"
        assert one.let_go(1.5) == status
    assert_nothing_is_left(region, tmp_path / "workspace")


def test_at_once_means_without_asking_anybody(region: str, tmp_path: Path) -> None:
    one = guarded(DRAINS.format(cut=1), region, tmp_path / "workspace")
    with one.process:
        read_until(one, "up")
        assert one.end() == 0
        assert one.process.stdout is not None
        assert one.process.stdout.read() == ""  # no grace was talked of
        assert one.end() == 0
    assert_nothing_is_left(region, tmp_path / "workspace")


def test_a_guardian_that_was_stopped_itself_is_killed_with_its_server(region: str, tmp_path: Path) -> None:
    one = guarded(SLEEPS, region, tmp_path / "workspace")
    with one.process:
        read_until(one, "up")
        one.process.send_signal(signal.SIGSTOP)
        assert one.end() == -signal.SIGKILL
        assert one.process.stdout is not None
        assert one.process.stdout.read() == ""
    assert_nothing_is_left(region, tmp_path / "workspace")


def test_a_leash_that_breaks_without_a_word_means_the_usual_grace(region: str, tmp_path: Path) -> None:
    one = guarded(DRAINS.format(cut=0), region, tmp_path / "workspace", grace_s=2.5)
    with one.process:
        read_until(one, "up")
        assert one._leash is not None
        os.close(one._leash)
        one._leash = None
        assert read_until(one, "grace") == "grace 2.5\n"
        assert one.process.wait(60) == 0
    assert_nothing_is_left(region, tmp_path / "workspace")


def test_signals_do_not_end_it(region: str, tmp_path: Path) -> None:
    one = guarded(SLEEPS, region, tmp_path / "workspace")
    with one.process:
        read_until(one, "up")
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            one.process.send_signal(each)
        (server,) = children(one.process.pid)
        assert one.let_go(0) == 0
    assert server not in children(os.getpid())
    assert_nothing_is_left(region, tmp_path / "workspace")


def test_killed_it_takes_what_it_guards_with_it(region: str, tmp_path: Path) -> None:
    one = guarded(SLEEPS, region, tmp_path / "workspace")
    with one.process:
        read_until(one, "up")
        one.process.kill()
        assert one.let_go(0) == -signal.SIGKILL
        assert one.process.stdout is not None
        assert one.process.stdout.read() == ""  # returns when nobody holds its other end
    assert_nothing_is_left(region, tmp_path / "workspace")


def test_where_nobody_listens_nothing_is_cut_off() -> None:
    assert drain("impasto_nobody_", ["stylize"], 5) == 0


def test_what_a_client_has_not_received_is_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, listener.accept()[0] as server:
            server.setblocking(False)
            flush(port)
            with suppress(BlockingIOError):
                while True:
                    server.send(b"x" * 65536)
            assert unsent(port) > 0
            client.settimeout(1)
            while unsent(port):
                client.recv(1 << 20)
