"""One pipeline for several processes: who has it listens on a socket, the others submit to it as if it were theirs.

Triton runs every Python model in a process of its own, and a call between its models can't be cancelled. So the model
`stylize` holds the weights and opens a Relay, and `stylize_stream` submits through a Remote: same request, same Caller.

A message is two lengths (header, payload), a JSON header and raw bytes. The socket is abstract (no file to leave
behind) and takes connections of the same user only.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, count
from threading import Event, Lock, Thread
from typing import Any, Protocol

from impasto_server.errors import ImpastoError, Unavailable, as_impasto_error
from impasto_server.pipeline import Caller, Progress, Result
from impasto_server.request import Request
from impasto_server.watch import Watch

log = logging.getLogger(__name__)

LENGTHS = struct.Struct("<II")
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid

Outcome = Result | ImpastoError


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


def address_for(server_pid: int) -> str:
    """Where the models of one tritonserver meet; they know it as their parent process."""
    return f"\0impasto-{os.getuid()}-{server_pid}"


@dataclass
class Channel:
    """One end of a connection; `send` from any thread, `receive` from one."""

    connection: socket.socket
    sending: Lock = field(default_factory=Lock)

    def send(self, header: Mapping[str, object], *files: bytes) -> None:
        """Raises OSError when the other end is gone."""
        text, payload = json.dumps(header).encode(), b"".join(files)
        with self.sending:
            self.connection.sendall(LENGTHS.pack(len(text), len(payload)) + text + payload)

    def receive(self) -> tuple[dict[str, Any], bytes] | None:
        """The next message; None when the other end is gone, or speaks something else."""
        try:
            lengths = self._exactly(LENGTHS.size)
            header, payload = (self._exactly(length) for length in LENGTHS.unpack(lengths))
            return json.loads(header), payload
        except (EOFError, OSError, ValueError):
            return None

    def close(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            part = self.connection.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return bytes(data)


class Relay:
    """Lets other processes submit to `painter`."""

    def __init__(self, painter: Painter, address: str) -> None:
        self._painter = painter
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen()
        Thread(target=self._accept, name="relay", daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those there are last until their other end leaves."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
                if CREDENTIALS.unpack(peer)[1] == os.getuid():
                    Thread(target=self._attend, args=[Channel(connection)], name="relay-peer", daemon=True).start()
                else:
                    connection.close()

    def _attend(self, channel: Channel) -> None:
        """Take what one peer asks for until it leaves; then nobody waits for it any more."""
        gone: dict[int, Event] = {}
        while (message := channel.receive()) is not None:
            match message:
                case {"refused": True}, _:
                    self._painter.refused()
                case {"number": number, "request": _} as header, payload:
                    gone[number] = Event()
                    self._start(channel, number, _request(header, payload), gone[number])
                case {"number": number}, _ if number in gone:
                    gone[number].set()
            gone = {number: event for number, event in gone.items() if not event.is_set()}
        for event in gone.values():
            event.set()
        channel.close()

    def _start(self, channel: Channel, number: int, request: Request, gone: Event) -> None:
        def done(outcome: Outcome) -> None:
            gone.set()
            if isinstance(outcome, ImpastoError):
                _send(channel, {"number": number, "code": outcome.code, "message": str(outcome)})
            else:
                facts = {"seeds": outcome.seeds, "scores": outcome.scores, "meta": outcome.meta}
                _send(channel, {"number": number, "result": facts, **_lengths(outcome.images)}, *outcome.images)

        def progress(step: Progress) -> None:
            facts = {"step": step.step, "steps": step.steps, "eta_s": step.eta_s}
            _send(channel, {"number": number, "progress": facts, **_lengths(step.previews)}, *step.previews)

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
        """As Pipeline.submit; what that refuses is told to `caller.done`. Raises Unavailable when nobody listens."""
        number = next(self._numbers)
        with self._lock:
            channel = self._connected()
            try:
                _send_request(channel, number, request)
            except OSError:
                raise Unavailable("the process that holds the backbone is gone; try again later") from None
            # Watched only now: that a caller is gone says nothing to those who haven't had its request yet.
            forget = self._watch.over(caller.gone, lambda: _send(channel, {"number": number}))
            self._callers[number] = replace(caller, done=_after(forget, caller.done))

    def refused(self) -> None:
        with self._lock, suppress(Unavailable):  # nobody is there who counts
            _send(self._connected(), {"refused": True})

    def close(self) -> None:
        self._watch.close()
        with self._lock:
            if self._channel is not None:
                self._channel.close()

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
        while (message := channel.receive()) is not None:
            self._hear(*message)
        with self._lock:
            self._channel = None
            left, self._callers = self._callers, {}
        channel.close()
        for caller in left.values():
            _tell(caller.done, Unavailable("the process that holds the backbone ended; try again later"))

    def _hear(self, header: dict[str, Any], payload: bytes) -> None:
        with self._lock:
            caller = self._callers.get(header["number"])
            if "progress" not in header:
                self._callers.pop(header["number"], None)
        if caller is None:
            return
        if "progress" in header:
            if caller.progress is not None:
                _tell(caller.progress, Progress(**header["progress"], previews=_files(header, payload)))
        elif "code" in header:
            _tell(caller.done, ImpastoError.of(header["code"], header["message"]))
        else:
            facts = header["result"]
            scores = None if facts["scores"] is None else tuple(facts["scores"])
            _tell(caller.done, Result(_files(header, payload), tuple(facts["seeds"]), facts["meta"], scores))


def _send_request(channel: Channel, number: int, request: Request) -> None:
    """Raises OSError."""
    fields = asdict(request)
    files = {name: value for name, value in fields.items() if isinstance(value, bytes)}
    rest = {name: value for name, value in fields.items() if name not in files}
    header = {"number": number, "request": rest, "names": list(files), **_lengths(files.values())}
    channel.send(header, *files.values())


def _lengths(files: Iterable[bytes]) -> dict[str, list[int]]:
    """What a header says of files that travel as they are, one behind the other."""
    return {"lengths": [len(data) for data in files]}


def _files(header: Mapping[str, Any], payload: bytes) -> tuple[bytes, ...]:
    ends = list(accumulate(header["lengths"]))
    return tuple(payload[end - length : end] for end, length in zip(ends, header["lengths"], strict=True))


def _request(header: Mapping[str, Any], payload: bytes) -> Request:
    fields = {**header["request"], **dict(zip(header["names"], _files(header, payload), strict=True))}
    fields["adapters"] = tuple((name, weight) for name, weight in fields["adapters"])
    fields["style"] = tuple(fields["style"])
    return Request(**fields)


def _after(first: Callable[[], None], then: Callable[[Outcome], None]) -> Callable[[Outcome], None]:
    def both(outcome: Outcome) -> None:
        first()
        then(outcome)

    return both


def _send(channel: Channel, header: Mapping[str, object], *files: bytes) -> None:
    """As Channel.send; that the other end is gone is noticed where its messages are read."""
    with suppress(OSError):
        channel.send(header, *files)


def _tell(what: Callable[[Any], None], news: object) -> None:
    try:
        what(news)
    except Exception as error:  # one caller's trouble must not end the thread that serves them all
        log.error("a caller could not take its answer", exc_info=error)
