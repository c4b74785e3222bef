"""Nobody who offers a message waits for its reader, and what is offered arrives whole and in order."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from threading import Event, Thread

import pytest

from impasto_server.triton.channel import LENGTHS, Channel

WHOLE = bytes(range(256)) * 4096  # a megabyte: more than a socket holds


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    here, there = (Channel(connection) for connection in socket.socketpair())
    yield here, there
    here.close()
    there.close()


@pytest.fixture
def unread() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel whose other end reads nothing by itself."""
    here, there = socket.socketpair()
    channel = Channel(here)
    with there:
        yield channel, there
    channel.close()


def test_messages_arrive_whole_and_in_order(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    for number in range(20):
        assert here.offer({"number": number}, WHOLE, b"", b"end")
    for number in range(20):
        assert there.receive() == ({"number": number}, WHOLE + b"end")


def test_both_directions_may_be_full_at_once(ends: tuple[Channel, Channel]) -> None:
    for number in range(20):
        for end in ends:
            assert end.offer({"number": number}, WHOLE)
    for end in ends:
        for number in range(20):
            assert end.receive() == ({"number": number}, WHOLE)


def test_what_exceeds_the_room_is_not_taken_until_the_reader_goes_on(unread: tuple[Channel, socket.socket]) -> None:
    channel, reader = unread
    assert channel.offer({}, WHOLE, room=0), "one message is taken, however large"
    assert not channel.offer({}, room=0)
    assert channel.offer({"n": 1}, room=len(WHOLE) + 64), "another has more room"
    other = Channel(reader.dup())
    assert other.receive() == ({}, WHOLE)
    assert other.receive() == ({"n": 1}, b"")
    channel.flush(30)
    assert channel.offer({}, room=0)
    other.close()


def test_flush_waits_until_all_is_written(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    here.offer({}, WHOLE)
    flushed = Event()

    def flush() -> None:
        here.flush(30)
        flushed.set()

    Thread(target=flush, daemon=True).start()
    assert not flushed.wait(0.05)
    assert there.receive() == ({}, WHOLE)
    assert flushed.wait(30)


def test_flush_gives_a_reader_only_so_long(unread: tuple[Channel, socket.socket]) -> None:
    channel, _ = unread
    channel.offer({}, WHOLE)
    channel.flush(0.01)
    assert not channel.offer({}, room=0)


def test_a_channel_that_has_ended_takes_nothing_and_frees_who_waits(unread: tuple[Channel, socket.socket]) -> None:
    channel, _ = unread
    channel.offer({}, WHOLE)
    heard: list[object] = []
    reading = Thread(target=lambda: heard.append(channel.receive()), daemon=True)
    reading.start()
    channel.end()
    reading.join(30)
    assert heard == [None]
    assert not channel.offer({})
    channel.flush(30)


def test_an_end_that_is_gone_is_noticed_by_reader_and_writer(unread: tuple[Channel, socket.socket]) -> None:
    channel, other = unread
    channel.offer({}, WHOLE)
    other.close()
    channel.flush(30)
    assert channel.receive() is None
    assert not channel.offer({})


@pytest.mark.parametrize("said", [b"\x05\x00\x00\x00\x00\x00\x00\x00junk!", LENGTHS.pack(2, 9) + b"{}short", b"\x01"])
def test_what_is_no_message_is_none(said: bytes, unread: tuple[Channel, socket.socket]) -> None:
    channel, other = unread
    other.sendall(said)
    other.shutdown(socket.SHUT_WR)
    assert channel.receive() is None
