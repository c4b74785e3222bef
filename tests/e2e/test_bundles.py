"""Two bundles in one server, through a real Triton: each paints as it does alone, and neither disturbs the other."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient  # type: ignore[import-untyped]

from impasto_server.errors import ImpastoError
from impasto_server.front import Asker, Front
from impasto_server.ops.serve import Server, serve
from impasto_server.outputs import Tensors
from impasto_server.settings import Settings
from tests.helpers.likeness import assert_same
from tests.helpers.waiting import eventually
from tests.helpers.wire import Tensor, ask_all, floats, ints, outputs, refused, texts

from .conftest import IMPASTO, ROOT
from .test_metrics import metrics, steady
from .test_stream import stream_all

PATIENCE_S = 300.0
LANES = 1  # of a pass: of another size it rounds otherwise, and where that hangs on a draw, tokens are others
STYLE = "neon"


@dataclass(frozen=True)
class Place:
    """Folders of the two bundles, the registry that they share, and a scorer."""

    photo: Path
    muse: Path
    registry: Path
    scorer: Path


@pytest.fixture(scope="module")
def place(bundle: Path, styles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("two")
    muse, scorer, registry = (folder / name for name in ("muse", "scorer", "registry"))
    impasto("link", "studio/mini-muse", "--out", str(muse))
    impasto("link", "studio/mini-clip", "--out", str(scorer))
    for source, name, made_for in (
        (str(next(iter(styles.values()))), STYLE, bundle),
        ("studio/drops/glass/round1", "glass", muse),
    ):
        impasto("adapters", "import", source, "--name", name, "--bundle", str(made_for), "--registry", str(registry))
    return Place(bundle, muse, registry, scorer)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    bundles = {"photo": place.photo, "muse": place.muse}
    settings = Settings(bundles, place.registry, "onnxruntime", "f32", threads=1, max_lanes=LANES, scorer=place.scorer)
    with serve(settings) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.grpc_url) as client:
        yield client


def impasto(*arguments: str) -> None:
    subprocess.run([IMPASTO, *arguments], cwd=ROOT, check=True, capture_output=True)


def photo(seed: int, **more: Tensor) -> dict[str, Tensor]:
    """Of the default bundle: who doesn't name one gets it."""
    return {"PROMPT": texts("a red boat at night"), "STEPS": ints(6), "SEED": np.array([seed]), **more}


def muse(seed: int, **more: Tensor) -> dict[str, Tensor]:
    asked = {"PROMPT": texts("a red fish by the sea"), "STEPS": ints(6), "SEED": np.array([seed])}
    return {**asked, "MODEL": texts("muse"), "GUIDANCE_SCALE": floats(3), **more}


DROP = {"STYLE": texts("glass"), "GUIDANCE": texts("styledrop")}
UNSCALED = ("GUIDANCE_SCALE",)
CROWD: dict[str, dict[str, Tensor]] = {
    "photo": photo(1),
    "photo named": photo(2, MODEL=texts("photo")),
    "photo styled": photo(3, ADAPTER_NAMES=texts(STYLE), ADAPTER_WEIGHTS=floats(0.8)),
    "photo wide": photo(4, WIDTH=ints(160), HEIGHT=ints(96)),
    "muse": muse(5),
    "muse twice": muse(6, N=ints(2)),
    "muse styled": {name: one for name, one in muse(7, **DROP).items() if name not in UNSCALED},
    "muse scored": muse(8, N=ints(2), RERANK=texts("text")),
}


@dataclass
class Alone:
    """What servers of one bundle each would paint, in this process."""

    place: Place
    fronts: dict[str, Front] = field(default_factory=dict)

    def paint(self, tensors: Tensors) -> Tensors:
        name = tensors["MODEL"].item().decode() if "MODEL" in tensors else "photo"
        if name not in self.fronts:
            folder = {"photo": self.place.photo, "muse": self.place.muse}[name]
            settings = Settings({name: folder}, self.place.registry, "onnxruntime", "f32", 1, LANES)
            self.fronts[name] = Front.load(replace(settings, scorer=self.place.scorer))
        told: Future[Tensors | ImpastoError] = Future()
        self.fronts[name].submit(tensors, 0, Asker(told.set_result))
        outcome = told.result(PATIENCE_S)
        assert not isinstance(outcome, ImpastoError), outcome
        return outcome


@pytest.fixture(scope="module")
def alone(place: Place) -> Iterator[Mapping[str, Tensors]]:
    """By the names of CROWD."""
    found = Alone(place)
    yield {name: found.paint(tensors) for name, tensors in CROWD.items()}
    for front in found.fronts.values():
        front.close()


