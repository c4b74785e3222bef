"""SDXL's two text encoders and sizes, and an LCM's guidance, on toy backbones that have their inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from impasto_server import families
from impasto_server.backbone import Row
from impasto_server.errors import InvalidArgument, SetupError
from impasto_server.families.diffusion.unet import scale_embeddings
from impasto_server.families.offers import FIELDS, offer_of
from impasto_server.offer import parse
from impasto_server.pipeline import Pipeline, Result
from impasto_server.request import Request
from impasto_server.settings import Settings
from impasto_server.steps import BASE
from impasto_server.words.embeds import Embeds
from impasto_server.words.prompt import Staged
from tests.helpers import toy
from tests.helpers import toy_architectures as toys
from tests.helpers.asked import altered, pixels, request_of, together
from tests.helpers.families import encoders

Feeds = Mapping[str, NDArray[Any]]
OpenBundle = Callable[[Path], Pipeline]

BOAT = request_of("a red boat", seed=3, width=64, height=32, steps=4, scheduler="euler", guidance_scale=3.0)
LCM = altered(BOAT, scheduler="lcm", guidance_scale=8.5)
FILE = BytesIO()
Image.new("RGB", (64, 32), "teal").save(FILE, "PNG")
PICTURE = FILE.getvalue()
XL_ADAPTER = {"unet.mix": toy.CHANNELS, "text_encoder.proj": toy.WIDTH, "text_encoder_2.proj": toys.WIDTH_2}


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.write_xl(tmp_path_factory.mktemp("toy") / "xl")


@pytest.fixture(scope="module")
def lcm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.write_lcm(tmp_path_factory.mktemp("toy") / "lcm")


@pytest.fixture
def styles(tmp_path: Path) -> Path:
    """An adapter of the UNet alone, one of both text encoders, too, and an embedding for both."""
    folder = tmp_path / "registry"
    header = {"kind": "lora", "family": "diffusion", "architecture": toy.ARCHITECTURE}
    toy.register(folder, "neon", toy.adapter_bytes(1))
    toy.register(folder, "deep", toy.save_adapter(2, 3, XL_ADAPTER, header, {}))
    toy.register(folder, "my-toy", toys.embedding_bytes(3, places=2))
    return folder


@pytest.fixture
def open_bundle(styles: Path) -> Iterator[OpenBundle]:
    opened: list[Pipeline] = []

    def open_(bundle: Path) -> Pipeline:
        opened.append(Pipeline.load(Settings(bundle, styles, "onnxruntime", "f32", threads=1)))
        return opened[-1]

    yield open_
    for pipeline in opened:
        pipeline.close()


def seen(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, request: Request) -> list[tuple[list[Row], Feeds]]:
    """The rows of every step of one request, and what the UNet was fed of them."""
    backbone, found = pipeline.family.backbones[BASE], list[tuple[list[Row], Feeds]]()
    feeds = backbone._feeds

    def note(rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
        fed = feeds(rows)
        found.append((list(rows), fed))
        return fed

    with monkeypatch.context() as patch:
        patch.setattr(backbone, "_feeds", note)
        pipeline.generate(request)
    return found


def said(row: Row) -> Embeds:
    """What the lane says at its timestep."""
    words: Staged = row.context.words
    return words.at(row.ask.timestep, 1000)


def encoders_fed(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, request: Request) -> list[Feeds]:
    """What each text encoder was fed, the first one first."""
    found: list[Feeds] = []
    with monkeypatch.context() as patch:
        for encoder in encoders(pipeline):
            (engine,) = encoder._engines

            def note(fed: Feeds, seats: Any, run: Callable[..., Any] = engine.run) -> Any:
                found.append(fed)
                return run(fed, seats)

            patch.setattr(engine, "run", note)
        pipeline.generate(request)
    return found


# SDXL's


def test_two_encoders_read_the_prompt_and_the_second_pools_it(
    xl: Path, open_bundle: OpenBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_bundle(xl)
    (rows, fed), *_ = seen(pipeline, monkeypatch, BOAT)
    assert [said(row).hidden.shape for row in rows] == [(toy.LENGTH, toy.WIDTH + toys.WIDTH_2)] * 2
    first, second = encoders_fed(pipeline, monkeypatch, altered(BOAT, prompt="a blue fish"))
    ids = first["input_ids"][0]
    np.testing.assert_array_equal(first["input_ids"], [[*ids[:5], 1]])
    np.testing.assert_array_equal(second["input_ids"], [[*ids[:5], toys.PAD_2]])  # a text of three, and its end
    assert fed["text_embeds"].shape == (2, toys.POOLED)


def test_every_row_is_told_the_size_of_its_picture(
    xl: Path, open_bundle: OpenBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Height before width; nothing cropped: of content, too."""
    pipeline = open_bundle(xl)
    file = BytesIO()
    Image.new("RGB", (90, 70), "red").save(file, "png")
    for request in (BOAT, altered(BOAT, image=file.getvalue(), strength=0.5)):
        for _, fed in seen(pipeline, monkeypatch, request):
            np.testing.assert_array_equal(fed["time_ids"], [[32, 64, 0, 0, 32, 64]] * 2)


