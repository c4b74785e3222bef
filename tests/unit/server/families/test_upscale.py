"""Pictures in two stages, on the masked toy with an upscaler: what each stage is asked, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from impasto_server.backbone import Backbone, Row
from impasto_server.catalogue import described
from impasto_server.errors import Cancelled, ImpastoError, SetupError
from impasto_server.families import open_bundle
from impasto_server.families.masked.cascade import LookingAsk
from impasto_server.families.masked.manifest import UPSCALE
from impasto_server.families.masked.maskgit import Codes
from impasto_server.families.masked.stage import Painted
from impasto_server.guidance import Guidance
from impasto_server.pipeline import Caller, Pipeline, Progress, Result
from impasto_server.request import Request
from impasto_server.settings import Settings
from impasto_server.steps import BASE, Sample
from tests.helpers import toy, toy_masked
from tests.helpers.asked import pixels
from tests.helpers.families import handed
from tests.helpers.likeness import assert_same
from tests.helpers.pictures import png

from ..conftest import Open

Array = NDArray[np.float32]

PATIENCE_S = 60.0
SHORT = {"seed": 3, "steps": 4, "upscale_steps": 3}


@pytest.fixture
def pipeline(open_two_stages: Open) -> Pipeline:
    return open_two_stages()


def asked(pipeline: Pipeline, **values: Any) -> Request:
    return pipeline.offer.request(**{"prompt": "a red boat", **SHORT, **values})


@dataclass
class Witness(Backbone):
    """A backbone that writes down its batches, and waits before each until it may go on."""

    inner: Backbone
    batches: list[list[Row]] = field(default_factory=list)
    open: Event = field(default_factory=Event)
    reached: Event = field(default_factory=Event)

    def room(self, sample: Sample, most: int) -> int:
        return self.inner.room(sample, most)

    def run(self, rows: Sequence[Row]) -> Array:
        self.batches.append(list(rows))
        self.reached.set()
        assert self.open.wait(PATIENCE_S)
        return self.inner.run(rows)


@contextmanager
def watched(pipeline: Pipeline, held: str = "") -> Iterator[Mapping[str, Witness]]:
    """The backbones of a pipeline, by stage; the one of stage `held` waits until it's opened."""
    backbones = handed(pipeline).backbones
    before = dict(backbones)
    witnesses = {stage: Witness(one) for stage, one in before.items()}
    for stage, witness in witnesses.items():
        if stage != held:
            witness.open.set()
    backbones.update(witnesses)
    try:
        yield witnesses
    finally:
        for witness in witnesses.values():
            witness.open.set()
        backbones.update(before)


def rows_of(pipeline: Pipeline, request: Request) -> Mapping[str, list[list[Row]]]:
    """Of every batch of one request, by stage."""
    with watched(pipeline) as witnesses:
        pipeline.generate(request)
    return {stage: witness.batches for stage, witness in witnesses.items()}


def below(row: Row) -> Codes:
    """The small picture that a row looks at."""
    assert isinstance(row.ask, LookingAsk)
    assert row.ask.below is not None
    return row.ask.below.tokens


def submitted(pipeline: Pipeline, request: Request, **caller: Any) -> Future[Result | ImpastoError]:
    answer: Future[Result | ImpastoError] = Future()
    pipeline.submit(request, Caller(answer.set_result, **caller))
    return answer


# from stage to stage


def test_the_picture_is_as_large_as_was_said_and_the_bases_is_half_of_it(pipeline: Pipeline) -> None:
    found = rows_of(pipeline, asked(pipeline, width=128, height=96))
    assert pixels(pipeline.generate(asked(pipeline, width=128, height=96))).shape == (96, 128, 3)
    assert {row.ask.sample.shape for rows in found[BASE] for row in rows} == {(6, 8)}
    assert {row.ask.sample.shape for rows in found[UPSCALE] for row in rows} == {(12, 16)}


def test_all_of_the_second_stage_looks_at_what_the_first_has_painted(pipeline: Pipeline) -> None:
    base = pipeline.generate(asked(pipeline, upscale_steps=0))
    found = rows_of(pipeline, asked(pipeline))
    looked = [below(row) for rows in found[UPSCALE] for row in rows]
    assert len(looked) == 3 * 2  # a null lane, too
    for tokens in looked:
        np.testing.assert_array_equal(handed(pipeline).inner.decode(Painted(BASE, tokens)), pixels(base))


