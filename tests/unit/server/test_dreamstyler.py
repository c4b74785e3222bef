"""Staged embeddings, style and content guidance, and content images, through the pipeline on the toy backbone."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from impasto_server.adapters.shelf import Folder
from impasto_server.backbone import Row
from impasto_server.errors import FieldError, InvalidArgument, NotFound
from impasto_server.pipeline import Pipeline, Result
from impasto_server.request import Request
from impasto_server.settings import Settings
from impasto_server.steps import BASE
from impasto_server.words.embeds import Embeds
from impasto_server.words.prompt import Staged
from tests.helpers import toy
from tests.helpers.asked import altered, request_of, together
from tests.helpers.families import encoders

from .conftest import Open

HOUSE = request_of("a house", seed=3, width=64, height=64, steps=4)
STYLED = altered(HOUSE, style=("sks03",), guidance="dreamstyler", guidance_scale=5.0)


def picture(colour: str = "red", size: tuple[int, int] = (90, 70)) -> bytes:
    """A coloured square on white, as a PNG file."""
    image = Image.new("RGB", size, "white")
    image.paste(colour, (20, 20, 50, 50))
    file = BytesIO()
    image.save(file, "png")
    return file.getvalue()


def seen_rows(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, request: Request) -> list[list[Row]]:
    """The rows of every step of one request."""
    steps: list[list[Row]] = []
    run = pipeline.family.backbones[BASE].run

    def note(rows: list[Row]) -> NDArray[np.float32]:
        steps.append(list(rows))
        return run(rows)

    monkeypatch.setattr(pipeline.family.backbones[BASE], "run", note)
    pipeline.generate(request)
    monkeypatch.setattr(pipeline.family.backbones[BASE], "run", run)
    return steps


def said(row: Row) -> Embeds:
    """What the lane says at its timestep."""
    words: Staged = row.context.words
    return words.at(row.ask.timestep, 1000)


def pixels(result: Result) -> NDArray[np.int64]:
    return np.asarray(Image.open(BytesIO(result.image)), np.int64)


KINDS: dict[str, Request] = {
    "style": STYLED,
    "code": altered(STYLED, guidance="dreamstyler-code", content_guidance=-1.0),
    "two lanes": altered(STYLED, style_guidance=3.0),
    "mixed stages": altered(STYLED, style=("sks03", "sks05", "my-toy"), seed=8),
    "object and style": altered(STYLED, prompt="a <my-toy> at night", seed=9),
    "with a LoRA": altered(STYLED, adapters=(("deep", 0.7),), seed=10),
    "trigger alone": altered(HOUSE, prompt="a boat in <sks03> style", scheduler="euler"),
    "content": altered(HOUSE, image=picture(), strength=0.5, steps=6, scheduler="unipc"),
    "content and depth": altered(HOUSE, image=picture("blue"), depth=picture("black"), style=("sks05",)),
    "content, not steered": altered(HOUSE, image=picture("green"), control_scale=0.0, scheduler="ddim"),
    "plain": HOUSE,
}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_every_kind_in_flight_with_all_others_equals_its_solo_run(engine: Any, open_pipeline: Open) -> None:
    pipeline = open_pipeline(engine, max_lanes=16)
    alone = [pixels(pipeline.generate(request)) for request in KINDS.values()]
    assert len({image.tobytes() for image in alone}) == len(KINDS)
    for expected, result in zip(alone, together(pipeline, list(KINDS.values())), strict=True):
        assert isinstance(result, Result)
        assert np.abs(pixels(result) - expected).max() <= 1


def test_dual_guidance_runs_four_lanes_and_none_that_cannot_matter(
    open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_pipeline()
    assert {len(rows) for rows in seen_rows(pipeline, monkeypatch, STYLED)} == {4}
    assert {len(rows) for rows in seen_rows(pipeline, monkeypatch, KINDS["two lanes"])} == {2}


@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp_2m", "euler", "unipc"])
def test_every_step_reads_the_stage_of_its_timestep(
    scheduler: str, open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ways to one context: the staged style, and each step's stage as an embedding of one stage."""
    pipeline = open_pipeline()
    request = altered(HOUSE, style=("sks03",), guidance_scale=1.0, scheduler=scheduler, steps=25)
    steps = seen_rows(pipeline, monkeypatch, request)
    by_stage = {stage: seen_contexts(pipeline, monkeypatch, stage) for stage in range(6)}
    assert len(steps) == 25
    for (row,) in steps:
        np.testing.assert_array_equal(said(row).hidden, by_stage[int(row.ask.timestep * 6 / 1000)])
    assert len({int(rows[0].ask.timestep * 6 / 1000) for rows in steps}) == 6


