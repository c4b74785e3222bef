"""Faults of one server as a fleet sees them: those in flight hear UNAVAILABLE, and soon the same server is there again.

Two servers are broken again and again. The second is broken in ways that nothing but its supervisor notices.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import httpx
import pytest

from impasto_client import Client, Generation, Options, Progress
from impasto_client.errors import ConnectError, ServerUnavailable
from impasto_server.ops.process import children
from tests.helpers.waiting import eventually

from .conftest import Impasto, alive, impasto_serve, shm_of

LONG: Options = {"steps": 200, "n": 16, "width": 128, "height": 128}
PATIENCE_S = 120.0


@dataclass
class Broken:
    """`impasto serve` and its parts as they are now, after however many restarts."""

    impasto: Impasto
    picture: bytes

    @property
    def url(self) -> str:
        return self.impasto.url

    @property
    def guardian(self) -> int:
        return next(pid for pid in children(self.impasto.process.pid) if children(pid))

    @property
    def triton(self) -> int:
        (pid,) = children(self.guardian)
        return pid

    def model(self, name: str) -> int:
        return next(pid for pid in children(self.triton) if f"/{name}/" in Path(f"/proc/{pid}/cmdline").read_text())

    def said(self, *wanted: str) -> None:
        """It said all of this, in this order, as part of lines of its own."""
        assert self.impasto.process.stderr is not None
        left = list(wanted)
        for line in self.impasto.process.stderr:
            if left and left[0] in line:
                left.pop(0)
            if not left:
                return
        raise AssertionError(f"it ended and didn't say {left[0]!r}")

    def restarts(self) -> dict[str, int]:
        """As its metric has them, without zeros."""
        address = re.search(r"metrics (\S+)", self.impasto.ready)
        assert address
        with urlopen(address[1], timeout=10) as answer:
            text = answer.read().decode()
        found = re.findall(r'^impasto_restarts{reason="(\w+)"} (\d+)', text, re.MULTILINE)
        return {reason: int(count) for reason, count in found if int(count)}

    def is_as_before(self) -> None:
        """On the same port, with the same picture."""
        with Client(self.url) as client:
            assert client.is_ready()
        assert painted(self.url) == self.picture


def painted(url: str) -> bytes:
    with Client(url) as client:
        return client.generate("a boat", steps=3, seed=7, adapters={"neon": 1.0}).data


@contextmanager
def broken(command: list[str], *options: str) -> Iterator[Broken]:
    with impasto_serve([*command, *options]) as impasto:
        yield Broken(impasto, painted(impasto.url))


@dataclass
class Flight:
    """A stream that is being painted, and unary requests that were sent before it."""

    stream: Future[Generation | Progress]
    unary: list[Future[Generation]]

    def is_lost(self) -> None:
        """All hear at once that they may try again. They would be painted for long, and wait even longer."""
        with pytest.raises(ServerUnavailable, match="again"):
            self.stream.result(PATIENCE_S)
        for one in self.unary:
            with pytest.raises((ServerUnavailable, ConnectError)):
                one.result(PATIENCE_S)

    def is_painted(self) -> None:
        assert isinstance(self.stream.result(PATIENCE_S), Generation)
        for one in self.unary:
            assert one.result(PATIENCE_S).candidates


@contextmanager
def in_flight(url: str) -> Iterator[Flight]:
    """What a server works on; over at the end."""

    def streamed(client: Client, begun: Future[None]) -> Generation | Progress:
        parts = client.stream("a boat", timeout=PATIENCE_S, **LONG)
        next(parts)
        begun.set_result(None)
        *_, last = parts
        return last

    with Client(url, timeout=PATIENCE_S) as client, ThreadPoolExecutor(4) as pool:
        unary = [pool.submit(client.generate, "a boat", **LONG) for _ in range(3)]
        begun: Future[None] = Future()
        flight = Flight(pool.submit(streamed, client, begun), unary)
        begun.result(PATIENCE_S)
        yield flight


def freeze(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_a_dead_model_and_a_port_that_somebody_took_meanwhile(command: list[str]) -> None:
    with broken(command, "--http", "0", "--deaths", "9") as server:
        http = server.impasto.ready.partition("HTTP on ")[2].split()[0]
        with in_flight(server.url) as flight:
            kill(server.model("stylize"))
            flight.is_lost()
        server.said("the Python process of a model", "ready again")
        server.is_as_before()
        assert server.restarts() == {"model_ended": 1}

        with ExitStack() as taken:
            kill(server.triton)
            taken.enter_context(eventually_bound(server.url))
            server.said("tritonserver ended by SIGKILL", "the server did not start", "it is restarted in")
            eventually(lambda: httpx.get(f"{http}/ready").status_code == 503)
            with Client(server.url) as client:
                assert not client.is_ready()
        server.said("ready again")
        eventually(lambda: httpx.get(f"{http}/ready").status_code == 200)
        server.is_as_before()
        assert server.restarts().keys() == {"model_ended", "server_ended", "failed_start"}

        kill(server.triton)  # and while it waits before the next start, it is told to stop
        server.said("it is restarted in")
        server.impasto.process.terminate()
        assert server.impasto.process.wait(60) == 0
    assert not shm_of(server.impasto.process.pid)


def test_hangs_and_a_stop_by_somebody_else(command: list[str]) -> None:
    with broken(command, "--grace", "100") as server:
        for model in ("stylize", None):
            with in_flight(server.url) as flight:
                freeze(server.model(model) if model else server.triton)
                flight.is_lost()
            server.said("hangs", "ready again")
            server.is_as_before()
        assert server.restarts() == {"hang": 2}

        with in_flight(server.url) as flight:
            os.kill(server.triton, signal.SIGTERM)
            flight.is_painted()
        server.said("it was told to stop, but not by us", "ready again")
        server.is_as_before()
        assert server.restarts() == {"hang": 2, "told_to_stop": 1}

        parts = [server.guardian, server.triton, *children(server.triton)]
        kill(server.model("catalogue"))
        server.impasto.process.terminate()
        assert server.impasto.process.wait(60) == 0
    assert not any(alive(pid) for pid in parts)
    assert not shm_of(server.impasto.process.pid)


@contextmanager
def eventually_bound(url: str) -> Iterator[None]:
    """Take the server's port, as soon as it is free."""
    host, _, port = url.partition(":")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def is_bound() -> bool:
            try:
                listener.bind((host, int(port)))
            except OSError:
                return False
            return True

        eventually(is_bound)
        listener.listen()
        yield