def test_without_steps_of_the_second_stage_the_bases_picture_is_there_in_its_own_size(pipeline: Pipeline) -> None:
    request = asked(pipeline, upscale_steps=0)
    result = pipeline.generate(request)
    assert pixels(result).shape == (64, 64, 3)
    assert (result.meta["width"], result.meta["steps"]) == (64, 4)
    assert rows_of(pipeline, request)[UPSCALE] == []


def test_a_base_that_was_painted_before_is_painted_finer_by_itself(pipeline: Pipeline) -> None:
    """The toy's VQ encoder finds the very tokens in a picture that it was painted from."""
    small = pipeline.generate(asked(pipeline, upscale_steps=0)).image
    request = pipeline.offer.request("a red boat", seed=3, upscale_steps=3, base_image=small)
    found = rows_of(pipeline, request)
    assert found[BASE] == []
    np.testing.assert_array_equal(below(found[UPSCALE][0][0]), below(rows_of(pipeline, asked(pipeline))[UPSCALE][0][0]))
    result = pipeline.generate(request)
    assert pixels(result).shape == (128, 128, 3)
    assert result.meta["steps"] == 3
    assert "temperature" not in result.meta
    assert isinstance(result.meta["base_image"], str)


def test_content_is_the_bases_to_begin_with(pipeline: Pipeline) -> None:
    content = pipeline.generate(asked(pipeline, seed=8)).image
    found = rows_of(pipeline, asked(pipeline, image=content, strength=0.5))
    known = found[BASE][0][0].ask.sample != toy_masked.MASK_ID
    assert 0 < known.sum() < known.size
    assert (found[UPSCALE][0][0].ask.sample == toy_masked.FINE_MASK_ID).all()
    assert [found[stage][0][0].ask.steps for stage in found] == [2 + 3] * 2


def test_candidates_have_each_its_own_base_and_are_what_each_seed_paints_alone(pipeline: Pipeline) -> None:
    several = pipeline.generate(asked(pipeline, n=3, seed=20))
    for place, image in enumerate(several.images):
        assert_same(image, pipeline.generate(asked(pipeline, seed=20 + place)).image)
    assert len({*several.images}) == 3


# guidance


@pytest.mark.parametrize(
    ("said", "prompts", "coefficients"),
    [
        ({}, ["", "a red boat"], [-1, 2]),
        ({"upscale_guidance_scale": 1.0}, ["a red boat"], [1]),
        ({"guidance": "dreamstyler", "style": ("sks03",), "upscale_guidance_scale": 3.0}, ["", "sks03"], [-2, 3]),
        ({"guidance": "styledrop", "style": ("pair",)}, ["glass", "glass"], [2, -1]),
        ({"guidance": "styledrop", "style": ("pair",), "upscale_text_strength": 2.0},
         ["glass", "glass", ""], [2, 1, -2]),
        ({"guidance": "styledrop-compose", "style": ("pair",), "content": "other-pair", "gamma": 0.25},
         ["glass", "glass", "a red boat", "a red boat"], [1.5, -0.75, 0.5, -0.25]),
        # Adapters without a part in the second stage: their lanes are the plain one's.
        ({"guidance": "styledrop", "style": ("stained-glass",)}, ["glass"], [1]),
        ({"guidance": "styledrop-compose", "style": ("pair",), "content": "crayon", "gamma": 0.25},
         ["glass", "glass", "a red boat"], [1.5, -0.75, 0.25]),
    ],
)  # fmt: skip
def test_the_second_stage_is_guided_by_strengths_of_its_own(
    said: dict[str, Any], prompts: list[str], coefficients: list[float], pipeline: Pipeline
) -> None:
    found = guided(pipeline, asked(pipeline, **said))[UPSCALE]
    assert [round(one, 6) for one in found.coefficients] == coefficients
    said_by = [lane.text.stages[0] for lane in found.lanes]
    assert all(prompt in text for prompt, text in zip(prompts, said_by, strict=True)), said_by
    assert len(rows_of(pipeline, asked(pipeline, **said))[UPSCALE][0]) == len(coefficients)


def guided(pipeline: Pipeline, request: Request) -> Mapping[str, Guidance]:
    """A request's lanes, by stage."""
    found: dict[str, Guidance] = {}
    condition = pipeline.family.condition

    def noted(*args: Any) -> Any:
        conditions = yield from condition(*args)
        found.update(conditions.guidance)
        return conditions

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handed(pipeline), "condition", noted)
        pipeline.generate(request)
    return found


