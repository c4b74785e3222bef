"""A server starts or says why not, stops without a trace, and does not hide that a part of it died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from impasto_client import Client, Generation, Progress
from impasto_server.errors import SetupError
from impasto_server.ops.serve import ServerDied, serve
from impasto_server.settings import Settings
from tests.helpers import toy
from tests.helpers.waiting import eventually

from .conftest import IMPASTO, alive, impasto_serve, shm_of


def test_stopping_leaves_no_process_and_no_shared_memory(settings: Settings) -> None:
    with serve(settings) as server:
        assert server.pid
        assert server.stubs
        assert shm_of(os.getpid())
    assert not any(alive(pid) for pid in [server.guarded.process.pid, server.pid, *server.stubs])
    assert not list(Path("/dev/shm").glob(f"{server.shm_prefix}*"))


def cpu_s(pid: int) -> float:
    """User and system time that a process has had."""
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def test_an_idle_server_computes_nothing(settings: Settings) -> None:
    with serve(settings) as server:
        before = cpu_s(server.pid)
        time.sleep(3)
        assert cpu_s(server.pid) - before < 0.3


def test_requests_in_flight_are_answered_before_the_server_stops(settings: Settings) -> None:
    def paint(client: Client, begun: Event) -> Generation | Progress:
        parts = client.stream("a boat", steps=200, n=16)
        next(parts)
        begun.set()
        *_, last = parts
        return last

    begun = [Event() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool, serve(settings, grace_s=600) as server, Client(server.grpc_url) as client:
        answers = [pool.submit(paint, client, one) for one in begun]
        assert all(one.wait(60) for one in begun)
        pending = [answer for answer in answers if not answer.done()]
        server.stop(600)
        assert pending
        assert all(isinstance(answer.result(60), Generation) for answer in answers)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_cleanly(command: list[str], number: signal.Signals) -> None:
    with impasto_serve(command) as impasto:
        assert len(impasto.stubs) == 3
        impasto.process.send_signal(number)
        assert impasto.process.wait(60) == 0
    assert not any(alive(pid) for pid in impasto.pids)
    assert not shm_of(impasto.process.pid)


def test_check_tells_of_a_killed_stub(settings: Settings) -> None:
    with serve(settings) as server:
        server.check()
        os.kill(server.stubs[0], signal.SIGKILL)
        eventually(lambda: not alive(server.stubs[0]))
        with pytest.raises(ServerDied, match=rf"the Python process of a model \(pid {server.stubs[0]}\) is gone"):
            server.check()


def test_a_command_runs_against_the_server_and_its_status_is_passed_on(command: list[str]) -> None:
    code = "import os, sys, urllib.request; print(os.environ['IMPASTO_URL']); sys.exit(3)"
    done = subprocess.run([*command, "--quiet", "--", sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout.startswith("127.0.0.1:")


def test_a_command_that_is_interrupted_stops_the_server(command: list[str]) -> None:
    with impasto_serve([*command, "--quiet", "--", "sleep", "60"]) as impasto:
        impasto.process.terminate()
        assert impasto.process.wait(60) == 130
    assert not any(alive(pid) for pid in impasto.pids)


def test_a_bundle_that_is_none_is_told_at_once(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="^bundle: .* has no manifest.json"), serve(replace(settings, bundle=tmp_path)):
        pass


def test_a_graph_that_does_not_compile_is_told_with_the_end_of_the_log(settings: Settings, tmp_path: Path) -> None:
    before = shm_of(os.getpid())
    broken = toy.write_bundle(tmp_path / "bundle")
    (broken / "unet.onnx").write_bytes(b"not a graph")
    with pytest.raises(SetupError) as caught, serve(replace(settings, bundle=broken)):
        pass
    assert "did not start" in str(caught.value)
    assert "unet.onnx" in str(caught.value)
    assert shm_of(os.getpid()) == before


def test_doctor(toy_bundle: Path) -> None:
    done = subprocess.run([IMPASTO, "doctor", "--json"], capture_output=True, text=True)
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0
    assert {"tritonserver", "openvino", "onnxruntime", "shared memory"} <= set(findings)
    assert all(finding["ok"] for finding in findings.values() if finding["needed"])
    assert "f32" in findings["openvino"]["found"]
