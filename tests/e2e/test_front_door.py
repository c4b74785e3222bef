"""`impasto serve --http`: the gateway beside a real server, its keys and its end."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest

from impasto_server.ops.process import children
from tests.e2e.conftest import IMPASTO, PATIENCE_S, Impasto, alive, impasto_serve

MANY_STEPS = {"prompt": "a red boat", "steps": 200, "seed": 1}
ASK = "/v1/images/generations"


@dataclass(frozen=True)
class Front:
    """A server and its gateway."""

    server: Impasto
    url: str

    @property
    def gateway(self) -> int:
        (pid,) = {*children(self.server.process.pid)} - {self.server.guardian}
        return pid

    def get(self, path: str, key: str | None = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.get(self.url + path, headers=headers, timeout=PATIENCE_S)


@contextmanager
def front(command: list[str]) -> Iterator[Front]:
    with impasto_serve([*command, "--http", "0"]) as server:
        yield Front(server, server.ready.partition("HTTP on ")[2].split()[0])


def until(done: object) -> None:
    deadline = monotonic() + PATIENCE_S
    while not done():  # type: ignore[operator]
        assert monotonic() < deadline
        sleep(0.05)


def test_from_the_first_answer_to_the_last(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """While it stops, /ready fails, a request that runs is finished, and then all are gone."""
    monkeypatch.setenv("IMPASTO_GATEWAY_NOTICE", "2")
    with front(command) as served, ThreadPoolExecutor() as pool:
        assert served.get("/ready").status_code == 200
        names = {one["name"] for one in served.get("/v1/adapters").json()["data"]}
        assert {"stained-glass", "neon", "sks03"} <= names
        gateway = served.gateway
        running = pool.submit(httpx.post, served.url + ASK, json=MANY_STEPS, timeout=PATIENCE_S)
        until(lambda: "impasto_gateway" and not running.done())
        served.server.process.send_signal(signal.SIGTERM)
        until(lambda: served.get("/ready").status_code == 503)
        assert running.result().status_code == 200
        assert served.server.process.wait(PATIENCE_S) == 0
        until(lambda: not any(map(alive, [gateway, *served.server.pids])))


def test_a_gateway_that_died_is_started_again(command: list[str]) -> None:
    with front(command) as served:
        first = served.gateway
        subprocess.run(["kill", "-9", str(first)], check=True)
        assert "the gateway ended with status -9" in served.server.line("gateway")

        def back() -> bool:
            try:
                return served.get("/ready").status_code == 200
            except httpx.TransportError:
                return False

        until(back)
        assert served.gateway != first


def test_keys_of_a_file(command: list[str], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    make = [IMPASTO, "keys", "studio", "--file", str(file), "--concurrent", "1"]
    key = subprocess.run(make, check=True, capture_output=True, text=True).stdout.strip()
    with front([*command, "--keys", str(file)]) as served:
        assert served.get("/v1/models").status_code == 401
        assert served.get("/v1/models", key).status_code == 200
        file.write_text("")
        assert served.get("/v1/models", key).status_code == 401


def test_who_starts_one_for_strangers_without_keys_is_told_at_once(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMPASTO_KEYS", raising=False)
    done = subprocess.run(
        [*command, "--http", "0", "--http-host", "0.0.0.0"], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 1
    assert "host: 0.0.0.0 can be reached by others, and there are no keys" in done.stderr


def test_a_command_finds_its_address(command: list[str]) -> None:
    ask = ["sh", "-c", "curl -sf $IMPASTO_HTTP_URL/ready"]
    done = subprocess.run(
        [*command, "--http", "0", "-q", "--", *ask], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, json.loads(done.stdout)) == (0, {"status": "ready"})