def test_guidance_that_rises_rises_in_each_stage(pipeline: Pipeline) -> None:
    """At a stage's first step no null lane counts, at its others it does."""
    found = rows_of(pipeline, asked(pipeline, guidance_ramp=True))
    assert [[len(rows) for rows in found[stage]] for stage in (BASE, UPSCALE)] == [[1, 2, 2, 2], [1, 2, 2]]


@pytest.mark.parametrize("name", ["stained-glass", "crayon"])
def test_an_adapter_of_the_base_alone_leaves_the_second_stage_plain_and_this_is_told(
    name: str, pipeline: Pipeline
) -> None:
    request = asked(pipeline, adapters={name: 0.5})
    result = pipeline.generate(request)
    warnings: Any = result.meta["warnings"]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"ADAPTER_NAMES: {name!r} has no factors for the second stage and leaves it plain")
    assert stages(result)["base"]["adapters"] == [name]
    assert stages(result)["upscale"]["adapters"] == []
    found = rows_of(pipeline, request)
    assert all(row.seat.pages for rows in found[BASE] for row in rows)
    assert not any(row.seat.pages for rows in found[UPSCALE] for row in rows)


@pytest.mark.parametrize("graphs", [(), ("transformer",)])
def test_an_adapter_of_the_text_encoder_changes_what_both_stages_read(
    graphs: tuple[str, ...], pipeline: Pipeline, paired_registry: Path
) -> None:
    toy.register(paired_registry, "words", toy_masked.lora_bytes(31, text_encoder=True, stages=graphs))
    small = pipeline.generate(asked(pipeline, upscale_steps=0)).image
    said: dict[str, Any] = {"prompt": "a red boat", "seed": 3, "upscale_steps": 3, "base_image": small}
    plain, styled = (pipeline.generate(pipeline.offer.request(adapters=mix, **said)) for mix in (None, {"words": 4.0}))
    assert plain.image != styled.image
    assert styled.meta["warnings"] == []
    assert stages(styled)["upscale"]["adapters"] == ["words"]


@pytest.mark.parametrize("name", ["pair", "pair-lora"])
def test_a_pair_adapts_both_stages(name: str, pipeline: Pipeline) -> None:
    small = pipeline.generate(asked(pipeline, upscale_steps=0)).image
    said: dict[str, Any] = {"seed": 3, "upscale_steps": 3, "base_image": small}
    plain, styled = (
        pipeline.generate(pipeline.offer.request("a red boat", adapters=mix, **said)) for mix in (None, {name: 1.0})
    )
    assert (pixels(plain) != pixels(styled)).mean() > 0.2
    assert styled.meta["warnings"] == []
    assert stages(styled)["upscale"]["adapters"] == [name]
    assert pipeline.generate(pipeline.offer.request("a red boat", **said)).image == plain.image


def stages(result: Result) -> dict[str, dict[str, Any]]:
    found: Any = result.meta["stages"]
    assert isinstance(found, dict)
    return found


def test_meta_tells_what_each_stage_did(pipeline: Pipeline) -> None:
    result = pipeline.generate(asked(pipeline, guidance="styledrop", style=("pair",), upscale_steps=5))
    assert stages(result) == {
        "base": {
            "steps": 4,
            "temperature": 4.5,
            "guidance": "styledrop",
            "style_strength": 2.0,
            "text_strength": 5.0,
            "adapters": ["pair"],
        },
        "upscale": {
            "steps": 5,
            "temperature": 4.5,
            "guidance": "styledrop",
            "style_strength": 1.0,
            "text_strength": 0.0,
            "adapters": ["pair"],
        },
    }
    assert (result.meta["steps"], result.meta["upscale_style_strength"]) == (9, 1.0)
    assert "upscale_guidance_scale" not in result.meta


