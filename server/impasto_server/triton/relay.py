"""The relay: one front for several processes. The process with the front listens on a socket; others submit through it.

Triton runs every Python model in its own process. So the model `stylize` holds the weights and opens a Relay, and
`stylize_stream` submits through a Remote: same tensors, same Asker. Triton's calls between models (BLS) are no
alternative. With the weights in a decoupled model that `stylize` forwards to, a toy request of four steps took 1.6 ms
more unary (5.0 for 3.5, medians of 420) and 1.3 ms less streamed (6.0 for 7.3). But a call between models can't be
cancelled on 2.51: of eight unary requests whose callers left, all were painted to the end.

Messages go through channels (channel.py), so neither end waits for the other to read:

progress   is dropped while more than PROGRESS_ROOM bytes of answers wait for their reader.
an answer  is kept. A reader with more than ROOM bytes waiting is taken for broken: its connection ends, and its
           requests are cancelled.
a request  is refused with UNAVAILABLE when more than ROOM bytes of requests wait to be read; a cancellation is always
           sent.

The socket is abstract, so it leaves no file, and takes only connections of the same user.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from threading import Event, Lock, Thread
from typing import Any, Protocol

from impasto_server.errors import ImpastoError, Unavailable, as_impasto_error
from impasto_server.front import Asker
from impasto_server.outputs import Tensors
from impasto_server.triton import letter
from impasto_server.triton.channel import Channel
from impasto_server.triton.listener import Listener
from impasto_server.triton.watch import Watch

log = logging.getLogger(__name__)

PROGRESS_ROOM, ROOM = 4 << 20, 256 << 20  # bytes
FLUSH_S = 5.0  # how long peers may take to read the last answers


Outcome = Tensors | ImpastoError


class Painter(Protocol):
    """Something that takes requests: a Front, or a Remote that reaches one in another process."""

    def submit(self, tensors: Tensors, timeout_us: int, asker: Asker) -> None:
        """Start on the request in `tensors` and return. Raises ImpastoError."""
        ...


def address_for(server: str) -> str:
    """The socket address of the relay of the tritonserver with this name."""
    return f"\0{server}relay"


class Relay:
    """Lets other processes submit to `painter`."""

    def __init__(self, painter: Painter, address: str) -> None:
        self._painter = painter
        self._channels: set[Channel] = set()
        self._listener = Listener(address, self._attend, "relay")

    def close(self) -> None:
        """Take no more connections; flush the answers of open ones and end them."""
        self._listener.close()
        for channel in list(self._channels):
            channel.flush(FLUSH_S)
            channel.end()

    def _attend(self, connection: socket.socket) -> None:
        """Serve one peer until it leaves; then its requests are cancelled."""
        channel = Channel(connection)
        gone: dict[int, Event] = {}
        self._channels.add(channel)
        try:
            while (message := channel.receive()) is not None:
                header, payload = message
                number = header["number"]
                if "tensors" in header:
                    gone[number] = Event()
                    self._start(channel, number, header, payload, gone[number])
                elif number in gone:
                    gone[number].set()
                gone = {number: event for number, event in gone.items() if not event.is_set()}
        finally:
            for event in gone.values():
                event.set()
            self._channels.discard(channel)
            channel.close()

    def _start(self, channel: Channel, number: int, asked: dict[str, Any], payload: bytes, gone: Event) -> None:
        def done(outcome: Outcome) -> None:
            gone.set()
            told = letter.of_error(outcome) if isinstance(outcome, ImpastoError) else letter.of_tensors(outcome)
            header, files = told
            if not channel.offer(
                {"number": number, "last": True, **header}, *files, room=ROOM
            ):  # the reader is gone or broken
                channel.end()

        def progress(step: Tensors) -> None:
            header, files = letter.of_tensors(step)
            channel.offer({"number": number, **header}, *files, room=PROGRESS_ROOM)

        try:
            asker = Asker(done, gone.is_set, progress)
            self._painter.submit(letter.to_tensors(asked, payload), asked["timeout_us"], asker)
        except Exception as error:
            done(as_impasto_error(error))


class Remote:
    """The painter behind the relay at `address`; it connects on first use, and again after a break."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._askers: dict[int, Asker] = {}
        self._numbers = count()
        self._lock = Lock()
        self._channel: Channel | None = None
        self._watch = Watch()

    def submit(self, tensors: Tensors, timeout_us: int, asker: Asker) -> None:
        """As Front.submit, for a stream; errors from there go to `asker.done`.

        Raises Unavailable when nobody listens, or too many earlier requests wait to be read.
        """
        number = next(self._numbers)
        header, files = letter.of_tensors(tensors)

        def cancel() -> None:
            channel.offer({"number": number})

        with self._lock:
            channel = self._connected()
            if not channel.offer({"number": number, "timeout_us": timeout_us, **header}, *files, room=ROOM):
                raise Unavailable("the process that holds the backbone is gone or overloaded; try again later")
            # Watched only now, so that a cancellation is never sent before its request.
            forget = self._watch.over(asker.gone, cancel)
            self._askers[number] = replace(asker, done=_after(forget, asker.done))

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
                left, self._askers = self._askers, {}
            channel.close()
            for asker in left.values():
                _tell(asker.done, Unavailable("the process that holds the backbone ended; try again later"))

    def _hear(self, header: dict[str, Any], payload: bytes) -> None:
        number, last = header["number"], "last" in header
        news = letter.to_error(header) if "code" in header else letter.to_tensors(header, payload)
        with self._lock:
            asker = self._askers.pop(number, None) if last else self._askers.get(number)
        if asker is not None:
            _tell(asker.done if last else asker.progress, news)


def _after(first: Callable[[], None], then: Callable[[Outcome], None]) -> Callable[[Outcome], None]:
    def both(outcome: Outcome) -> None:
        first()
        then(outcome)

    return both


def _tell(what: Callable[[Any], None] | None, news: object) -> None:
    try:
        if what is not None:
            what(news)
    except Exception as error:  # one asker's failure must not end the thread that serves all
        log.error("a caller's callback failed", exc_info=error)
