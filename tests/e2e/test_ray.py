"""The Ray Serve application: two replicas with real servers. One cluster for all tests, which run in order."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest

from impasto_client import Client
from impasto_server.ops.serve import serve
from impasto_server.settings import Settings
from impasto_server.values import MAX_CANDIDATES, MAX_STEPS
from tests.helpers import toy, toy_stylizer
from tests.helpers.gateways import png
from tests.helpers.rays import Fleet, deployed, titled
from tests.helpers.waiting import PATIENCE_S, eventually

STYLES = tuple(f"style-{at}" for at in range(6))
START_S = 300.0
LONG = {"prompt": "a red boat", "num_inference_steps": MAX_STEPS, "n": MAX_CANDIDATES}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles for words, the default, and for photos; a registry."""
    folder = tmp_path_factory.mktemp("ray")
    for at, name in enumerate(STYLES):
        toy.register(folder / "registry", name, toy.adapter_bytes(at + 1))
    toy.register(folder / "registry", "ink", toy_stylizer.style_bytes(toy_stylizer.style(1)))
    toy.write_bundle(folder / "words")
    toy_stylizer.write_bundle(folder / "photo")
    return folder


@pytest.fixture(scope="module")
def fleet(place: Path) -> Iterator[Fleet]:
    """It spills over late, since what is tested is where adapters stay."""
    args = {
        "bundle": f"words={place / 'words'},photo={place / 'photo'}",
        "registry": str(place / "registry"),
        "replicas": 2,
        "fetch_s": 9,
        "grace_s": 20,
        "serve": "--engine onnxruntime --precision f32",
    }
    with deployed(place, args) as fleet:
        eventually(lambda: fleet.are_ready(2), START_S)
        yield fleet


@pytest.fixture(scope="module")
def direct(place: Path) -> Iterator[Client]:
    """A client of a server of the same bundles that has nothing to do with Ray."""
    bundles = {"words": place / "words", "photo": place / "photo"}
    with (
        serve(Settings(bundles, place / "registry", "onnxruntime", "f32", threads=1)) as server,
        Client(server.grpc_url) as client,
    ):
        yield client


@pytest.fixture
def caller(fleet: Fleet) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fleet.url, timeout=PATIENCE_S) as caller:
        yield caller


def wish(style: str, seed: int = 7, steps: int = 20) -> dict[str, Any]:
    return {"prompt": "a red boat", "seed": seed, "steps": steps, "adapters": {style: 0.5}, "metadata": False}