def test_a_pinned_mix_is_merged_into_both_stages(tmp_path: Path, paired_registry: Path) -> None:
    both = ("transformer", "upscaler")
    data = toy_masked.lora_bytes(21, stages=both)
    digest = toy.register(paired_registry, "merged", data)
    plain = toy_masked.write_bundle(tmp_path / "plain", stages=2)
    pinned = toy_masked.pin(toy_masked.write_bundle(tmp_path / "pinned", stages=2), "merged", digest, data, 0.5)
    pictures = []
    for bundle in (plain, pinned):
        pipeline = Pipeline.load(Settings(bundle, paired_registry, "onnxruntime", "f32", threads=1))
        try:
            result = pipeline.generate(asked(pipeline, adapters={"merged": 0.5}))
            pictures.append(result.image)
            assert result.meta["pinned"] == (bundle == pinned)
            assert stages(result)["upscale"]["adapters"] == ["merged"]
        finally:
            pipeline.close()
    assert_same(*pictures)


@pytest.mark.parametrize(("header", "told"), [({}, []), ({"stages": ["base", "upscale"]}, ["paint"])])
def test_of_a_pinned_mix_a_delta_changes_the_stages_that_its_header_names(
    header: dict[str, Any], told: list[str], tmp_path: Path, paired_registry: Path
) -> None:
    data = toy_masked.lora_bytes(21, stages=("transformer", "upscaler"))
    delta = toy_masked.lora_bytes(22, header={"kind": "delta", "forms": ["dora"], **header})
    mix = {name: toy.register(paired_registry, name, held) for name, held in (("merged", data), ("paint", delta))}
    folder = toy_masked.pin(toy_masked.write_bundle(tmp_path / "pinned", stages=2), "merged", mix["merged"], data, 0.5)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["pinned"][0]["adapters"].append({"name": "paint", "digest": mix["paint"], "weight": 1.0})
    toy.write_manifest(folder, manifest)
    pipeline = Pipeline.load(Settings(folder, paired_registry, "onnxruntime", "f32", threads=1))
    try:
        result = pipeline.generate(asked(pipeline, adapters={"merged": 0.5, "paint": 1.0}))
    finally:
        pipeline.close()
    assert result.meta["pinned"]
    assert stages(result)["base"]["adapters"] == ["merged", "paint"]
    assert stages(result)["upscale"]["adapters"] == ["merged", *told]


# on the way


def test_previews_go_on_through_both_stages(pipeline: Pipeline) -> None:
    """A pixel for each token of the stage; what the base has painted is what's shown before there is more."""
    news: list[Progress] = []
    answer = submitted(pipeline, asked(pipeline, preview_every=1), progress=news.append)
    assert isinstance(answer.result(PATIENCE_S), Result)
    assert [(one.step, one.steps, len(one.previews)) for one in news] == [
        (step, 7, int(step < 7)) for step in range(1, 8)
    ]
    shown = [np.asarray(Image.open(BytesIO(one.previews[0]))) for one in news[:-1]]
    assert [picture.shape for picture in shown] == [(8, 8, 3)] * 4 + [(16, 16, 3)] * 2
    base = pixels(pipeline.generate(asked(pipeline, upscale_steps=0)))
    np.testing.assert_array_equal(shown[3], base[::8, ::8])


def test_a_caller_may_leave_in_the_second_stage_and_its_pages_are_free_again(open_two_stages: Open) -> None:
    """The bank has room for one adapter."""
    unit = 4 * 4 * 2 * (2 * toy.WIDTH + 1)
    pipeline = open_two_stages(page_rank=4, bank_bytes=2 * 2 * 2 * unit)
    gone = Event()
    with watched(pipeline, held=UPSCALE) as witnesses:
        answer = submitted(pipeline, asked(pipeline, adapters={"pair": 1.0}), gone=gone.is_set)
        assert witnesses[UPSCALE].reached.wait(PATIENCE_S)
        gone.set()
        witnesses[UPSCALE].open.set()
        assert isinstance(answer.result(PATIENCE_S), Cancelled)
        assert pipeline.generate(asked(pipeline, adapters={"other-pair": 1.0})).image
        asks = [row.ask.step for rows in witnesses[UPSCALE].batches for row in rows if row.ask.step > 4]
        assert len(asks) == 2 * 2, "two lanes of two more steps, of who stayed"


