"""Large photos through a pipeline: painted in tiles, as small ones are whole, and beside others.

What is large is patched to be small here. That tiles are exactly the whole stands in tests/parity/test_tiles.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from impasto_export.feedforward.net import Net
from impasto_server.adapters.graphs import Graphs
from impasto_server.engines.engine import Engine
from impasto_server.errors import Cancelled, ImpastoError, InvalidArgument
from impasto_server.families import open_bundle
from impasto_server.families.feedforward import tiles
from impasto_server.families.feedforward.feedforward import Feedforward
from impasto_server.job import Caller, Progress, Result
from impasto_server.pipeline import Pipeline
from impasto_server.request import Request
from impasto_server.room import Room
from impasto_server.settings import Settings
from impasto_server.shared import Shared
from impasto_server.turns import Work
from tests.helpers import cut_nets, toy
from tests.helpers.asked import pixels
from tests.helpers.cut_nets import NETS, photo
from tests.helpers.pictures import png
from tests.helpers.waiting import PATIENCE_S, Gate, eventually

STYLED = NETS["styled, mirrored"]
LARGE, SMALL = png(photo(150, 118)), png(photo(40, 40))
LEFT, RIGHT = np.zeros((150, 118), np.uint8), np.zeros((150, 118), np.uint8)
LEFT[:, :50], RIGHT[:, 50:] = 255, 255
INK = {"ink": 1.0}

Open = Callable[..., Pipeline]


@pytest.fixture
def open_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """A pipeline on a net, which paints in tiles what has more pixels than `whole`."""
    opened: list[Pipeline] = []

    def open_(net: Net = STYLED, whole: int = 5000, room: Room | None = None) -> Pipeline:
        monkeypatch.setattr(tiles, "WHOLE", whole)
        monkeypatch.setattr(tiles, "SIDE", 32)
        styles = tmp_path / "styles"
        for seed, name in enumerate(("ink", "mosaic")):
            toy.register(styles, name, cut_nets.style_bytes(net, cut_nets.style(net, seed)))
        bundle = open_bundle(cut_nets.write_bundle(tmp_path / f"bundle{len(opened)}", net))
        settings = Settings(bundle.folder, styles, "onnxruntime", "f32", threads=1, max_lanes=4)
        shared = Shared.of(settings, [bundle])
        if room is not None:
            shared = Shared(shared.registry, None, shared.admission, room=room)
        opened.append(Pipeline(bundle, settings, shared))
        return opened[-1]

    yield open_
    for pipeline in opened:
        pipeline.close()


@dataclass
class Asked:
    """A caller, and what it hears; it is gone once it has heard of `most` steps."""

    most: float = float("inf")
    answer: Future[Result | ImpastoError] = field(default_factory=Future)
    steps: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def of(cls, pipeline: Pipeline, image: bytes, most: float = float("inf"), **values: Any) -> Asked:
        asked = cls(most)
        caller = Caller(asked.answer.set_result, lambda: len(asked.steps) >= asked.most, asked._hear)
        pipeline.submit(pipeline.offer.request(image=image, adapters=INK, **values), caller)
        return asked

    def outcome(self) -> Result | ImpastoError:
        return self.answer.result(PATIENCE_S)

    def _hear(self, news: Progress) -> None:
        self.steps.append((news.step, news.steps))


@pytest.mark.parametrize(
    "values",
    [
        {"adapters": INK},
        {"adapters": {"ink": 0.5, "mosaic": 0.5}, "masks": (png(LEFT),)},
        {"adapter_names": ("ink", "mosaic"), "masks": (png(LEFT), png(RIGHT))},
        {"adapters": INK, "strength": 0.6, "preserve_color": True},
        {"adapters": INK, "detail": 1.5},
    ],
    ids=["plain", "one mask", "regions", "weak, in its colours", "finer"],
)
def test_a_large_photo_becomes_what_a_small_one_does(values: dict[str, Any], open_net: Open) -> None:
    """To a level: what is mixed of several was rounded before."""
    whole, tiled = open_net(whole=1 << 20), open_net()
    one, other = (each.generate(each.offer.request(image=LARGE, **values)) for each in (whole, tiled))
    assert np.abs(pixels(one) - pixels(other)).max() <= 1
    assert tiled.stats.read()["steps"] > 100 > whole.stats.read()["steps"]


@pytest.mark.parametrize("name", ["transposed", "cropping", "fixed and styled"])
def test_of_other_nets(name: str, open_net: Open) -> None:
    net = NETS[name]
    values: dict[str, Any] = {"adapters": INK} if net.vector_size else {}
    whole, tiled = open_net(net, whole=1 << 20), open_net(net)
    one, other = (each.generate(each.offer.request(image=LARGE, **values)) for each in (whole, tiled))
    assert np.abs(pixels(one) - pixels(other)).max() <= 1


def test_its_steps_are_told(open_net: Open) -> None:
    """Every tile is one, and how many there are is known from the first."""
    pipeline = open_net()
    asked = Asked.of(pipeline, LARGE)
    assert isinstance(asked.outcome(), Result)
    steps = pipeline.stats.read()["steps"]
    assert asked.steps == [(step, steps) for step in range(1, int(steps) + 1)]


def test_its_pieces_are_compiled_for_the_first_one_alone(open_net: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    files, compiled = list[str](), Graphs.opened

    def opened(graphs: Graphs, file: str) -> Engine:
        files.append(file)
        return compiled(graphs, file)

    monkeypatch.setattr(Graphs, "opened", opened)
    pipeline = open_net()
    assert files == []
    for _ in range(2):
        assert isinstance(Asked.of(pipeline, LARGE).outcome(), Result)
    assert len(files) == len(set(files)) > 1


@pytest.mark.parametrize(("free", "most"), [(0, 1_100_000_000), (8 << 31, 1 << 31), (1 << 50, None)])
def test_how_large_one_is_depends_on_the_memory_that_is_free(
    free: int, most: int | None, open_net: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass takes 22 bytes in f32 for each of 4 channels; of pictures that are painted whole there is a largest."""
    monkeypatch.setattr(tiles, "free_memory", lambda: free)
    family = open_net(whole=1 << 30).family
    assert isinstance(family, Feedforward)
    assert family._tiles is not None
    assert family._tiles.whole == (1 << 30 if most is None else most // (22 * 4))


def test_a_caller_that_leaves_ends_it_between_tiles(open_net: Open) -> None:
    pipeline = open_net()
    gate = Gate()
    paused(pipeline, "contract.conv2", gate)
    asked = Asked.of(pipeline, LARGE)
    assert gate.reached.wait(PATIENCE_S)
    before = pipeline.stats.read()["steps"]
    assert before > 0
    asked.most = 0
    gate.open.set()
    assert isinstance(asked.outcome(), Cancelled)
    assert pipeline.stats.read()["steps"] == before + 1
    assert isinstance(Asked.of(pipeline, SMALL).outcome(), Result)


def test_a_small_photo_is_painted_between_the_tiles_of_a_large_one(open_net: Open) -> None:
    pipeline, gate, order = open_net(), Gate(), list[str]()
    paused(pipeline, "end", gate)
    large = Asked.of(pipeline, LARGE)
    assert gate.reached.wait(PATIENCE_S)
    small = Asked.of(pipeline, SMALL)
    for name, asked in (("large", large), ("small", small)):
        asked.answer.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
    eventually(lambda: not pipeline._loop._joining.empty())
    gate.open.set()
    assert isinstance(large.outcome(), Result)
    assert isinstance(small.outcome(), Result)
    assert order == ["small", "large"]


def test_two_large_ones_are_not_in_memory_at_once(open_net: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second isn't even read before the first is answered; a small one finds room beside it."""
    pipeline, gate, read = open_net(room=Room(5 << 20)), Gate(), list[bytes | None]()
    monkeypatch.setattr(Feedforward, "room", lambda self, request: (4 if request.content.image == LARGE else 1) << 20)
    reads = pipeline.family.read

    def noted(request: Request) -> Work[Any]:
        read.append(request.content.image)
        return reads(request)

    monkeypatch.setattr(pipeline.family, "read", noted)
    paused(pipeline, "end", gate)
    first = Asked.of(pipeline, LARGE)
    assert gate.reached.wait(PATIENCE_S)
    second, small = Asked.of(pipeline, LARGE), Asked.of(pipeline, SMALL)
    eventually(lambda: read == [LARGE, SMALL])
    eventually(lambda: pipeline.shared.room.waiting == 1)
    gate.open.set()
    for asked in (first, small, second):
        assert isinstance(asked.outcome(), Result)
    assert read == [LARGE, SMALL, LARGE]
    assert pipeline.shared.room.waiting == 0


def test_who_waits_for_room_may_leave(open_net: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, gate = open_net(room=Room(5 << 20)), Gate()
    monkeypatch.setattr(Feedforward, "room", lambda self, request: 4 << 20)
    paused(pipeline, "end", gate)
    first = Asked.of(pipeline, LARGE)
    assert gate.reached.wait(PATIENCE_S)
    second = Asked.of(pipeline, LARGE)
    eventually(lambda: pipeline.shared.room.waiting == 1)
    second.most = 0
    assert isinstance(second.outcome(), Cancelled)
    assert pipeline.shared.room.waiting == 0
    gate.open.set()
    assert isinstance(first.outcome(), Result)
    assert isinstance(Asked.of(pipeline, LARGE).outcome(), Result), "what it waited for is free"


def test_a_photo_whose_layers_never_fit_is_refused(open_net: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told which size is painted."""
    monkeypatch.setattr(tiles, "LAYERS", 1_600_000)
    pipeline = open_net()
    image = png(photo(500, 400))
    with pytest.raises(InvalidArgument, match=r"IMAGE: is painted at 400 x 500, .* at most \d+ pixels; pass LONG_SIDE"):
        pipeline.generate(pipeline.offer.request(image=image, adapters=INK))
    fitting = pipeline.generate(pipeline.offer.request(image=image, adapters=INK, long_side=300))
    assert pixels(fitting).shape == (300, 240, 3)


def paused(pipeline: Pipeline, stage: str, gate: Gate) -> None:
    """The step loop stands at that stage's first tile until the gate is open."""
    backbone = pipeline.family.backbones[stage]
    backbone.run = gate.before(backbone.run)  # type: ignore[method-assign]
