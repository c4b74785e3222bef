"""Several bundles behind one front: who paints, what they share, and whose trouble is whose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from threading import Event, Lock, Thread
from threading import enumerate as enumerate_threads
from time import sleep
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_server.backbone import Backbone, Row
from impasto_server.errors import ImpastoError, SetupError, Unavailable
from impasto_server.front import Asker, Front
from impasto_server.outputs import Tensors
from impasto_server.settings import Settings
from tests.helpers import toy, toy_masked, toy_stylizer
from tests.helpers.likeness import assert_same
from tests.helpers.pictures import png
from tests.helpers.wire import Tensor, floats, ints, texts

PATIENCE_S = 60.0
Outcome = Tensors | ImpastoError
Open = Callable[..., Front]


@pytest.fixture
def open_front(bundle: Path, masked_bundle: Path, registry: Path) -> Iterator[Open]:
    """Of `photo`, a toy UNet, and `muse`, a toy transformer; one registry for both."""
    toy.register(registry, "glass", toy_masked.bottleneck_bytes(1))
    opened: list[Front] = []

    def open_(bundles: Path | Mapping[str, Path] | None = None, **settings: Any) -> Front:
        found = {"photo": bundle, "muse": masked_bundle} if bundles is None else bundles
        opened.append(Front.load(Settings(found, registry, "onnxruntime", "f32", threads=1, **settings)))
        return opened[-1]

    yield open_
    for front in opened:
        front.close()


def boat(seed: int = 1, steps: int = 4, **more: Tensor) -> dict[str, Tensor]:
    return {"PROMPT": texts("a boat"), "SEED": np.array([seed]), "STEPS": ints(steps), **more}


def submit(front: Front, tensors: Tensors, gone: Callable[[], bool] = lambda: False) -> Future[Outcome]:
    """What becomes of it; an error also where it isn't taken."""
    told: Future[Outcome] = Future()
    try:
        front.submit(tensors, 0, Asker(told.set_result, gone))
    except ImpastoError as error:
        told.set_result(error)
    return told


def painted(outcome: Outcome) -> tuple[bytes, dict[str, Any]]:
    assert not isinstance(outcome, ImpastoError), outcome
    return outcome["IMAGE"][0], json.loads(outcome["META"].item())


def paint(front: Front, **more: Tensor) -> tuple[bytes, dict[str, Any]]:
    return painted(submit(front, boat(**more)).result(PATIENCE_S))  # type: ignore[arg-type]


def test_model_says_who_paints_and_the_first_does_where_it_is_left_out(open_front: Open) -> None:
    front = open_front()
    unnamed, photo, muse = paint(front), paint(front, MODEL=texts("photo")), paint(front, MODEL=texts("muse"))
    assert [meta["model"] for _, meta in (unnamed, photo, muse)] == ["photo", "photo", "muse"]
    assert unnamed[0] == photo[0] != muse[0]
    assert unnamed[1]["bundle"] != muse[1]["bundle"]


def test_each_paints_what_it_paints_alone(open_front: Open, bundle: Path, masked_bundle: Path) -> None:
    both = open_front(max_lanes=1)
    for name, folder in (("photo", bundle), ("muse", masked_bundle)):
        alone = open_front({name: folder}, max_lanes=1)
        asked = [boat(seed, MODEL=texts(name)) for seed in range(4)]
        others = [boat(seed, MODEL=texts("muse" if name == "photo" else "photo")) for seed in range(4)]
        crowd = [submit(both, one) for pair in zip(asked, others, strict=True) for one in pair]
        for one, answer in zip(asked, crowd[::2], strict=True):
            expected, _ = painted(submit(alone, one).result(PATIENCE_S))
            assert_same(painted(answer.result(PATIENCE_S))[0], expected)


def unlike(seed: int) -> dict[str, Tensor]:
    """One of eight kinds: of a latent model, of both stages of a masked one, of either alone, of a style net."""
    base = png(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8))
    photo, muse = boat(seed, 2 + seed % 3, MODEL=texts("photo")), boat(seed, 2 + seed % 3, MODEL=texts("muse"))
    cascade = {**muse, "WIDTH": ints(128), "HEIGHT": ints(128), "UPSCALE_STEPS": ints(1 + seed % 4)}
    alone = {name: cascade[name] for name in cascade if name != "STEPS"}
    kinds: tuple[dict[str, Tensor], ...] = (
        photo,
        cascade,
        {"MODEL": texts("net"), "IMAGE": texts(base), "ADAPTER_NAMES": texts("wave")},
        {**cascade, "STYLE": texts("glass"), "GUIDANCE": texts("styledrop")},
        {**photo, "ADAPTER_NAMES": texts("neon"), "GUIDANCE_SCALE": floats(3)},
        {**cascade, "UPSCALE_STEPS": ints(0)},
        {**photo, "IMAGE": texts(base), "STRENGTH": floats(0.6)},
        {**alone, "BASE_IMAGE": texts(base)},
    )
    return kinds[seed % len(kinds)]


def test_sixteen_unlike_requests_of_all_families_and_stages_paint_what_they_paint_alone(
    open_front: Open, bundle: Path, two_stage_bundle: Path, registry: Path, tmp_path: Path
) -> None:
    toy.register(registry, "glass", toy_masked.bottleneck_bytes(1, stages=("transformer", "upscaler")))
    toy.register(registry, "wave", toy_stylizer.style_bytes(toy_stylizer.style(1)))
    net = toy_stylizer.write_bundle(tmp_path)
    front = open_front({"photo": bundle, "muse": two_stage_bundle, "net": net}, max_lanes=1)
    together = [submit(front, unlike(seed)) for seed in range(16)]
    crowd = [painted(one.result(PATIENCE_S))[0] for one in together]
    assert len(set(crowd)) == len(crowd)
    for seed, picture in enumerate(crowd):
        assert_same(picture, painted(submit(front, unlike(seed)).result(PATIENCE_S))[0])


