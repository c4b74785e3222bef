"""The pipeline's own counters stand on Triton's metrics endpoint; a cancelled call shows there."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any
from urllib.request import urlopen

from tritonclient.grpc import InferenceServerClient, InferInput  # type: ignore[import-untyped]

from impasto_server.ops.serve import Server
from impasto_server.stats import HISTOGRAMS, INFO
from impasto_server.values import MAX_CANDIDATES, MAX_STEPS
from tests.helpers.wire import ask, ints, texts

PATIENCE_S = 60.0


def metrics(server: Server, bundle: str = "") -> dict[str, float]:
    """impasto's metrics by name: those of a bundle, or of all together. Without INFO, which is never still."""
    with urlopen(f"http://{server.ports.host}:{server.ports.metrics}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, float] = defaultdict(float)
    for name, labels, value in re.findall(r"^impasto_(\w+){([^}]*)} (\S+)$", text, re.MULTILINE):
        if name != INFO and (not bundle or f'bundle="{bundle}"' in labels):
            found[name] += float(value)
    return found


def steady(server: Server) -> dict[str, float]:
    """The metrics once they have stopped changing; they are reported twice a second."""
    seen: dict[str, float] = {}
    now = metrics(server)
    while seen != now:
        sleep(1.2)
        seen, now = now, metrics(server)
    return now


def grown(server: Server, name: str, before: dict[str, float]) -> bool:
    """Whether a counter grows within PATIENCE_S; it's reported twice a second."""
    deadline = monotonic() + PATIENCE_S
    while monotonic() < deadline:
        if metrics(server)[name] > before[name]:
            return True
        sleep(0.1)
    return False


def test_a_picture_is_counted(toy_server: Server, toy_client: InferenceServerClient) -> None:
    before = metrics(toy_server)
    ask(toy_client, PROMPT=texts("a red boat"), STEPS=ints(3), ADAPTER_NAMES=texts("neon"))
    for name in ("done", "steps", "lanes"):
        assert grown(toy_server, name, before), name
    assert metrics(toy_server)["bank_writes"] > 0


def test_times_are_counted_in_buckets(toy_server: Server, toy_client: InferenceServerClient) -> None:
    """`metrics` adds up a histogram's buckets, which are cumulative; its count and its sum stand alone."""
    before = metrics(toy_server)
    ask(toy_client, PROMPT=texts("a red boat"), STEPS=ints(3))
    for name in HISTOGRAMS:
        assert grown(toy_server, f"{name}_count", before), name
        assert metrics(toy_server)[f"{name}_bucket"] > before[f"{name}_bucket"]
    now = steady(toy_server)
    assert now["time_to_first_step_seconds_sum"] <= now["e2e_seconds_sum"]


def test_who_wears_what_is_told_while_it_is_worn(toy_server: Server, toy_client: InferenceServerClient) -> None:
    """As vLLM tells it: names in labels. A router that knows them sends a request to where its adapter is at work."""
    with asking(toy_client, "neon", "stained-glass"):
        worn = newest(toy_server, "neon,stained-glass")
    assert int(worn["max_lora"]) > 2
    newest(toy_server, "")
    deadline = monotonic() + PATIENCE_S
    while len(infos(toy_server)) > 1:  # what is worn no more is forgotten
        assert monotonic() < deadline, infos(toy_server)
        sleep(0.1)


@contextmanager
def asking(client: InferenceServerClient, *adapters: str) -> Iterator[None]:
    """Such requests, one after the other: a fast machine is done with one before that is told."""
    over = Event()

    def ask_on() -> None:
        while not over.is_set():
            call, ended = call_for_long(client, *adapters)
            while not (over.is_set() or ended.wait(0.05)):
                pass
            call.cancel()

    asker = Thread(target=ask_on)
    asker.start()
    try:
        yield
    finally:
        over.set()
        asker.join()


def newest(server: Server, running: str) -> dict[str, str]:
    """The newest labels, once these adapters run."""
    deadline = monotonic() + PATIENCE_S
    while True:
        found = infos(server)
        if found and found[-1]["running_lora_adapters"] == running:
            return found[-1]
        assert monotonic() < deadline, found
        sleep(0.1)


def infos(server: Server) -> list[dict[str, str]]:
    """The labels of the bundle's metrics of adapters under way; the newest, by the time in them, is last."""
    with urlopen(f"http://{server.ports.host}:{server.ports.metrics}/metrics", timeout=10) as answer:
        found = re.findall(r"^impasto_lora_requests_info{([^}]*)} (\S+)$", answer.read().decode(), re.MULTILINE)
    newest_last = sorted(found, key=lambda one: float(one[1]))
    return [dict(re.findall(r'(\w+)="([^"]*)"', labels)) for labels, _ in newest_last]


def test_a_cancelled_call_stops_in_the_server(toy_server: Server, toy_client: InferenceServerClient) -> None:
    """Long requests are cancelled while they are under way; those that the server hasn't finished, it drops."""
    before = metrics(toy_server)
    deadline = monotonic() + 3 * PATIENCE_S
    while metrics(toy_server)["cancelled"] == before["cancelled"]:
        assert monotonic() < deadline, "no cancelled call was dropped"
        calls = [call for call, _ in (call_for_long(toy_client) for _ in range(40))]
        sleep(0.1)  # let them reach the model: what is cancelled on the way there, Triton drops itself
        for call in calls:
            call.cancel()
        sleep(1)  # the counters are told twice a second
    assert ask(toy_client, PROMPT=texts("a red boat"), STEPS=ints(1))["IMAGE"]


def call_for_long(client: InferenceServerClient, *adapters: str) -> tuple[Any, Event]:
    """The call, and what is set when it has ended."""
    ended = Event()
    prompt = InferInput("PROMPT", [1], "BYTES")
    prompt.set_data_from_numpy(texts("a red boat"))
    steps, candidates = InferInput("STEPS", [1], "INT32"), InferInput("N", [1], "INT32")
    steps.set_data_from_numpy(ints(MAX_STEPS))
    candidates.set_data_from_numpy(ints(MAX_CANDIDATES))
    inputs = [prompt, steps, candidates]
    if adapters:
        inputs.append(InferInput("ADAPTER_NAMES", [len(adapters)], "BYTES"))
        inputs[-1].set_data_from_numpy(texts(*adapters))
    return client.async_infer("stylize", inputs, lambda result, error: ended.set()), ended
