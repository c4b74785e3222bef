"""A server starts or says why not, stops without a trace, and does not hide that a part of it died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient  # type: ignore[import-untyped]

import toy
from impasto_server.errors import SetupError
from impasto_server.process import children, is_child
from impasto_server.serve import ServerDied, serve
from impasto_server.settings import Settings

from .conftest import IMPASTO
from .wire import ask, ints, texts


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def shm_of(pid: int) -> list[Path]:
    """Shared memory regions of servers that process `pid` started."""
    return list(Path("/dev/shm").glob(f"impasto_{pid}_*"))


def alive(pid: int) -> bool:
    """A zombie is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def settings(toy_bundle: Path, toy_registry: Path) -> Settings:
    return Settings(toy_bundle, toy_registry, "onnxruntime", "f32", threads=1)


@pytest.fixture
def command(toy_bundle: Path, toy_registry: Path) -> list[str]:
    folders = ["--bundle", str(toy_bundle), "--registry", str(toy_registry)]
    return [IMPASTO, "serve", *folders, "--engine", "onnxruntime", "--threads", "1", "--port", "0"]


@contextmanager
def running(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """`impasto serve`, ready; the process, and the pids of tritonserver and its stub."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if line.startswith("ready"):
                    break
            servers = children(process.pid)
            yield process, servers + [stub for server in servers for stub in children(server)]
        finally:
            process.kill()


def test_stopping_leaves_no_process_and_no_shared_memory(settings: Settings) -> None:
    with serve(settings) as server:
        assert server.stubs
        assert shm_of(os.getpid())
    assert server.process.returncode == 0
    assert not any(alive(pid) for pid in [server.process.pid, *server.stubs])
    assert not list(Path("/dev/shm").glob(f"{server.shm_prefix}*"))


def test_requests_in_flight_are_answered_before_the_server_stops(settings: Settings) -> None:
    with ThreadPoolExecutor(16) as pool, serve(settings) as server:
        client = InferenceServerClient(server.grpc_url)
        answers = [pool.submit(ask, client, PROMPT=texts("a boat"), STEPS=ints(steps)) for steps in (1, *[200] * 15)]
        wait(answers, return_when=FIRST_COMPLETED)
        pending = [answer for answer in answers if not answer.done()]
    client.close()
    assert pending
    assert all(answer.result()["IMAGE"] for answer in answers)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_cleanly(command: list[str], number: signal.Signals) -> None:
    with running(command) as (process, pids):
        assert len(pids) == 3
        process.send_signal(number)
        assert process.wait(60) == 0
    assert not any(alive(pid) for pid in pids)
    assert not shm_of(process.pid)


def test_it_does_not_outlive_a_killed_impasto(command: list[str]) -> None:
    with running(command) as (process, pids):
        process.kill()
        eventually(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.parametrize(("victim", "said"), [(0, "tritonserver ended"), (1, "the Python process of a model")])
def test_a_killed_part_is_noticed(command: list[str], victim: int, said: str) -> None:
    with running(command) as (process, pids):
        os.kill(pids[victim], signal.SIGKILL)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said in log
    assert not any(alive(pid) for pid in pids)
    assert not shm_of(process.pid)


def test_check_tells_of_a_killed_stub(settings: Settings) -> None:
    with serve(settings) as server:
        server.check()
        os.kill(server.stubs[0], signal.SIGKILL)
        eventually(lambda: not is_child(server.stubs[0], server.process.pid))
        with pytest.raises(ServerDied, match=rf"the Python process of a model \(pid {server.stubs[0]}\) is gone"):
            server.check()


def test_a_command_runs_against_the_server_and_its_status_is_passed_on(command: list[str]) -> None:
    code = "import os, sys, urllib.request; print(os.environ['IMPASTO_URL']); sys.exit(3)"
    done = subprocess.run([*command, "--quiet", "--", sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout.startswith("127.0.0.1:")


def test_a_command_that_is_interrupted_stops_the_server(command: list[str]) -> None:
    with running([*command, "--quiet", "--", "sleep", "60"]) as (process, pids):
        process.terminate()
        assert process.wait(60) == 130
    assert not any(alive(pid) for pid in pids)


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
