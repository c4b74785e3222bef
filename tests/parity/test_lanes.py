"""Requests in flight together on mini-diffusion: each gets the picture it would have got alone, and diffusers' picture.

Pictures are compared as decoded PNGs: 60 dB is one 8-bit value in fifteen off by one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from io import BytesIO
from threading import Condition
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load, save
from studio.reading.psnr import psnr_db

from impasto_export.adapters.registry import Registry
from impasto_server.engines.runtime import resolve_precision
from impasto_server.errors import ImpastoError
from impasto_server.guidance import RULES
from impasto_server.pipeline import Caller, Pipeline, Progress, Result
from impasto_server.request import Request
from impasto_server.settings import EngineName
from tests.helpers.asked import altered, request_of
from tests.helpers.pictures import png

from .conftest import Open, Studio, content, diffusers_pipeline, nearness
from .test_image import SCHEDULERS, noise

MIN_SOLO_DB = {"f32": 60.0, "bf16": 40.0}
MIN_DIFFUSERS_DB = 40.0
TOGETHER = 16
PATIENCE_S = 120.0
RANK = 16
# PEFT's, about the reference: two LoRAs on one model is what the test is about.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")

Adapters = tuple[tuple[str, float], ...]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Arrival:
    """A request that comes once those before it have made `after` steps between them."""

    request: Request
    after: int


class Crowd:
    """Requests in flight together; counts the steps they make."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._answers: list[Future[Result | ImpastoError]] = []
        self._made = 0
        self._changed = Condition()

    def join(self, request: Request, after: int = 0) -> Future[Result | ImpastoError]:
        """Submit `request` once `after` steps were made, or everyone here before it is done."""
        answer: Future[Result | ImpastoError] = Future()
        with self._changed:
            here = list(self._answers)
            came = self._changed.wait_for(
                lambda: self._made >= after or all(one.done() for one in here), timeout=PATIENCE_S
            )
            assert came, f"{self._made} of {after} steps were made in {PATIENCE_S} s"
            self._answers.append(answer)

        def done(outcome: Result | ImpastoError) -> None:
            answer.set_result(outcome)
            self._note(0)

        self._pipeline.submit(request, Caller(done=done, progress=lambda progress: self._note(1)))
        return answer

    def _note(self, steps: int) -> None:
        with self._changed:
            self._made += steps
            self._changed.notify_all()


def together(pipeline: Pipeline, arrivals: Sequence[Arrival]) -> list[Pixels]:
    """Everyone's picture, in the order of `arrivals`; they come as `after` says."""
    crowd = Crowd(pipeline)
    order = sorted(range(len(arrivals)), key=lambda index: arrivals[index].after)
    answers = {index: crowd.join(arrivals[index].request, arrivals[index].after) for index in order}
    return [pixels(answers[index]) for index in range(len(arrivals))]


def pixels(answer: Future[Result | ImpastoError]) -> Pixels:
    return np.asarray(Image.open(BytesIO(image(answer))))


def image(answer: Future[Result | ImpastoError]) -> bytes:
    outcome = answer.result(PATIENCE_S)
    assert isinstance(outcome, Result), outcome
    return outcome.image


def alone(pipeline: Pipeline, request: Request) -> Pixels:
    return np.asarray(Image.open(BytesIO(pipeline.generate(request).image)))


@pytest.fixture(scope="module")
def crowded(studio: Studio, open_pipeline: Open) -> Pipeline:
    """A bank of three pages (the plain backbone's and two more), and batches that hold one guided request.

    So adapters are evicted all the time, and whoever is in flight beside a request, its batches have the same rows: its
    picture must repeat bit for bit.
    """
    graphs = json.loads((studio.bundle / "manifest.json").read_text())["graphs"].values()
    sites = [site for graph in graphs for site in graph.get("sites", ())]
    row = 4 * RANK * sum(site["in_features"] + site["out_features"] for site in sites)
    return open_pipeline("onnxruntime", max_lanes=2, page_rank=RANK, bank_bytes=3 * row)


# Together with anyone = alone


@st.composite
def styles(draw: st.DrawFn) -> dict[str, Any]:
    """No style; an embedding, or one for each third of the timesteps; or an adapter. Under any rule for those."""
    guidance = draw(st.sampled_from(["plain", *(rule.name for rule in RULES)]))
    if guidance == "plain":
        return {}
    if not guidance.startswith("styledrop"):
        strengths = {name: draw(st.floats(-1, 2)) for name in ("style_guidance", "content_guidance")}
        return {"style": draw(st.sampled_from([("oil",), ("ink", "toy", "oil")])), "guidance": guidance, **strengths}
    strengths = {name: draw(st.floats(-1, 2)) for name in ("style_strength", "text_strength")}
    composed = {"content": "two", "content_prompt": "a <toy>", "gamma": draw(st.floats(0, 1))}
    ramp = {"guidance_ramp": draw(st.booleans())}
    return {"style": ("one",), "guidance": guidance, **strengths, **ramp, **(composed if "compose" in guidance else {})}


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """No content image, or one; steered by its edges, by its depth, too, or not at all."""
    if draw(st.booleans()):
        return {}
    return {
        "image": png(content()),
        "strength": draw(st.sampled_from([0.5, 1.0])),
        **draw(st.sampled_from([{"control_scale": 0.0}, {"control_scale": 1.2}, {"depth": png(nearness())}])),
    }


