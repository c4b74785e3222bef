"""The HTTP side: `impasto gateway` as a process of its own, and callers that keep their connection."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from struct import unpack_from
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

READY_S = 60.0
FRESH_S = 30.0  # a connection that was idle for longer is opened anew: the gateway closes it after 75 s
IMPASTO = str(Path(sys.executable).parent / "impasto")
TIED = ("setpriv", "--pdeathsig", "TERM")  # a command after it is told to stop when the thread that started it ends
GENERATIONS = "/v1/images/generations"


@dataclass(frozen=True)
class Door:
    """A gateway that is ready, and its process."""

    host: str
    port: int
    pid: int


@contextmanager
def gateway(url: str, *options: str) -> Iterator[Door]:
    """A gateway before the server whose gRPC is at `url`. Raises RuntimeError if it doesn't become ready."""
    command = [*TIED, IMPASTO, "gateway", "--url", url, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            place = next((urlsplit(line.split()[1]) for line in process.stderr if line.startswith("gateway")), None)
            if place is None:
                raise RuntimeError("the gateway did not start")
            door = Door(place.hostname or "", place.port or 0, process.pid)
            _await(door)
            yield door
        finally:
            process.terminate()
            process.wait()


class Caller:
    """One connection, used again and again, as a product's backend does."""

    def __init__(self, door: Door, key: str | None = None) -> None:
        self._connection = HTTPConnection(door.host, door.port)
        self._used = monotonic()
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})

    def ask(self, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        if monotonic() - self._used > FRESH_S:
            self._connection.close()
        self._connection.request("POST", GENERATIONS, body, self._headers)
        answer = self._connection.getresponse()
        found = answer.status, answer.read()
        self._used = monotonic()
        return found

    def paint(self, body: bytes) -> tuple[bytes, Mapping[str, Any]]:
        """The file and META. Raises RuntimeError for a refusal."""
        status, answer = self.ask(body)
        if status != 200:
            raise RuntimeError(f"{status}: {answer.decode()}")
        said = json.loads(answer)
        return base64.b64decode(said["data"][0]["b64_json"]), said["meta"]

    def close(self) -> None:
        self._connection.close()


def pixels(png: bytes) -> bytes:
    """The compressed pixels of a PNG: all of it but its marks."""
    found, place = [], 8
    while place < len(png):
        (size,) = unpack_from(">I", png, place)
        if png[place + 4 : place + 8] == b"IDAT":
            found.append(png[place + 8 : place + 8 + size])
        place += size + 12
    return b"".join(found)


def _await(door: Door) -> None:
    deadline = monotonic() + READY_S
    while monotonic() < deadline:
        connection = HTTPConnection(door.host, door.port)
        try:
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        sleep(0.1)
    raise RuntimeError(f"the gateway was not ready after {READY_S:g} s")