def test_sixteen_unlike_requests_at_all_stages_equal_their_solo_runs(pipeline: Pipeline) -> None:
    kinds: list[dict[str, Any]] = [
        {},
        {"adapters": {"pair": 0.7, "pair-lora": -0.4}},
        {"guidance": "styledrop", "style": ("pair",), "upscale_text_strength": 1.0},
        {"guidance": "styledrop-compose", "style": ("pair",), "content": "other-pair", "guidance_ramp": True},
        {"upscale_steps": 0, "adapters": {"crayon": 1.0}},
        {"guidance": "dreamstyler", "style": ("sks03",), "upscale_steps": 5},
        {"width": 64, "height": 96, "adapters": {"stained-glass": 1.0}},
        {"n": 2, "scheduler": "maskgit"},
    ]
    small = pipeline.generate(asked(pipeline, upscale_steps=0)).image
    requests = [asked(pipeline, **{"seed": 50 + i, "steps": 3 + i % 5, **kinds[i % len(kinds)]}) for i in range(14)]
    requests += [pipeline.offer.request("a fish", seed=i, base_image=small, upscale_steps=4 + i) for i in range(2)]
    alone = [pipeline.generate(one).images for one in requests]
    with watched(pipeline, held=BASE) as witnesses:
        answers = [submitted(pipeline, one) for one in requests]
        assert witnesses[BASE].reached.wait(PATIENCE_S)
        witnesses[BASE].open.set()
        for expected, answer in zip(alone, answers, strict=True):
            result = answer.result(PATIENCE_S)
            assert isinstance(result, Result)
            for image, own in zip(result.images, expected, strict=True):
                assert_same(image, own)
    assert max(len({id(row.context) for row in rows}) for rows in witnesses[UPSCALE].batches) > 4, (
        "nobody shared a batch"
    )


# bad input


SMALL = png(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"base_image": png(np.zeros((128, 128, 3), np.uint8))},
         "BASE_IMAGE: is 128 x 128, but this WIDTH and HEIGHT need 64 x 64; pass a picture of that size, or "
         "WIDTH 256 and HEIGHT 256"),
        ({"base_image": png(np.zeros((64, 48, 3), np.uint8)), "width": 128, "height": 128},
         "BASE_IMAGE: is 48 x 64, but this WIDTH and HEIGHT need 64 x 64"),
        ({"base_image": png(np.zeros((64, 50, 3), np.uint8))},
         "BASE_IMAGE: is 50 x 64, but this WIDTH and HEIGHT need 64 x 64; pass a picture of that size$"),
        ({"base_image": png(np.zeros((256, 128, 3), np.uint8))},
         "BASE_IMAGE: is 128 x 256, but this WIDTH and HEIGHT need 64 x 64; pass a picture of that size$"),
        ({"base_image": b"GIF89a"}, "BASE_IMAGE: is not a PNG, JPEG or WebP file"),
        ({"base_image": SMALL, "steps": 4}, "STEPS: means nothing beside BASE_IMAGE"),
        ({"base_image": SMALL, "temperature": 1.0}, "TEMPERATURE: means nothing beside BASE_IMAGE"),
        ({"base_image": SMALL, "guidance_scale": 2.0}, "GUIDANCE_SCALE: means nothing beside BASE_IMAGE"),
        ({"base_image": SMALL, "image": SMALL}, "IMAGE: means nothing beside BASE_IMAGE"),
        ({"base_image": SMALL, "strength": 0.5},
         "STRENGTH: means nothing beside BASE_IMAGE, which replaces the base's picture; leave it out$"),
        ({"base_image": SMALL, "guidance": "styledrop", "style": ("pair",), "style_strength": 1.0},
         "STYLE_STRENGTH: means nothing beside BASE_IMAGE"),
        ({"base_image": SMALL, "upscale_steps": 0}, "BASE_IMAGE: means nothing at UPSCALE_STEPS 0"),
        ({"upscale_steps": 0, "upscale_temperature": 1.0}, "UPSCALE_TEMPERATURE: means nothing at UPSCALE_STEPS 0"),
        ({"upscale_steps": 201}, "UPSCALE_STEPS: 201 is out of range; pass 0 to 200"),
        ({"upscale_steps": -1}, "UPSCALE_STEPS: -1 is out of range"),
        ({"upscale_temperature": float("nan")}, "UPSCALE_TEMPERATURE: nan is out of range"),
        ({"upscale_style_strength": 1.0},
         "UPSCALE_STYLE_STRENGTH: means nothing to GUIDANCE cfg; leave it out, or pass GUIDANCE styledrop or "
         "styledrop-compose"),
        ({"guidance": "styledrop", "style": ("pair",), "upscale_guidance_scale": 2.0},
         "UPSCALE_GUIDANCE_SCALE: means nothing to GUIDANCE styledrop; leave it out, or pass GUIDANCE cfg"),
        ({"width": 80}, "WIDTH: 80 is not a multiple of 32"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_told_and_the_next_is_painted(
    said: dict[str, Any], problem: str, pipeline: Pipeline
) -> None:
    with pytest.raises(ImpastoError) as error:
        pipeline.generate(pipeline.offer.request(**{"prompt": "a boat", "seed": 3, **said}))
    assert f"{error.value}$".startswith(problem)
    assert pipeline.generate(asked(pipeline)).image


@pytest.mark.parametrize(
    "said",
    [{"base_image": SMALL}, {"upscale_steps": 0}, {"upscale_steps": 8}, {"upscale_guidance_scale": 2.0},
     {"upscale_temperature": 1.0}],
)  # fmt: skip
def test_a_bundle_of_one_stage_says_that_it_has_no_second(said: dict[str, Any], open_masked: Open) -> None:
    offer = open_masked().offer
    with pytest.raises(ImpastoError) as error:
        offer.request("a boat", **said)
    (name,) = said
    assert str(error.value) == (
        f"{name.upper()}: means nothing to bundle 'toy-masked', which has only one stage; leave it out, "
        "or name another bundle in MODEL"
    )


def test_a_bundle_of_one_stage_is_asked_and_answers_as_before(open_masked: Open) -> None:
    pipeline = open_masked()
    result = pipeline.generate(
        pipeline.offer.request("a boat", guidance="styledrop", style=("stained-glass",), steps=3)
    )
    assert not [name for name in result.meta if name == "stages" or name.startswith(("upscale", "base_"))]


def test_a_picture_is_looked_at_as_exif_says_it_is_seen(pipeline: Pipeline) -> None:
    file, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (64, 32)).save(file, "jpeg", exif=exif)
    request = pipeline.offer.request("a boat", base_image=file.getvalue(), width=64, height=128, upscale_steps=1)
    assert pixels(pipeline.generate(request)).shape == (128, 64, 3)


