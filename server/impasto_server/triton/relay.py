"""One pipeline for several processes: who has it listens on a socket, the others submit to it as if it were theirs.

Triton runs every Python model in a process of its own, and a call between its models can't be cancelled. So the model
`stylize` holds the weights and opens a Relay, and `stylize_stream` submits through a Remote: same request, same Caller.

Messages go through channels (see channel.py), so neither end waits for the other to read:

progress   is dropped while more than PROGRESS_ROOM of answers wait for their reader.
an answer  is kept; a reader that leaves more than ROOM of them lying is taken for broken: its connection ends, and its
           requests are cancelled.
a request  is refused with UNAVAILABLE when more than ROOM of them wait to be read; a cancellation always has room.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from threading import Event, Lock, Thread
from typing import Any, Protocol

from impasto_server.errors import Unavailable, as_impasto_error
from impasto_server.pipeline import Caller, Progress
from impasto_server.request import Request
from impasto_server.triton import letter
from impasto_server.triton.channel import Channel
from impasto_server.triton.letter import Outcome
from impasto_server.triton.listener import Listener
from impasto_server.triton.watch import Watch

log = logging.getLogger(__name__)

PROGRESS_ROOM, ROOM = 4 << 20, 256 << 20  # bytes
FLUSH_S = 5.0  # how long the other ends may take to read the last answers


class Painter(Protocol):
    """What takes requests: a Pipeline, or a Remote that has one in another process."""

    def submit(self, request: Request, caller: Caller) -> None:
        """Start on `request` and return. Raises ImpastoError."""
        ...

    def refused(self) -> None:
        """Count a request that could not be read, so that it was never submitted."""
        ...

    def close(self) -> None:
        """Take nothing new, and return when what was taken is finished."""
        ...


def address_for(server: str) -> str:
    """Where the models of one tritonserver meet, which know its name."""
    return f"\0{server}relay"


class Relay:
    """Lets other processes submit to `painter`."""

    def __init__(self, painter: Painter, address: str) -> None:
        self._painter = painter
        self._channels: set[Channel] = set()
        self._listener = Listener(address, self._attend, "relay")

    def close(self) -> None:
        """Take no more connections, and end those there are, with the answers that they wait for."""
        self._listener.close()
        for channel in list(self._channels):
            channel.flush(FLUSH_S)
            channel.end()

    def _attend(self, connection: socket.socket) -> None:
        """Take what one peer asks for until it leaves; then nobody waits for it any more."""
        channel = Channel(connection)
        gone: dict[int, Event] = {}
        self._channels.add(channel)
        try:
            while (message := channel.receive()) is not None:
                match message:
                    case {"refused": True}, _:
                        self._painter.refused()
                    case {"number": number, "request": _} as header, payload:
                        gone[number] = Event()
                        self._start(channel, number, letter.to_request(header, payload), gone[number])
                    case {"number": number}, _ if number in gone:
                        gone[number].set()
                gone = {number: event for number, event in gone.items() if not event.is_set()}
        finally:
            for event in gone.values():
                event.set()
            self._channels.discard(channel)
            channel.close()

    def _start(self, channel: Channel, number: int, request: Request, gone: Event) -> None:
        def done(outcome: Outcome) -> None:
            gone.set()
            header, files = letter.of_outcome(number, outcome)
            if not channel.offer(header, *files, room=ROOM):  # gone, or as good as
                channel.end()

        def progress(step: Progress) -> None:
            header, files = letter.of_step(number, step)
            channel.offer(header, *files, room=PROGRESS_ROOM)

        try:
            self._painter.submit(request, Caller(done, gone.is_set, progress))
        except Exception as error:
            done(as_impasto_error(error))


class Remote:
    """The painter behind the relay at `address`; connects when it is first needed, and again after a break."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._callers: dict[int, Caller] = {}
        self._numbers = count()
        self._lock = Lock()
        self._channel: Channel | None = None
        self._watch = Watch()

    def submit(self, request: Request, caller: Caller) -> None:
        """As Pipeline.submit; what that refuses is told to `caller.done`.

        Raises Unavailable when nobody listens, or is far behind with what was sent before.
        """
        number = next(self._numbers)
        header, files = letter.of_request(number, request)

        def cancel() -> None:
            channel.offer({"number": number})

        with self._lock:
            channel = self._connected()
            if not channel.offer(header, *files, room=ROOM):
                raise Unavailable("the process that holds the backbone is gone, or far behind; try again later")
            # Watched only now: that a caller is gone says nothing to those who haven't had its request yet.
            forget = self._watch.over(caller.gone, cancel)
            self._callers[number] = replace(caller, done=_after(forget, caller.done))

    def refused(self) -> None:
        with self._lock, suppress(Unavailable):  # nobody is there who counts
            self._connected().offer({"refused": True}, room=ROOM)

    def close(self) -> None:
        self._watch.close()
        with self._lock:
            if self._channel is not None:
                self._channel.end()

    def _connected(self) -> Channel:
        if self._channel is None:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(self._address)
            except OSError:
                connection.close()
                raise Unavailable("the process that holds the backbone does not answer; try again later") from None
            self._channel = Channel(connection)
            Thread(target=self._listen, args=[self._channel], name="relay-answers", daemon=True).start()
        return self._channel

    def _listen(self, channel: Channel) -> None:
        try:
            while (message := channel.receive()) is not None:
                self._hear(*message)
        finally:
            with self._lock:
                self._channel = None
                left, self._callers = self._callers, {}
            channel.close()
            for caller in left.values():
                _tell(caller.done, Unavailable("the process that holds the backbone ended; try again later"))

    def _hear(self, header: dict[str, Any], payload: bytes) -> None:
        number, on_the_way = header["number"], "progress" in header
        news = letter.to_step(header, payload) if on_the_way else letter.to_outcome(header, payload)
        with self._lock:
            caller = self._callers.get(number) if on_the_way else self._callers.pop(number, None)
        if caller is not None:
            _tell(caller.progress if on_the_way else caller.done, news)


def _after(first: Callable[[], None], then: Callable[[Outcome], None]) -> Callable[[Outcome], None]:
    def both(outcome: Outcome) -> None:
        first()
        then(outcome)

    return both


def _tell(what: Callable[[Any], None] | None, news: object) -> None:
    try:
        if what is not None:
            what(news)
    except Exception as error:  # one caller's trouble must not end the thread that serves them all
        log.error("a caller could not take its answer", exc_info=error)
