"""A wire that can be cut: a forwarder of TCP, between a gateway and a replica, or a replica and its registry."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from struct import pack

from benchmarks.parts.fleet.replicas import HOST

CHUNK = 1 << 16
RESET = pack("ii", 1, 0)  # a closed connection is reset at once


@dataclass
class Wire:
    """Forwards whatever connects to its `port` to `far`, a port of this machine.

    What goes there takes `delay_s`, and what comes back comes at `bytes_per_s`, as if `far` were elsewhere.
    """

    far: int
    delay_s: float = 0.0
    bytes_per_s: float = math.inf
    port: int = 0
    is_down: bool = False  # then it refuses everybody
    _ends: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> int:
        """Reset all connections, now. Returns how many there were; new ones are forwarded as before."""
        ends = list(self._ends)
        for end in ends:
            with suppress(OSError):  # it is closed already
                end.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, RESET)
            end.transport.abort()
        return len(ends) // 2

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection, both ways, until either end closes it."""
        try:
            if self.is_down:
                raise ConnectionRefusedError
            far_reader, far_writer = await asyncio.open_connection(HOST, self.far)
        except OSError:  # nobody is there; so it is refused here, too
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self._ends |= ends
        try:
            await asyncio.gather(
                _forward(reader, far_writer, self.delay_s), _forward(far_reader, writer, 0.0, self.bytes_per_s)
            )
        finally:
            self._ends -= ends
            for end in ends:
                end.transport.abort()


@asynccontextmanager
async def wire(far: int, delay_s: float = 0.0, bytes_per_s: float = math.inf) -> AsyncIterator[Wire]:
    """A wire on a free port."""
    found = Wire(far, delay_s, bytes_per_s)
    server = await asyncio.start_server(found.serve, HOST, 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        found.cut()


async def _forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float, bytes_per_s: float = math.inf
) -> None:
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            if wait_s := delay_s + len(data) / bytes_per_s:
                await asyncio.sleep(wait_s)
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
