"""The commands `impasto gateway` and `impasto keys`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from time import monotonic, sleep

import httpx
import pytest
from typer.testing import CliRunner

from impasto_gateway import commands
from impasto_gateway.keyring import Keys
from impasto_gateway.settings import GatewaySettings
from tests.helpers.certificates import Authority

IMPASTO = str(Path(sys.executable).parent / "impasto")
PATIENCE_S = 120.0
NOBODY = "127.0.0.1:9"  # where no server listens


def test_a_port_that_is_taken_is_said_before_it_says_that_it_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        made = CliRunner().invoke(commands.gateway, ["--url", NOBODY, "--port", str(port)])
    assert (made.exit_code, made.stdout) == (1, "")
    assert f"port: {port} is taken; pass another --port" in made.stderr
    assert "http://" not in made.stderr


def keys(*words: str) -> tuple[int, str, str]:
    made = CliRunner().invoke(commands.keys, words)
    return made.exit_code, made.stdout, made.stderr


def test_a_key_is_printed_once_and_its_hash_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    status, secret, said = keys(
        "studio", "--file", str(file), "--role", "generate", "--role", "adapters", "--concurrent", "4"
    )
    assert (status, said) == (0, f"its hash is in {file}; the key itself is shown this once\n")
    assert secret.strip() not in file.read_text()
    caller = Keys.of(GatewaySettings(urls=(), keys=file), {}).caller(secret.strip())
    assert caller is not None
    assert (caller.name, caller.roles, caller.limits.concurrent) == ("studio", frozenset({"generate", "adapters"}), 4)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["../x"], "'../x' is no name"),
        (["studio", "--role", "root"], "role: 'root' is unknown"),
        (["taken"], "has a key of this name"),
    ],
)
def test_keys_that_are_not_made(words: list[str], problem: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    assert keys("taken", "--file", str(file))[0] == 0
    before = file.read_text()
    status, printed, said = keys(*words, "--file", str(file))
    assert (status, printed) == (1, "")
    assert problem in said
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--host", "0.0.0.0"], "host: 0.0.0.0 can be reached by others, and there are no keys"),
        (["--host", "impasto.example"], "there are no keys"),
        (["--url", " , "], "url: there is none"),
        (["--url", "localhost:80a1"], "url: 'localhost:80a1' is not a host:port"),
        (["--metrics-url", "localhost:8002/metrics"], "metrics_url: 'localhost:8002/metrics' is no address"),
        (
            ["--url", f"{NOBODY},127.0.0.1:10", "--metrics-url", "http://127.0.0.1:11/metrics"],
            "metrics_url: there are 1 for 2 servers; pass one for each --url",
        ),
        (["--keys", "/nowhere"], "/nowhere"),
        (["--tls-key", "/nowhere"], "tls_certificate: it goes with tls_key"),
        (["--certificate", "/nowhere"], "certificate: it goes with private_key"),
        (["--tls-key", "/nowhere", "--tls-certificate", "/nowhere"], "No such file"),
        (["--registry", "/nowhere"], "registry: an upload is checked against its bundle"),
        (["--bundle", "/nowhere"], "bundle: /nowhere is no bundle"),
        (["--bundle", "a=/x", "--bundle", "a=/y"], "'a' names both /x and /y"),
    ],
)
def test_gateways_that_do_not_start(words: list[str], problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMPASTO_KEYS", raising=False)
    done = CliRunner().invoke(commands.gateway, ["--port", "0", *words])
    assert done.exit_code == 1
    assert problem in done.stderr


def test_a_bundle_is_called_as_its_manifest_says(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"name": "mini"}))
    assert commands.folders([str(tmp_path), f"other={tmp_path}"]) == {"mini": tmp_path, "other": tmp_path}


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    url: str

    def status(self, path: str, key: str | None = None) -> int:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.get(self.url + path, headers=headers, timeout=PATIENCE_S).status_code


@contextmanager
def running(*words: str, **variables: str) -> Iterator[Running]:
    """`impasto gateway` with nothing behind it, listening."""
    command = [IMPASTO, "gateway", "--url", NOBODY, "--port", "0", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables}) as process:
        assert process.stderr is not None
        watchdog = Timer(PATIENCE_S, process.kill)
        watchdog.start()
        try:
            url = process.stderr.readline().split()[-1]
            wait(url)
            yield Running(process, url)
        finally:
            watchdog.cancel()
            process.kill()


def wait(url: str) -> None:
    host, port = url.rpartition("//")[2].rsplit(":", 1)
    deadline = monotonic() + PATIENCE_S
    while monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            sleep(0.05)
        else:
            return


def test_it_lives_without_a_server_and_is_not_ready() -> None:
    with running() as gateway:
        assert gateway.status("/health") == 200
        assert gateway.status("/ready") == 503
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(PATIENCE_S) == 0


def test_keys_come_from_a_variable_and_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    secret = keys("studio", "--file", str(file))[1].strip()
    with running(IMPASTO_KEYS=file.read_text()) as gateway:
        assert gateway.status("/v1/adapters") == 401
        assert gateway.status("/v1/adapters", secret) == 503


def test_every_option_has_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    assert keys("studio", "--file", str(file))[0] == 0
    with running(IMPASTO_GATEWAY_KEYS=str(file)) as gateway:
        assert gateway.status("/v1/adapters") == 401


def test_with_a_certificate_it_speaks_https_alone(tmp_path: Path) -> None:
    authority = Authority.named("Tests")
    certificate, key = authority.write(tmp_path, authority.issue("localhost"))
    with running("--tls-certificate", str(certificate), "--tls-key", str(key)) as gateway:
        assert gateway.url.startswith("https://")
        assert httpx.get(f"{gateway.url}/health", verify=False, timeout=PATIENCE_S).status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http{gateway.url.removeprefix('https')}/health", timeout=PATIENCE_S)


def test_when_it_stops_ready_fails_first() -> None:
    with running("--notice", "600") as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        deadline = monotonic() + PATIENCE_S
        while "is stopping" not in httpx.get(f"{gateway.url}/ready", timeout=PATIENCE_S).text:
            assert monotonic() < deadline
        assert gateway.status("/health") == 200
        gateway.process.send_signal(signal.SIGTERM)  # no time for that
        assert gateway.process.wait(PATIENCE_S) == 0


def test_a_request_that_arrives_slowly_is_finished_or_cut_off() -> None:
    head = b"POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n"
    for rest, status in ((b"{}", 0), (None, commands.CUT_OFF)):
        with running("--grace", "600" if rest else "1") as gateway:
            host, port = gateway.url.rpartition("//")[2].rsplit(":", 1)
            with socket.create_connection((host, int(port)), PATIENCE_S) as line:
                line.sendall(head)
                assert gateway.status("/health") == 200  # so that one has arrived, too
                gateway.process.send_signal(signal.SIGTERM)
                while rest and refuses(host, int(port)) is False:
                    sleep(0.01)
                if rest:
                    line.sendall(rest)
                    assert line.recv(4096).startswith(b"HTTP/1.1 503")  # there is no server
                assert gateway.process.wait(PATIENCE_S) == status


def refuses(host: str, port: int) -> bool:
    """Whether the port is closed."""
    try:
        socket.create_connection((host, port), 1).close()
    except ConnectionRefusedError:
        return True
    return False