def seen_contexts(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, stage: int) -> NDArray[np.float32]:
    """The context when the style is at `stage` all the time."""
    vectors = np.random.default_rng(4).standard_normal((6, 1, toy.WIDTH)).astype(np.float32)[stage : stage + 1]
    shelf = pipeline._residency._registry._shelf
    assert isinstance(shelf, Folder)
    data = toy.embedding_bytes(vectors=vectors)
    toy.register(shelf.folder, f"stage-{stage}", data)
    ((row,), *_) = seen_rows(pipeline, monkeypatch, altered(HOUSE, style=(f"stage-{stage}",), guidance_scale=1.0))
    return said(row).hidden


def test_without_style_and_content_strengths_the_picture_is_plain_guidances(open_pipeline: Open) -> None:
    pipeline = open_pipeline()
    zero = altered(STYLED, style_guidance=0.0, content_guidance=0.0, guidance_scale=4.0)
    assert pipeline.generate(zero).image == pipeline.generate(altered(zero, guidance="cfg")).image


def test_a_style_in_every_stage_is_the_style_itself(open_pipeline: Open) -> None:
    pipeline = open_pipeline()
    assert pipeline.generate(STYLED).image == pipeline.generate(altered(STYLED, style=("sks03",) * 6)).image
    assert pipeline.generate(STYLED).image != pipeline.generate(altered(STYLED, style=("sks05",) * 6)).image