@st.composite
def arrivals(draw: st.DrawFn) -> Arrival:
    """Strengths are moderate: guidance multiplies what bf16 rounds."""
    width, height = draw(st.sampled_from([(128, 128), (64, 96), (96, 64)]))
    request = request_of(
        prompt=draw(st.sampled_from(["a red boat at night", "a fish in watercolour style", "a <toy> by the sea"])),
        negative_prompt=draw(st.sampled_from(["", "blurry"])),
        adapters=tuple(draw(st.dictionaries(st.sampled_from(["one", "two"]), st.floats(-1, 1), max_size=2)).items()),
        steps=draw(st.integers(2, 8)),
        guidance_scale=draw(st.sampled_from([0.0, 1.0]) | st.floats(1.5, 5.0)),
        scheduler=draw(st.sampled_from(sorted(SCHEDULERS))),
        seed=draw(st.integers(0, 2**63 - 1)),
        width=width,
        height=height,
        **draw(styles()),
        **draw(contents()),
    )
    return Arrival(request, after=draw(st.integers(0, 40)))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
# Not shrunk: every attempt paints thirty-two pictures.
@settings(max_examples=3, derandomize=True, deadline=None, phases=[Phase.generate])
@given(drawn=st.lists(arrivals(), min_size=TOGETHER, max_size=TOGETHER))
def test_sixteen_requests_in_flight_equal_their_solo_runs(
    engine: EngineName, open_pipeline: Open, drawn: list[Arrival]
) -> None:
    pipeline = open_pipeline(engine)
    found = together(pipeline, drawn)
    expected = [alone(pipeline, one.request) for one in drawn]
    worst = min(psnr_db(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert worst >= MIN_SOLO_DB[resolve_precision(engine, "auto")]


def test_they_share_batches(open_pipeline: Open) -> None:
    """Or the test above would compare solo runs with solo runs."""
    pipeline = open_pipeline("onnxruntime")
    before = pipeline.stats.read()
    together(pipeline, [Arrival(request_of("a fish", seed, 128, 128, steps=8), after=seed) for seed in range(8)])
    after = pipeline.stats.read()
    assert (after["lanes"] - before["lanes"]) / (after["steps"] - before["steps"]) > 3


# Together with anyone = diffusers with PEFT

REFERENCED = [
    request_of("a red boat at night", 1, 128, 128, steps=8, scheduler="ddim", adapters=(("one", 0.8),)),
    request_of("a fish", 2, 128, 128, "blurry", (("one", 0.6), ("two", -0.4)), steps=6, scheduler="dpmpp_2m"),
    request_of("a green cat by the sea", 3, 64, 96, adapters=(("two", 1.2),), steps=5, scheduler="euler"),
    request_of("a red boat at night", 4, 128, 128, steps=7, scheduler="dpmpp_2m", guidance_scale=7.5),
    request_of("a fish", 5, 128, 128, "", (("two", 0.5), ("one", 0.9)), 8, guidance_scale=1.0, scheduler="euler"),
    request_of("a green cat by the sea", 6, 96, 64, "a fish", (("one", -0.5),), 3, 2.0, scheduler="ddim"),
]


@pytest.fixture(scope="module")
def peft(studio: Studio) -> Any:
    """diffusers with both LoRAs loaded."""
    pipe = diffusers_pipeline()
    for name in ("one", "two"):
        pipe.load_lora_weights(studio.loras / name, weight_name="pytorch_lora_weights.safetensors", adapter_name=name)
    return pipe


def reference(pipe: Any, request: Request, noise: NDArray[np.float32]) -> Pixels:
    """The picture that diffusers makes of `request` alone; adapters by PEFT's set_adapters."""
    scheduler = SCHEDULERS[request.sampling.scheduler].from_config(pipe.scheduler.config)
    pipe.register_modules(scheduler=scheduler)
    if request.styles.adapters:
        pipe.enable_lora()
        pipe.set_adapters(
            [name for name, _ in request.styles.adapters], [weight for _, weight in request.styles.adapters]
        )
    else:
        pipe.disable_lora()
    made = pipe(
        request.words.prompt,
        negative_prompt=request.words.negative_prompt,
        width=request.size.width,
        height=request.size.height,
        num_inference_steps=request.sampling.steps,
        guidance_scale=request.strengths["GUIDANCE_SCALE"],
        latents=torch.from_numpy(noise)[None],
    )
    return np.asarray(made.images[0])


def test_requests_in_flight_together_equal_diffusers_with_peft(open_pipeline: Open, peft: Any) -> None:
    pipeline = open_pipeline("onnxruntime")
    found = together(pipeline, [Arrival(request, after=index) for index, request in enumerate(REFERENCED)])
    for request, ours in zip(REFERENCED, found, strict=True):
        theirs = reference(peft, request, noise(pipeline, request))
        assert psnr_db(ours, theirs) >= MIN_DIFFUSERS_DB, request


# Adapters come and go under running requests

PLAIN = request_of("a red boat at night", seed=7, width=64, height=64, steps=4)


def styled(*adapters: tuple[str, float]) -> Request:
    return altered(PLAIN, adapters=adapters)


def test_a_b_a_is_bit_exact_under_load(crowded: Pipeline) -> None:
    """A leaves the bank and comes back to it while others run, and neither its pictures nor theirs tell."""
    load = altered(PLAIN, steps=40, seed=8)
    a, b, c = styled(("one", 0.8)), styled(("two", 0.8)), styled(("three", 0.3), ("two", -1.0))
    before = crowded.stats.read()
    crowd = Crowd(crowded)
    others = [crowd.join(altered(load, seed=seed)) for seed in range(2)]
    turns = [image(crowd.join(request)) for request in (a, PLAIN, b, c, a, PLAIN, c, b, a)]
    assert not any(other.done() for other in others), "the load ended before what was to run under it"
    first, plain, second, third = turns[:4]
    assert turns[4:] == [first, plain, third, second, first]
    assert len({first, plain, second, third}) == 4
    assert [image(other) for other in others] == [crowded.generate(altered(load, seed=seed)).image for seed in range(2)]
    assert crowded.stats.read()["bank_evictions"] - before["bank_evictions"] >= 4


def rescaled(data: bytes, factor: float) -> bytes:
    """An adapter's file, as another adapter's: its scales by that factor."""
    tensors = load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    scales = {
        name: np.asarray(factor * array, array.dtype) for name, array in tensors.items() if name.endswith(".scale")
    }
    return save({**tensors, **scales}, header)


def test_eviction_never_changes_a_running_image(crowded: Pipeline, studio: Studio) -> None:
    """Six adapters in flight at once want two pages."""
    registry = Registry(studio.registry)
    one = registry.file(registry.show("one").digest).read_bytes()
    for number in range(6):
        registry.put(f"one-{number}", rescaled(one, 0.2 * (1 + number)))
    mixes: list[Adapters] = [((f"one-{number}", 1.0 if number % 2 else -0.5),) for number in range(6)]
    requests = [altered(styled(*mixes[seed % 6]), seed=seed, steps=2 + seed % 4) for seed in range(12)]
    before = crowded.stats.read()
    crowd = Crowd(crowded)
    answers = [crowd.join(request) for request in requests]
    found = [image(answer) for answer in answers]
    assert crowded.stats.read()["bank_evictions"] - before["bank_evictions"] >= 4
    assert found == [crowded.generate(request).image for request in requests]


def test_whoever_joins_with_larger_mixes_never_changes_a_running_image(open_pipeline: Open, crowded: Pipeline) -> None:
    """On pages of rank 4: two for the first request, then five more for who joins it, and more rows for both."""
    narrow = open_pipeline("onnxruntime", page_rank=4)
    before = narrow.stats.read()
    running, wide = altered(styled(("one", 0.8)), steps=12), styled(("one", 0.5), ("two", 0.5))
    found = together(narrow, [Arrival(running, after=0), Arrival(wide, after=2)])
    after = narrow.stats.read()
    assert (after["bank_bytes"], after["bank_writes"]) == (before["bank_bytes"], before["bank_writes"] + 2)
    for request, ours in zip((running, wide), found, strict=True):
        assert psnr_db(ours, alone(crowded, request)) >= MIN_SOLO_DB["f32"]


@pytest.mark.parametrize("stage", ["queued", "running"])
def test_a_name_pointed_elsewhere_changes_only_later_requests(stage: str, crowded: Pipeline, studio: Studio) -> None:
    registry = Registry(studio.registry)
    one, two = (registry.file(registry.show(name).digest).read_bytes() for name in ("one", "two"))
    registry.put("moving", one)
    request = styled(("moving", 1.0))
    answer: Future[Result | ImpastoError] = Future()

    def repoint() -> None:
        registry.put("moving", two)

    def when_queued() -> bool:
        """The first question of a request comes before anything else is done for it."""
        if stage == "queued":
            repoint()
        return False

    def when_running(progress: Progress) -> None:
        if stage == "running":
            repoint()

    crowded.submit(request, Caller(answer.set_result, when_queued, when_running))
    assert image(answer) == crowded.generate(styled(("one", 1.0))).image
    assert crowded.generate(request).image == crowded.generate(styled(("two", 1.0))).image