# bundles


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"upscale": None}, "graph upscaler and upscale belong together"),
        ({"image": {"width": 128, "height": 128, "multiple_of": 8, "max_pixels": 65536}}, "image.multiple_of is 8"),
        ({"tokens": {"factor": 32, "codes": 21, "mask_id": 24}}, "a base token of 32 pixels"),
    ],
)
def test_a_manifest_whose_stages_do_not_fit_is_refused(
    changed: dict[str, Any], problem: str, tmp_path: Path, two_stage_bundle: Path
) -> None:
    manifest = toy_masked.manifest(2) | changed
    toy.write_manifest(tmp_path, manifest)
    with pytest.raises(SetupError, match=problem):
        open_bundle(tmp_path)


def test_sides_are_those_of_both_stages(two_stage_bundle: Path) -> None:
    manifest = open_bundle(two_stage_bundle).manifest
    assert dict(manifest.dimensions(128, 96)) == {
        "W": 64, "H": 48, "w": 8, "h": 6, "fine_w": 16, "fine_h": 12, "tokens": toy.LENGTH
    }  # fmt: skip
    assert manifest.stepping == ("transformer", "upscaler")
    usual, every = manifest.sides
    assert (usual["fine_w"], every["fine_w"]) == ((16, 16, 16), (4, 16, 32))


def test_colours_are_those_of_the_stage(pipeline: Pipeline, two_stage_bundle: Path) -> None:
    tokens = np.arange(16).reshape(4, 4)
    for stage, graph in ((BASE, "vq_decoder"), (UPSCALE, "upscaler_vq_decoder")):
        model = onnx.load(two_stage_bundle / f"{graph}.onnx")
        codebook = onnx.numpy_helper.to_array(next(one for one in model.graph.initializer if one.name == "codebook"))
        found = handed(pipeline).inner.decode(Painted(stage, tokens))
        np.testing.assert_array_equal(found[::8, ::8], np.round(255 * codebook[tokens]))


def test_the_catalogue_tells_of_both_stages(two_stage_bundle: Path) -> None:
    found = described(open_bundle(two_stage_bundle))
    assert (found["stages"], found["zoom"]) == (["base", "upscale"], 2)
    assert {"UPSCALE_STEPS", "BASE_IMAGE"} <= {*found["fields"]}
    assert json.dumps(found)