@pytest.mark.parametrize(("negative", "zeros", "nothing"), [("", True, True), (" ", True, False), ("", False, False)])
def test_zeros_stand_for_no_negative_prompt_where_the_checkpoint_says_so(
    negative: str,
    zeros: bool,
    nothing: bool,
    tmp_path: Path,
    open_bundle: OpenBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = open_bundle(toys.write_xl(tmp_path / "xl", force_zeros_for_empty_prompt=zeros))
    ((null, cond), fed), *_ = seen(pipeline, monkeypatch, altered(BOAT, negative_prompt=negative))
    assert (not said(null).hidden.any()) == nothing
    assert (not fed["text_embeds"][0].any()) == nothing
    assert said(cond).hidden.any()


def test_an_embedding_has_vectors_for_each_encoder(
    xl: Path, styles: Path, open_bundle: OpenBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_bundle(xl)
    ((row,), _), *_ = seen(pipeline, monkeypatch, altered(BOAT, prompt="a <my-toy>", guidance_scale=1.0))
    rng = np.random.default_rng(3)
    first, second = np.split(said(row).hidden, [toy.WIDTH], axis=1)
    np.testing.assert_array_equal(first[2:4], rng.standard_normal((1, 2, toy.WIDTH)).astype(np.float32)[0])
    np.testing.assert_array_equal(second[2:4], rng.standard_normal((1, 2, toys.WIDTH_2)).astype(np.float32)[0])
    toy.register(styles, "half", toy.embedding_bytes())
    with pytest.raises(InvalidArgument, match="no vectors for text_encoder_2"):
        pipeline.generate(altered(BOAT, prompt="a <half>"))


def test_an_adapter_changes_what_both_encoders_say(
    xl: Path, open_bundle: OpenBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_bundle(xl)
    plain, neon, deep = (
        said(seen(pipeline, monkeypatch, altered(BOAT, adapters=adapters, guidance_scale=1.0))[0][0][0])
        for adapters in ((), (("neon", 1.0),), (("deep", 0.5),))
    )
    np.testing.assert_array_equal(neon.hidden, plain.hidden)
    changed = (deep.hidden != plain.hidden).any(axis=0)
    assert changed[: toy.WIDTH].any()
    assert changed[toy.WIDTH :].any()
    assert deep.pooled is not None
    assert plain.pooled is not None
    assert (deep.pooled != plain.pooled).any()


def test_unlike_requests_of_two_encoders_equal_their_solo_runs(xl: Path, open_bundle: OpenBundle) -> None:
    pipeline = open_bundle(xl)
    adapters = ((), (("deep", 0.5),), (("neon", 1.0),), (("deep", -0.3), ("neon", 0.4)))
    requests = [
        altered(BOAT, seed=seed, adapters=adapters[seed % 4], negative_prompt=("", "blurry")[seed % 2])
        for seed in range(8)
    ]
    alone = [pixels(pipeline.generate(one)) for one in requests]
    for expected, result in zip(alone, together(pipeline, requests), strict=True):
        assert np.abs(pixels(result) - expected).max() <= 1


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"tokenizer_2": None}, "graph text_encoder_2 and tokenizer_2 belong together, but one of them is missing"),
        ({"tokenizer_2": {**toys.TOKENIZER_2, "file": "lost.json"}}, "lacks lost.json; link the checkpoint again"),
        ({"defaults": {"scheduler": "heun"}}, "defaults.scheduler is 'heun', not one of ddim, dpmpp_2m, euler,"),
        ({"defaults": {"steps": 0}}, "defaults.steps: Input should be greater than or equal to 1"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(changed: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=why):
        families.open_bundle(toys.write_xl(tmp_path / "xl", **changed))


# LCM's


def test_guidance_is_told_and_one_lane_does(
    lcm: Path, open_bundle: OpenBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_bundle(lcm)
    steps = seen(pipeline, monkeypatch, LCM)
    assert [len(rows) for rows, _ in steps] == [1] * 4
    for _, fed in steps:
        np.testing.assert_array_equal(fed["timestep_cond"], scale_embeddings([8.5], toys.TOLD))
    assert pipeline.generate(LCM).image != pipeline.generate(altered(LCM, guidance_scale=2.0)).image


def test_a_ramp_is_told_step_by_step(lcm: Path, open_bundle: OpenBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = seen(open_bundle(lcm), monkeypatch, altered(LCM, guidance_scale=7.0, guidance_ramp=True))
    assert [rows[0].context.scale_at(rows[0].ask) for rows, _ in steps] == [1.0, 3.0, 5.0, 7.0]


def test_unlike_scales_share_a_batch(lcm: Path, open_bundle: OpenBundle) -> None:
    pipeline = open_bundle(lcm)
    requests = [altered(LCM, seed=seed, guidance_scale=float(seed)) for seed in range(8)]
    alone = [pixels(pipeline.generate(one)) for one in requests]
    for expected, result in zip(alone, together(pipeline, requests), strict=True):
        assert np.abs(pixels(result) - expected).max() <= 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"guidance": "styledrop", "style": ("neon",)}, "GUIDANCE: styledrop combines several lanes, but this"),
        (
            {"guidance": "dreamstyler", "style": ("sks",)},
            "GUIDANCE: dreamstyler combines several lanes, but this backbone",
        ),
        (
            {"negative_prompt": "blurry"},
            "NEGATIVE_PROMPT: means nothing to this backbone, which has built-in guidance",
        ),
        ({"steps": 21}, "STEPS: 21 is more than lcm's 20 timesteps; pass at most 20"),
        (
            {"steps": 4, "image": PICTURE, "strength": 0.1},
            "STRENGTH: 0.1 of lcm's 20 timesteps is 2, but STEPS is 4; pass at least 0.2, or fewer STEPS",
        ),
    ],
)
def test_what_cannot_be_told_is_refused(
    changed: Any, message: str, lcm: Path, styles: Path, open_bundle: OpenBundle
) -> None:
    toy.register(styles, "sks", toy.embedding_bytes())
    pipeline = open_bundle(lcm)
    with pytest.raises(InvalidArgument, match=f"^{message}"):
        pipeline.generate(altered(LCM, **changed))
    assert pipeline.generate(LCM).image


