"""A server that stops says so to everybody, finishes what it can, and leaves nothing, however it is ended."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any, NoReturn
from urllib.request import urlopen

import pytest
from tritonclient.grpc import InferenceServerClient  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from impasto_client import Client, ImpastoError, ServerUnavailable
from impasto_server.values import MAX_CANDIDATES, MAX_STEPS
from tests.helpers.waiting import eventually
from tests.helpers.wire import inputs, ints, refused, texts

from .conftest import Impasto, alive, impasto_serve, shm_of

CUT_OFF = "the server stopped before this was done; send the request to another one, or later"


def painting(impasto: Impasto) -> float:
    """How many requests are under way."""
    url = impasto.ready.split()[-1]
    with urlopen(url, timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith("impasto_requests{")).split()[1])


def outcome(url: str, way: str) -> str:
    """What becomes of a request that takes long."""
    with Client(url, timeout=300) as client:
        try:
            if way == "stream":
                list(client.stream("a boat", steps=MAX_STEPS, n=MAX_CANDIDATES))
            else:
                client.generate("a boat", steps=MAX_STEPS, n=MAX_CANDIDATES)
        except ImpastoError as error:
            return f"{type(error).__name__}: {error}"
    return "painted"


def workspace_of(server: int) -> Path:
    """The temporary folder of a server."""
    option = Path(f"/proc/{server}/cmdline").read_text().split("\0")[1]
    return Path(option.removeprefix("--model-repository=")).parent


@contextmanager
def long_requests(impasto: Impasto, count: int = 24) -> Iterator[list[Future[str]]]:
    """Under way, by both models."""
    with ThreadPoolExecutor(count) as pool:
        ways = ["generate", "stream"] * (count // 2)
        asked = [pool.submit(outcome, impasto.url, way) for way in ways]
        eventually(lambda: painting(impasto) >= count / 2, 60)
        yield asked


def says_ready(client: InferenceServerClient) -> bool:
    """False also when it says nothing any more."""
    try:
        return bool(client.is_server_ready())
    except InferenceServerException:
        return False


def answers_until_it_is_gone(impasto: Impasto) -> list[tuple[str, str, bool]]:
    """What one is told who asks for a picture again and again, and whether the server then says that it is ready."""
    told: list[tuple[str, str, bool]] = []
    with InferenceServerClient(impasto.url) as client:
        while not told or "stopping" in told[-1][1]:
            with suppress(AssertionError):  # it hadn't heard yet, and answered
                told.append((*refused(client, PROMPT=texts("a boat"), STEPS=ints(1)), says_ready(client)))
    return told


def test_while_it_drains_it_is_not_ready_and_says_so(command: list[str]) -> None:
    with impasto_serve([*command, "--grace", "600"]) as impasto, long_requests(impasto, 12) as asked:
        with InferenceServerClient(impasto.url) as client:
            assert says_ready(client)
        impasto.process.terminate()
        told = answers_until_it_is_gone(impasto)
        assert impasto.process.wait(150) == 0
        outcomes = [one.result(60) for one in asked]
    assert len(told) > 1, "it had stopped before it could be asked"
    assert {status for status, _, _ in told} == {"UNAVAILABLE"}
    assert not any(ready for _, _, ready in told)
    assert "painted" in outcomes
    assert all(one == "painted" or is_refusal(one) for one in outcomes)


def is_refusal(said: str) -> bool:
    """Whether it is what a client says of a server that doesn't take its request."""
    return said.startswith("ServerUnavailable: the server ") and "is stopping; send the request to another one" in said


def test_what_takes_longer_than_the_grace_is_told_so(command: list[str]) -> None:
    with impasto_serve([*command, "--grace", "0.5"]) as impasto, long_requests(impasto) as asked:
        impasto.process.terminate()
        assert impasto.process.wait(60) == 4
        outcomes = [one.result(60) for one in asked]
        assert impasto.process.stderr is not None
        assert "requests that were not finished after 0.5 s were cut off" in impasto.process.stderr.read()
    assert f"ServerDeclined: {CUT_OFF}" in outcomes
    assert all(one in ("painted", f"ServerDeclined: {CUT_OFF}") or is_refusal(one) for one in outcomes)
    assert not any(alive(pid) for pid in impasto.pids)


def test_nothing_is_left_of_a_killed_impasto_under_long_requests(command: list[str]) -> None:
    with impasto_serve([*command, "--grace", "0.5"]) as impasto, long_requests(impasto) as asked:
        workspace = workspace_of(impasto.server)
        assert workspace.is_dir()
        impasto.process.kill()
        eventually(lambda: not any(alive(pid) for pid in impasto.pids), 60)
        outcomes = [one.result(60) for one in asked]
    assert f"ServerDeclined: {CUT_OFF}" in outcomes
    assert not shm_of(impasto.process.pid)
    assert not workspace.exists()


def test_nothing_runs_on_when_its_guardian_is_killed_with_it(command: list[str]) -> None:
    with impasto_serve(command) as impasto:
        workspace = workspace_of(impasto.server)
        for pid in (impasto.process.pid, impasto.guardian):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(alive(pid) for pid in impasto.pids), 60)
    for region in shm_of(impasto.process.pid):  # nobody was left to do it
        region.unlink()
    shutil.rmtree(workspace)


def test_requests_that_were_cancelled_at_a_bad_moment_do_not_hold_it_up(command: list[str]) -> None:
    """Triton would wait for them until its own half minute is over."""
    with impasto_serve([*command, "--grace", "600"]) as impasto, InferenceServerClient(impasto.url) as client:
        asked = inputs({"PROMPT": texts("a boat"), "STEPS": ints(MAX_STEPS)})
        for number in range(20):
            calls: list[Any] = [client.async_infer("stylize", asked, lambda result, error: None) for _ in range(10)]
            Event().wait(0.002 * number)  # on the way to the model, in it, and on the way back
            for call in calls:
                call.cancel()
        impasto.process.terminate()
        assert impasto.process.wait(60) == 0


def test_our_client_takes_it_for_a_server_that_is_stopping(command: list[str]) -> None:
    def ask_until_refused(client: Client) -> NoReturn:
        while True:
            client.generate("a boat", steps=1)

    command = [*command, "--grace", "3"]
    with impasto_serve(command) as impasto, long_requests(impasto), Client(impasto.url) as client:
        impasto.process.terminate()
        with pytest.raises(ServerUnavailable, match="is stopping; send the request to another one"):
            ask_until_refused(client)