def test_a_prompt_is_encoded_once_per_stage_and_remembered(
    open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_pipeline()
    counts: list[int] = []
    ((engine,),) = (encoder._engines for encoder in encoders(pipeline))
    run = engine.run

    def note(feeds: Any, seats: Any) -> Any:
        counts.append(len(feeds["input_ids"]))
        return run(feeds, seats)

    monkeypatch.setattr(engine, "run", note)
    pipeline.generate(STYLED)
    pipeline.generate(altered(STYLED, seed=99))
    # v and v_s at six stages, v_c; the null is known from the start
    assert counts == [1] * 13


def test_only_the_last_steps_are_run_from_a_content_image(open_pipeline: Open) -> None:
    pipeline = open_pipeline()
    request = altered(HOUSE, image=picture(), steps=10, strength=0.35)
    meta = pipeline.generate(request).meta
    assert (meta["steps"], meta["asked_steps"]) == (3, 10)
    assert "asked_steps" not in pipeline.generate(altered(HOUSE, steps=10)).meta
    before = pipeline.stats.read()["steps"]
    pipeline.generate(request)
    assert pipeline.stats.read()["steps"] - before == 3


def test_a_weak_stroke_stays_near_the_content(open_pipeline: Open) -> None:
    """The toy's encoder and decoder aren't each other's inverse, so what is compared is the distance to a reference."""
    pipeline = open_pipeline()
    weak, weaker, strong = (
        pixels(pipeline.generate(altered(HOUSE, image=picture(), steps=50, strength=s, control_scale=0.0)))
        for s in (0.04, 0.02, 1.0)
    )
    assert np.abs(weak - weaker).mean() < np.abs(strong - weaker).mean() / 4


def test_the_controlnet_sees_edges_and_depth(open_pipeline: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = open_pipeline()
    request = altered(HOUSE, image=picture(), depth=picture("black"), control_scale=0.5)
    hint = seen_rows(pipeline, monkeypatch, request)[0][0].context.hint
    assert hint is not None
    assert (hint.scale, hint.pixels.shape) == (0.5, (3, 64, 64))
    np.testing.assert_array_equal(hint.pixels[0], hint.pixels[1])
    assert set(np.unique(hint.pixels[0])) == {0.0, 1.0}
    assert (hint.pixels[2][0, 0], hint.pixels[2][32, 20]) == (1.0, 0.0)


def test_a_depth_that_the_controlnet_needs_must_be_there(tmp_path: Path, registry: Path) -> None:
    bundle = toy.write_bundle(tmp_path / "bundle", {"channels": ["depth"] * 3})
    pipeline = Pipeline.load(Settings(bundle, registry, "onnxruntime", "f32", threads=1))
    with pytest.raises(InvalidArgument, match="^DEPTH: is missing, but the ControlNet reads it; pass it, or CONTROL_"):
        pipeline.generate(altered(HOUSE, image=picture()))
    assert pipeline.generate(altered(HOUSE, image=picture(), depth=picture())).image
    assert pipeline.generate(altered(HOUSE, image=picture(), control_scale=0.0)).image
    pipeline.close()


def test_edges_that_the_controlnet_needs_must_be_there(open_pipeline: Open) -> None:
    with pytest.raises(
        InvalidArgument, match="^IMAGE: is missing, but the ControlNet reads its edges; pass it, or leave"
    ):
        open_pipeline().generate(altered(HOUSE, depth=picture()))


def test_a_depth_that_nobody_reads_is_refused(tmp_path: Path, registry: Path) -> None:
    bundle = toy.write_bundle(tmp_path / "bundle", {"channels": ["edges"] * 3})
    pipeline = Pipeline.load(Settings(bundle, registry, "onnxruntime", "f32", threads=1))
    with pytest.raises(InvalidArgument, match="^DEPTH: means nothing to this bundle's ControlNet; leave it out"):
        pipeline.generate(altered(HOUSE, image=picture(), depth=picture()))
    pipeline.close()


def test_meta_tells_of_style_and_strengths(open_pipeline: Open) -> None:
    meta = open_pipeline().generate(altered(STYLED, image=picture(), adapters=(("neon", 0.5),))).meta
    assert [one["name"] for one in listed(meta["embeddings"])] == ["sks03"]
    assert [one["name"] for one in listed(meta["adapters"])] == ["neon"]
    assert (meta["guidance"], meta["guidance_scale"]) == ("dreamstyler", 5.0)
    assert (meta["style_guidance"], meta["content_guidance"], meta["style"]) == (0.5, 3.0, ["sks03"])
    assert (meta["strength"], meta["control_scale"]) == (0.8, 0.8)


def listed(value: object) -> list[dict[str, Any]]:
    assert isinstance(value, list)
    return value


GIF = b"GIF89a" + bytes(64)


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (altered(HOUSE, prompt="a <sks04> house"), NotFound, "PROMPT: no adapter 'sks04'; did you mean 'sks0"),
        (altered(HOUSE, prompt="a <lora:neon:1> house"), NotFound, "PROMPT: no adapter 'lora:neon:1'"),
        (altered(HOUSE, negative_prompt="<none>"), NotFound, "NEGATIVE_PROMPT: no adapter 'none'"),
        (altered(STYLED, style=("sks03", "nobody")), NotFound, "STYLE: no adapter 'nobody'"),
        (
            altered(STYLED, style=("neon",)),
            InvalidArgument,
            "STYLE: 'neon' is an adapter, not an embedding; name it in ADAPTER_NAMES, or ",
        ),
        (
            altered(HOUSE, adapters=(("sks03", 1.0),)),
            InvalidArgument,
            "ADAPTER_NAMES: 'sks03' is an embedding; write <sks03> in PROMPT, or name it in STYLE with GUIDANCE cfg or",
        ),
        (altered(HOUSE, image=GIF), InvalidArgument, "IMAGE: is not a PNG, JPEG or WebP file"),
        (altered(HOUSE, image=picture()[:-20]), InvalidArgument, "IMAGE: "),
        (altered(HOUSE, depth=b""), InvalidArgument, "DEPTH: "),
    ],
)
def test_bad_input_names_the_field_and_disturbs_nobody(
    request_: Request, error: type[FieldError], message: str, open_pipeline: Open
) -> None:
    pipeline = open_pipeline()
    before = pipeline.generate(STYLED).image
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        pipeline.generate(request_)
    assert pipeline.generate(STYLED).image == before


def test_a_wide_embedding_is_refused_with_both_widths(open_pipeline: Open, registry: Path) -> None:
    toy.register(registry, "wide", toy.embedding_bytes(width=12))
    with pytest.raises(InvalidArgument, match="embedding 'wide' is 12 wide, but text_encoder of 'toy' is 8"):
        open_pipeline().generate(altered(STYLED, style=("wide",)))
