"""A listener attends to its own user alone, to several at once, and frees its address."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from impasto_server.triton.listener import Listener

ADDRESS = f"\0impasto_test_{os.getpid()}_listener"


def call() -> socket.socket:
    line = socket.socket(socket.AF_UNIX)
    line.connect(ADDRESS)
    line.settimeout(60)
    return line


@pytest.fixture
def attended() -> SimpleQueue[socket.socket]:
    return SimpleQueue()


@pytest.fixture
def listener(attended: SimpleQueue[socket.socket]) -> Iterator[Listener]:
    listener = Listener(ADDRESS, attended.put, "test")
    yield listener
    listener.close()


def test_everybody_of_this_user_is_attended_to(listener: Listener, attended: SimpleQueue[socket.socket]) -> None:
    for number in range(3):
        with call() as line, attended.get(timeout=60) as other:
            line.sendall(b"%d" % number)
            assert other.recv(1) == b"%d" % number


def test_another_user_is_sent_away_unheard(
    listener: Listener, attended: SimpleQueue[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    another = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: another)
    with call() as line:
        assert line.recv(1) == b""
    assert attended.empty()


def test_a_closed_one_frees_its_address_and_leaves_what_it_began(
    listener: Listener, attended: SimpleQueue[socket.socket]
) -> None:
    with call() as line, attended.get(timeout=60) as other:
        listener.close()
        again = Listener(ADDRESS, attended.put, "again")
        again.close()
        line.sendall(b"still here")
        assert other.recv(10) == b"still here"