def painted(caller: httpx.Client, said: dict[str, Any]) -> bytes:
    answer = caller.post("/v1/images/generations", json=said)
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def streamed(caller: httpx.Client, said: dict[str, Any]) -> tuple[int, bytes]:
    """How many previews came, and the picture."""
    with caller.stream("POST", "/v1/images/generations", json={**said, "stream": True}) as answer:
        told = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: {")]
    *previews, last = map(json.loads, told)
    assert last["type"] == "image_generation.completed", last
    return len(previews), base64.b64decode(last["b64_json"])


def test_a_picture_is_the_one_that_a_server_paints(caller: httpx.Client, direct: Client) -> None:
    expected = direct.generate("a red boat", seed=7, steps=20, adapters={STYLES[0]: 0.5}).data
    assert painted(caller, wish(STYLES[0])) == expected
    assert streamed(caller, {**wish(STYLES[0]), "partial_images": 3}) == (3, expected)


def test_a_large_photo_passes(caller: httpx.Client, direct: Client) -> None:
    """Larger than what Ray puts into a message, and into its object store at once."""
    photo = png(1200, 900)
    said = {"model": "photo", "style": "ink", "metadata": "false"}
    answer = caller.post("/v1/images/edits", data=said, files={"image": photo})
    assert answer.status_code == 200, answer.text
    assert base64.b64decode(answer.json()["data"][0]["b64_json"]) == direct.stylize(photo, "ink", model="photo").data


@pytest.mark.parametrize(
    ("said", "status", "code", "param"),
    [
        ({"num_inference_steps": 1000}, 400, "invalid_value", "num_inference_steps"),
        ({"adapters": "unknown"}, 404, "adapter_not_found", "adapters"),
        ({**LONG, "timeout": 0.05}, 504, "deadline_exceeded", None),
    ],
)
def test_errors_keep_their_status_and_their_words(
    caller: httpx.Client, said: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    answer = caller.post("/v1/images/generations", json={"prompt": "a red boat", **said})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error


def test_a_caller_who_leaves_stops_the_work(fleet: Fleet, caller: httpx.Client) -> None:
    """Again and again: a fast machine is done with one before it is left."""
    before = fleet.steady()["cancelled"]

    def is_cancelled() -> bool:
        said = {**LONG, "stream": True, "progress": True}
        with caller.stream("POST", "/v1/images/generations", json=said) as answer:
            next(answer.iter_lines())
        return fleet.metrics()["cancelled"] > before

    eventually(is_cancelled)


def test_adapters_stay_home(fleet: Fleet, caller: httpx.Client) -> None:
    """Each is loaded once, by one server; taking turns would load each at both."""
    painted(caller, wish(STYLES[0]))
    before = fleet.steady()["bank_writes"]
    for _ in range(3):
        for style in STYLES:
            painted(caller, wish(style, steps=2))
    assert fleet.steady()["bank_writes"] - before == len(STYLES) - 1


class Crowd:
    """Callers that ask until it is enough; `wrong` are answers that are not the picture expected."""

    def __init__(self, url: str, expected: dict[str, bytes]) -> None:
        self._url, self._expected = url, expected
        self._over = Event()
        self.right, self.wrong = 0, list[str]()

    def unary(self, at: int) -> None:
        self._ask(at, lambda caller, style: painted(caller, wish(style)))

    def stream(self, at: int) -> None:
        self._ask(at, lambda caller, style: streamed(caller, {**wish(style), "partial_images": 2})[1])

    def _ask(self, at: int, ask: Callable[[httpx.Client, str], bytes]) -> None:
        with httpx.Client(base_url=self._url, timeout=PATIENCE_S) as caller:
            while not self._over.is_set():
                at += 1
                style = STYLES[at % len(STYLES)]
                try:
                    if ask(caller, style) != self._expected[style]:
                        self.wrong.append("another picture")
                    self.right += 1
                except (AssertionError, httpx.HTTPError) as error:
                    self.wrong.append(repr(error))

    @contextmanager
    def asking(self) -> Iterator[None]:
        threads = [Thread(target=ask, args=(at,)) for at, ask in enumerate((self.unary, self.unary, self.stream))]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def go_on(self, more: int = 12) -> None:
        """Return when so many more pictures have come."""
        enough = self.right + more
        eventually(lambda: self.right >= enough or bool(self.wrong))


@pytest.fixture
def crowd(fleet: Fleet, direct: Client) -> Crowd:
    pictures = {style: direct.generate("a red boat", seed=7, steps=20, adapters={style: 0.5}).data for style in STYLES}
    return Crowd(fleet.url, pictures)


def test_nothing_is_lost_when_servers_and_replicas_are_killed(fleet: Fleet, crowd: Crowd) -> None:
    with crowd.asking():
        crowd.go_on()
        (replica, server), *_ = fleet.replicas().items()
        os.kill(server, signal.SIGKILL)
        crowd.go_on()
        eventually(lambda: fleet.replicas().get(replica) not in (None, server), START_S)
        crowd.go_on()
        os.kill(replica, signal.SIGKILL)
        crowd.go_on()
        eventually(lambda: replica not in fleet.replicas() and fleet.are_ready(2), START_S)
        crowd.go_on()
    assert not crowd.wrong


def test_nothing_is_lost_in_a_rolling_update(fleet: Fleet, crowd: Crowd) -> None:
    old = set(fleet.replicas())
    with crowd.asking():
        crowd.go_on()
        fleet.update(version="2")
        eventually(lambda: not old & set(fleet.replicas()) and fleet.are_ready(2), START_S)
        crowd.go_on()
    assert not crowd.wrong


def test_nothing_is_left_after_a_shutdown(fleet: Fleet) -> None:
    """Of this fleet: other tests may leave folders of theirs."""
    servers = [titled(pid) for pid in fleet.replicas().values()]
    folders = [option(server, "--model-repository") for server in servers]
    shared = [option(server, "--id") for server in servers]
    assert len(servers) == 2
    assert all(Path(folder).exists() for folder in folders)
    assert all(regions(prefix) for prefix in shared)
    fleet.stop()
    eventually(lambda: not fleet.replicas())
    assert not any(Path(folder).exists() for folder in folders)
    assert not any(regions(prefix) for prefix in shared)


def option(command: str, name: str) -> str:
    return command.partition(f"{name}=")[2].split()[0]


def regions(prefix: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{prefix}*"))