def test_a_lone_bundle_is_called_as_its_manifest_says(open_front: Open, bundle: Path) -> None:
    name = json.loads((bundle / "manifest.json").read_text())["name"]
    assert list(open_front(bundle).stats) == [name]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (texts("sdxl"), "MODEL: 'sdxl' is unknown; pass one of photo, muse, or leave it out"),
        (texts(""), "MODEL: '' is unknown; pass one of photo, muse, or leave it out"),
        (texts("photo", "muse"), "MODEL: holds 2 values; pass exactly one, shape [1]"),
        (texts(b"\xff"), "MODEL: byte 0 is not UTF-8"),
    ],
)
def test_a_model_that_is_none_is_refused(model: Tensor, said: str, open_front: Open) -> None:
    front = open_front()
    error = submit(front, boat(MODEL=model)).result(PATIENCE_S)
    assert isinstance(error, ImpastoError)
    assert error.code == "INVALID_ARGUMENT"
    assert str(error).startswith(said)
    assert front.stats["photo"].read()["refused"] == 1


def test_adapters_are_checked_against_the_bundle_that_paints(open_front: Open) -> None:
    front = open_front()
    paint(front, ADAPTER_NAMES=texts("neon"))
    paint(front, MODEL=texts("muse"), ADAPTER_NAMES=texts("glass"))
    for name, adapter in (("photo", "glass"), ("muse", "neon")):
        asked = boat(MODEL=texts(name), ADAPTER_NAMES=texts(adapter))
        error = submit(front, asked).result(PATIENCE_S)
        assert isinstance(error, ImpastoError)
        assert str(error).startswith(f"ADAPTER_NAMES: adapter '{adapter}' is for a ")
        assert front.stats[name].read()["refused"] == 1


def test_the_limit_of_requests_is_that_of_all_together(open_front: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    front = open_front(max_requests=1)
    running, go_on = Event(), Event()
    run = Backbone.run

    def wait(self: Backbone, rows: Sequence[Row]) -> NDArray[np.float32]:
        running.set()
        assert go_on.wait(PATIENCE_S)
        return run(self, rows)

    monkeypatch.setattr(Backbone, "run", wait)
    first = submit(front, boat())
    assert running.wait(PATIENCE_S)
    error = submit(front, boat(MODEL=texts("muse"))).result(PATIENCE_S)
    assert isinstance(error, ImpastoError)
    assert error.code == "RESOURCE_EXHAUSTED"
    go_on.set()
    painted(first.result(PATIENCE_S))
    counts = {name: stats.read() for name, stats in front.stats.items()}
    assert [(counts[name]["rejected"], counts[name]["done"]) for name in ("photo", "muse")] == [(0, 1), (1, 0)]
    assert [counts[name]["requests"] for name in ("photo", "muse")] == [0, 0]


def test_passes_of_two_bundles_take_turns(open_front: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    front = open_front(max_lanes=2)
    run, order, inside, lock = Backbone.run, list[int](), list[int](), Lock()

    def slowly(self: Backbone, rows: Sequence[Row]) -> NDArray[np.float32]:
        with lock:
            inside.append(id(self))
            assert len(inside) == 1, "two passes at a time"
            order.append(id(self))
        sleep(0.005)
        with lock:
            inside.pop()
        return run(self, rows)

    monkeypatch.setattr(Backbone, "run", slowly)
    crowd = [submit(front, boat(seed, 20, MODEL=texts(name))) for seed in range(3) for name in ("photo", "muse")]
    for answer in crowd:
        painted(answer.result(PATIENCE_S))
    assert len({*order}) == 2
    assert sum(one != other for one, other in pairwise(order)) > 20


def test_draining_is_for_all(open_front: Open) -> None:
    front = open_front()
    answers = [submit(front, boat(MODEL=texts(name))) for name in ("photo", "muse")]
    assert front.drain(PATIENCE_S) == 0
    for answer in answers:
        painted(answer.result(0))
    for name in ("photo", "muse"):
        assert isinstance(submit(front, boat(MODEL=texts(name))).result(0), Unavailable)


def test_a_bundle_that_cannot_be_opened_is_named(open_front: Open, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=f"^bundle: {tmp_path / 'gone'} is not a folder; make one with"):
        open_front({"photo": bundle, "gone": tmp_path / "gone"})
    with pytest.raises(SetupError, match=f"^bundle: {tmp_path} has no manifest.json; make one with"):
        open_front(tmp_path)


def test_a_scorer_given_as_a_bundle_is_told_so(open_front: Open, scorer_bundle: Path) -> None:
    with pytest.raises(SetupError, match="^bundle: .* is a scorer and can't paint; pass it as --scorer"):
        open_front(scorer_bundle)


def loops() -> set[Thread]:
    return {thread for thread in enumerate_threads() if thread.name == "step-loop"}


def test_where_a_later_bundle_cannot_be_compiled_the_earlier_ones_do_not_go_on(
    open_front: Open, bundle: Path, masked_bundle: Path, tmp_path: Path
) -> None:
    before = loops()
    broken = shutil.copytree(masked_bundle, tmp_path / "broken")
    (broken / "transformer.onnx").write_bytes(b"no graph")
    with pytest.raises(Exception, match=r"transformer\.onnx"):
        open_front({"photo": bundle, "muse": broken})
    assert loops() <= before