def assert_like(found: Tensors, expected: Tensors) -> None:
    assert found["SEED"].tolist() == expected["SEED"].tolist()
    for one, other in zip(found["IMAGE"], expected["IMAGE"], strict=True):
        assert_same(one, other)
    if "SCORE" in expected:
        np.testing.assert_allclose(found["SCORE"], expected["SCORE"], atol=1e-4)


def streamed(server: Server, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with stream_all(server, **tensors) as messages:
        *steps, last = messages
    assert isinstance(last, dict), last
    assert [step["STEP"].item() for step in steps if isinstance(step, dict)] == list(range(1, 7))
    return last


def test_a_mixed_crowd_gets_what_each_gets_alone(
    server: Server, client: InferenceServerClient, alone: Mapping[str, Tensors]
) -> None:
    """Unary and streamed, twice, with refused requests among them."""
    before = metrics(server)
    with ThreadPoolExecutor(40) as pool:
        unary = {name: pool.submit(ask_all, client, "stylize", None, **asked) for name, asked in CROWD.items()}
        strangers = [
            pool.submit(refused, client, None, **photo(1, MODEL=texts("sdxl"))),
            pool.submit(refused, client, None, **photo(1, ADAPTER_NAMES=texts("glass"))),
            pool.submit(refused, client, None, **muse(1, SCHEDULER=texts("dpmpp_2m"))),
        ]
        stream = {name: pool.submit(streamed, server, asked) for name, asked in CROWD.items()}
        again = {name: pool.submit(ask_all, client, "stylize", None, **asked) for name, asked in CROWD.items()}
    for name, expected in alone.items():
        for crowd in (unary, stream, again):
            assert_like(crowd[name].result(), expected)
    said = [one.result() for one in strangers]
    assert said[0] == ("INVALID_ARGUMENT", "MODEL: 'sdxl' is unknown; pass one of photo, muse, or leave it out")
    assert "adapter 'glass' is for a masked backbone, but 'mini-diffusion' is diffusion" in said[1][1]
    assert said[2][1].startswith("SCHEDULER: 'dpmpp_2m' is unknown; pass one of maskgit, amused")
    assert before["requests"] == 0


def test_answers_say_which_bundle_painted(client: InferenceServerClient) -> None:
    for asked, name in ((photo(1), "photo"), (muse(1), "muse")):
        meta = json.loads(ask_all(client, "stylize", None, **asked)["META"].item())
        assert meta["model"] == name
    assert "temperature" in meta


def test_each_bundle_is_counted_by_itself(server: Server, client: InferenceServerClient) -> None:
    steady(server)
    before = {name: metrics(server, name) for name in ("photo", "muse")}
    ask_all(client, "stylize", None, **muse(1))
    eventually(lambda: metrics(server, "muse")["done"] == before["muse"]["done"] + 1, 60)
    assert metrics(server, "photo")["done"] == before["photo"]["done"]
    refused(client, None, **muse(1, STEPS=ints(0)))
    eventually(lambda: metrics(server, "muse")["refused"] == before["muse"]["refused"] + 1, 60)
    assert metrics(server, "photo")["refused"] == before["photo"]["refused"]


def catalogue(client: InferenceServerClient) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(outputs(client.infer("catalogue", []))["CATALOGUE"].item())
    return found


def test_the_catalogue_has_both_bundles_and_what_fits_them(client: InferenceServerClient) -> None:
    found = catalogue(client)
    assert (found["default"], [one["name"] for one in found["bundles"]]) == ("photo", ["photo", "muse"])
    photo_, muse_ = found["bundles"]
    assert (photo_["family"], muse_["family"]) == ("diffusion", "masked")
    assert muse_["samplers"] == ["maskgit", "amused"]
    assert "TEMPERATURE" in muse_["fields"]
    assert "TEMPERATURE" not in photo_["fields"]
    fits = {one["name"]: (one["kind"], one["fits"]) for one in found["adapters"]}
    assert fits == {STYLE: ("lora", ["photo"]), "glass": ("bottleneck", ["muse"])}
    assert found["unread"] == []


def test_the_catalogue_answers_while_a_long_picture_is_painted(server: Server, client: InferenceServerClient) -> None:
    asked = photo(1, STEPS=ints(200), N=ints(16))
    with stream_all(server, **asked) as messages:
        first = next(messages)
        assert catalogue(client)["default"] == "photo"
        second = next(messages)
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert "IMAGE" not in second