def test_a_bundles_defaults_are_its_requests(lcm: Path, xl: Path, tmp_path: Path) -> None:
    boat = {"PROMPT": np.array(["a boat"], np.object_)}
    told = parse(boat, offer_of(families.open_bundle(lcm).manifest), FIELDS)
    assert (told.sampling.scheduler, told.sampling.steps, told.strengths["GUIDANCE_SCALE"]) == ("lcm", 4, 8.5)
    said = {"SCHEDULER": np.array(["ddim"], np.object_), "STEPS": np.array([7], np.int32)}
    all_of_it = {**boat, **said, "GUIDANCE_SCALE": np.array([2], np.float32)}
    asked = parse(all_of_it, offer_of(families.open_bundle(lcm).manifest), FIELDS)
    assert (asked.sampling.scheduler, asked.sampling.steps, asked.strengths["GUIDANCE_SCALE"]) == ("ddim", 7, 2.0)
    plain = parse(boat, offer_of(families.open_bundle(xl).manifest), FIELDS)
    assert (plain.sampling.scheduler, plain.sampling.steps, plain.strengths["GUIDANCE_SCALE"]) == ("dpmpp_2m", 25, 3.0)
    turbo = toys.write_xl(tmp_path / "turbo", defaults={"steps": 1, "guidance_scale": 0.0})
    quick = parse(boat, offer_of(families.open_bundle(turbo).manifest), FIELDS)
    assert (quick.sampling.scheduler, quick.sampling.steps, quick.strengths["GUIDANCE_SCALE"]) == ("dpmpp_2m", 1, 0.0)


def test_the_noise_on_the_way_is_the_seeds(lcm: Path, open_bundle: OpenBundle) -> None:
    """Behind that of the initial latents, and of nobody beside it."""
    pipeline = open_bundle(lcm)
    for scheduler in ("lcm", "euler_a"):
        request = altered(LCM, scheduler=scheduler)
        alone = pipeline.generate(request).image
        crowd = together(pipeline, [altered(request, seed=9), request, altered(request, steps=7)])
        assert isinstance(crowd[1], Result)
        assert np.abs(pixels(crowd[1]) - np.asarray(Image.open(BytesIO(alone)), np.int64)).max() <= 1
        assert pipeline.generate(altered(request, seed=4)).image != alone


def test_the_bundles_manifest_is_read_as_written(xl: Path) -> None:
    written = json.loads((xl / "manifest.json").read_text())
    manifest = families.open_bundle(xl).manifest
    assert manifest.text_encoders["text_encoder_2"].pad_id == written["tokenizer_2"]["pad_id"] == toys.PAD_2
    assert manifest.embedding_widths == {"text_encoder": toy.WIDTH, "text_encoder_2": toys.WIDTH_2}
