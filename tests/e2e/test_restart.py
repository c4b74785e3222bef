"""A server that dies is started again on the same ports, until it dies too often."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient, InferRequestedOutput  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from tests.helpers.waiting import eventually
from tests.helpers.wire import ask, inputs, ints, texts

from .conftest import Impasto, alive, impasto_serve, shm_of


def paints(url: str) -> bool:
    """Whether somebody who comes now gets a picture."""
    with InferenceServerClient(url) as client:
        return bool(ask(client, PROMPT=texts("a boat"), STEPS=ints(1))["IMAGE"])


def kill(impasto: Impasto, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid))


def ask_for_death(url: str) -> None:
    """Triton 2.51 divides by zero where the strings of an output are to be classified."""
    classified = InferRequestedOutput("IMAGE", class_count=1)
    with InferenceServerClient(url) as client, pytest.raises(InferenceServerException):
        client.infer("stylize", inputs({"PROMPT": texts("a boat"), "STEPS": ints(1)}), outputs=[classified])


# In the order of Impasto.pids; the models are four: stylize, stylize_stream, catalogue and gate.
PARTS = ["the guardian", "the server", "a model", "another", "a third", "the last"]


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_is_started_again(part: str, command: list[str]) -> None:
    with impasto_serve(command) as impasto:
        victims = dict(zip(PARTS, impasto.pids, strict=True))
        kill(impasto, victims[part])
        impasto.line("server  ready again")
        eventually(lambda: not any(alive(pid) for pid in impasto.pids))
        assert paints(impasto.url)
        impasto.process.terminate()
        assert impasto.process.wait(60) == 0


def test_one_request_kills_the_server_and_the_next_is_served(command: list[str]) -> None:
    with impasto_serve(command) as impasto:
        ask_for_death(impasto.url)
        assert "SIGFPE" in impasto.line("server")
        impasto.line("server  ready again")
        assert paints(impasto.url)
        impasto.process.terminate()
        assert impasto.process.wait(60) == 0
    assert not shm_of(impasto.process.pid)


def test_it_gives_up_when_the_server_dies_too_often(command: list[str]) -> None:
    with impasto_serve([*command, "--deaths", "1"]) as impasto:
        kill(impasto, impasto.server)
        impasto.line("server  ready again")
        ask_for_death(impasto.url)
        _, log = impasto.process.communicate(timeout=60)
    assert impasto.process.returncode == 3
    assert "it died 2 times within 10 minutes; it isn't restarted" in log
    assert not shm_of(impasto.process.pid)


@pytest.mark.parametrize(
    ("victim", "said"), [(1, "tritonserver ended by SIGKILL"), (2, "the Python process of a model")]
)
def test_it_ends_at_once_where_it_is_not_to_restart(command: list[str], victim: int, said: str) -> None:
    with impasto_serve([*command, "--no-restart"]) as impasto:
        kill(impasto, impasto.pids[victim])
        _, log = impasto.process.communicate(timeout=60)
    assert impasto.process.returncode == 3
    assert said in log
    assert not any(alive(pid) for pid in impasto.pids)
    assert not shm_of(impasto.process.pid)


def test_a_command_goes_on_when_the_server_is_started_again(command: list[str], tmp_path: Path) -> None:
    code = f"import pathlib, time\nwhile not pathlib.Path({str(tmp_path / 'end')!r}).exists(): time.sleep(0.1)\nexit(7)"
    with impasto_serve([*command, "--", sys.executable, "-c", code]) as impasto:
        kill(impasto, impasto.server)
        impasto.line("server  ready again")
        assert paints(impasto.url)
        (tmp_path / "end").touch()
        assert impasto.process.wait(60) == 7
