from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from impasto_server.bundle import Manifest
from impasto_server.errors import InvalidArgument
from impasto_server.families.diffusion.manifest import DiffusionManifest
from impasto_server.families.diffusion.samplers import SAMPLERS
from impasto_server.families.masked.manifest import MaskedManifest
from impasto_server.families.masked.maskgit import ANNEALS
from impasto_server.families.offers import STREAM_FIELDS, offer_of
from impasto_server.guidance import ClassifierFree, Compose, DreamStyler, DreamStylerCode, StyleDrop
from impasto_server.offer import parse as parse_for
from impasto_server.pictures.content import MAX_BYTES
from impasto_server.request import Request
from impasto_server.values import MAX_SEED
from tests.helpers.asked import altered, request_of


def parse(tensors: Mapping[str, Any], manifest: Manifest) -> Request:
    return parse_for(tensors, offer_of(manifest), STREAM_FIELDS)


def text(*values: str | bytes) -> Any:
    return np.array([v.encode() if isinstance(v, str) else v for v in values], object)


def test_a_prompt_is_enough(manifest: Manifest) -> None:
    request = parse({"PROMPT": text("a red boat")}, manifest)
    assert (request.words.prompt, request.words.negative_prompt, request.styles.adapters) == ("a red boat", "", ())
    assert (request.sampling.steps, request.rule, request.sampling.scheduler) == (25, ClassifierFree(3.0), "dpmpp_2m")
    assert (request.size.width, request.size.height, request.answer.format) == (64, 64, "png")
    assert 0 <= request.seeds.seed < 2**32


def test_a_seed_is_drawn_anew_when_none_is_given(manifest: Manifest) -> None:
    assert len({parse({"PROMPT": text("a boat")}, manifest).seeds.seed for _ in range(8)}) > 1


def test_every_field_is_read(manifest: Manifest) -> None:
    request = parse(
        {
            "PROMPT": text("a réd boat"),
            "NEGATIVE_PROMPT": text("blurry"),
            "ADAPTER_NAMES": text("neon", "glass"),
            "ADAPTER_WEIGHTS": np.array([0.5, -1], np.float32),
            "STEPS": np.array([7], np.int32),
            "GUIDANCE_SCALE": np.array([1.5], np.float32),
            "SCHEDULER": text("euler"),
            "SEED": np.array([2**63 - 1], np.int64),
            "WIDTH": np.array([32], np.int32),
            "HEIGHT": np.array([48], np.int32),
            "FORMAT": text("webp"),
            "STYLE": text("sks03", "sks05"),
            "GUIDANCE": text("dreamstyler"),
            "STYLE_GUIDANCE": np.array([-2], np.float32),
            "CONTENT_GUIDANCE": np.array([0], np.float32),
            "IMAGE": text(b"\x89PNG"),
            "STRENGTH": np.array([0.5], np.float32),
            "DEPTH": text(b"\xff\xd8"),
            "CONTROL_SCALE": np.array([1.5], np.float32),
        },
        manifest,
    )
    assert request.words.prompt == "a réd boat"
    assert request.styles.adapters == (("neon", 0.5), ("glass", -1.0))
    assert (request.sampling.steps, request.sampling.scheduler) == (7, "euler")
    assert (request.seeds.seed, request.size.width, request.size.height) == (2**63 - 1, 32, 48)
    assert request.answer.format == "webp"
    assert (request.styles.style, request.rule) == (("sks03", "sks05"), DreamStyler(1.5, -2.0, 0.0))
    assert (request.content.image, request.content.strength, request.steps_to_run) == (b"\x89PNG", 0.5, 3)
    assert (request.content.depth, request.content.control_scale) == (b"\xff\xd8", 1.5)


def test_the_papers_constants_are_dreamstylers_defaults(manifest: Manifest) -> None:
    styled = {"PROMPT": text("a boat"), "STYLE": text("sks03")}
    assert parse(styled, manifest).rule == ClassifierFree(3.0)
    paper = parse({**styled, "GUIDANCE": text("dreamstyler")}, manifest)
    assert (paper.rule, paper.words.negative_prompt) == (DreamStyler(scale=5.0, style=0.5, content=3.0), "")
    code = parse({**styled, "GUIDANCE": text("dreamstyler-code")}, manifest)
    assert code.rule == DreamStylerCode(5.0, 0.5, 3.0)
    assert code.words.negative_prompt.startswith("low resolution, poorly drawn")


def test_a_content_image_is_steered_by_default_where_there_is_a_controlnet(manifest: Manifest) -> None:
    content = {"PROMPT": text("a boat"), "IMAGE": text(b"x")}
    assert parse(content, manifest).content.control_scale == 0.8
    assert parse(content, manifest.model_copy(update={"control": None})).content.control_scale == 0.0


STYLEDROP = {"STYLE": text("glass"), "GUIDANCE": text("styledrop")}
COMPOSED = {"STYLE": text("glass"), "CONTENT": text("cat"), "GUIDANCE": text("styledrop-compose")}


def one(value: float) -> Any:
    return np.array([value], np.float32)


def without(tensors: dict[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in tensors.items() if other != name}


def test_every_field_of_a_composition_is_read(masked_manifest: Manifest) -> None:
    request = parse(
        {
            "PROMPT": text("a boat"),
            **COMPOSED,
            "GAMMA": one(0.25),
            "STYLE_STRENGTH": one(-1.5),
            "TEXT_STRENGTH": one(7),
            "CONTENT_PROMPT": text("a toy"),
            "GUIDANCE_RAMP": np.array([True]),
            "SCHEDULER": text("amused"),
            "TEMPERATURE": one(0.5),
            "N": np.array([16], np.int32),
            "RERANK": text("style"),
            "STYLE_IMAGE": text(b"\x89PNG"),
        },
        masked_manifest,
    )
    assert (request.styles.style, request.styles.content, request.styles.content_prompt) == (("glass",), "cat", "a toy")
    assert request.rule == Compose(style_strength=-1.5, text_strength=7.0, gamma=0.25)
    assert (request.sampling.scheduler, request.sampling.ramp) == ("amused", True)
    assert request.own["TEMPERATURE"] == 0.5
    assert (request.seeds.n, request.ranking.rerank, request.ranking.style_image) == (16, "style", b"\x89PNG")
    assert request.styled_by_adapter


def test_what_nobody_asked_for_is_not_done(manifest: Manifest) -> None:
    request = parse({"PROMPT": text("a boat")}, manifest)
    assert (request.seeds.n, request.ranking.rerank, request.ranking.style_image) == (1, None, None)
    assert (request.styles.content, request.styles.content_prompt) == (None, None)
    assert (request.sampling.ramp, request.own, request.model) == (False, {}, "")


@pytest.mark.parametrize("sent", [STYLEDROP, COMPOSED])
def test_the_papers_constants_are_styledrops_defaults(sent: Any, manifest: Manifest, masked_manifest: Manifest) -> None:
    """λA 2, λB 5, γ 0.5 everywhere; 36 steps and τ 4.5 of the masked family's."""
    asked = {"PROMPT": text("a boat"), **sent}
    for facts in (manifest, masked_manifest):
        rule = parse(asked, facts).rule
        assert rule == (StyleDrop(2.0, 5.0) if sent is STYLEDROP else Compose(2.0, 5.0, 0.5))
    masked, diffusion = parse(asked, masked_manifest), parse(asked, manifest)
    assert (masked.sampling.scheduler, masked.sampling.steps) == ("maskgit", 36)
    assert masked.own["TEMPERATURE"] == 4.5
    assert (diffusion.sampling.scheduler, diffusion.sampling.steps) == ("dpmpp_2m", 25)


def test_amuseds_constants_are_the_masked_familys_defaults(masked_manifest: Manifest) -> None:
    request = parse({"PROMPT": text("a boat")}, masked_manifest)
    assert (request.sampling.scheduler, request.sampling.steps, request.own["TEMPERATURE"]) == ("amused", 12, 2.0)
    assert request.rule == ClassifierFree(10.0)
    dual = parse({"PROMPT": text("a boat"), **STYLED}, masked_manifest)
    assert (dual.sampling.scheduler, dual.sampling.steps, dual.rule) == ("amused", 12, DreamStyler(5.0, 0.5, 3.0))


def test_a_request_may_name_a_few_embeddings(manifest: Manifest) -> None:
    """Each is held in memory while it runs, and a prompt has room for thousands of names."""
    names = [f"sks{i}" for i in range(17)]
    spoken = " ".join(f"<{name}>" for name in names)
    few = " ".join(f"<{name}>" for name in names[:16])
    assert parse({"PROMPT": text(f"{few} {few}"), "STYLE": text(*names[:4] * 16)}, manifest).styles.style
    fix = "17 different embeddings; name at most 16 in a request"
    for sent, field in (
        ({"PROMPT": text(spoken)}, "PROMPT"),
        ({"PROMPT": text(few), "NEGATIVE_PROMPT": text("<sks16>")}, "PROMPT"),
        ({"PROMPT": text(few), "STYLE": text("sks16")}, "PROMPT"),
        ({"PROMPT": text("a boat"), "STYLE": text(*names)}, "STYLE"),
    ):
        with pytest.raises(InvalidArgument, match=f"^{field}: {fix}$"):
            parse(sent, manifest)


def test_a_style_may_be_a_mix_of_adapters(manifest: Manifest) -> None:
    mixed = {"PROMPT": text("a boat"), "GUIDANCE": text("styledrop"), "ADAPTER_NAMES": text("glass", "neon")}
    assert parse(mixed, manifest).styles.style == ()
    assert parse({**mixed, "STYLE": text("crayon")}, manifest).styles.style == ("crayon",)


def test_a_manifest_knows_the_schedulers_of_its_family() -> None:
    assert DiffusionManifest.schedulers == SAMPLERS.keys()
    assert MaskedManifest.schedulers == ANNEALS.keys()


def test_every_candidate_has_the_next_seed() -> None:
    assert request_of("a boat", 7, 64, 64, n=3).seeds.each == (7, 8, 9)
    assert request_of("a boat", MAX_SEED - 1, 64, 64, n=4).seeds.each == (MAX_SEED - 1, MAX_SEED, 0, 1)


STYLED = {"STYLE": text("sks03"), "GUIDANCE": text("dreamstyler")}
CONTENT = {"IMAGE": text(b"x")}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"GUIDANCE": text("dreamstyler")}, "STYLE: is missing, and GUIDANCE dreamstyler needs it"),
        ({"GUIDANCE": text("apg")}, "GUIDANCE: 'apg' is unknown; pass one of cfg, dreamstyler, dreamstyler-code"),
        ({"STYLE_GUIDANCE": np.array([1], np.float32)}, "STYLE_GUIDANCE: means nothing to GUIDANCE cfg"),
        ({"CONTENT_GUIDANCE": np.array([1], np.float32)}, "CONTENT_GUIDANCE: means nothing to GUIDANCE cfg"),
        ({**STYLED, "STYLE_GUIDANCE": np.array([np.nan], np.float32)}, "STYLE_GUIDANCE: nan is out of range"),
        ({**STYLED, "CONTENT_GUIDANCE": np.array([51], np.float32)}, "CONTENT_GUIDANCE: 51.0 is out of range"),
        ({"STYLE": text(*["sks03"] * 65)}, "STYLE: 65 stages; pass one name, or at most 64"),
        ({"STRENGTH": np.array([0.5], np.float32)}, "STRENGTH: means nothing without IMAGE"),
        ({"CONTROL_SCALE": np.array([0.5], np.float32)}, "CONTROL_SCALE: means nothing without IMAGE or DEPTH"),
        ({**CONTENT, "STRENGTH": np.array([0.01], np.float32)}, "STRENGTH: 0.01 of 25 steps is no step"),
        ({**CONTENT, "STRENGTH": np.array([1.5], np.float32)}, "STRENGTH: 1.5 is out of range"),
        ({**CONTENT, "CONTROL_SCALE": np.array([3], np.float32)}, "CONTROL_SCALE: 3.0 is out of range"),
        ({"DEPTH": text(b"x"), "CONTROL_SCALE": np.array([0], np.float32)}, "DEPTH: means nothing at CONTROL_SCALE 0"),
        (
            {"GUIDANCE": text("styledrop")},
            "STYLE: is missing, and GUIDANCE styledrop needs it; name an adapter",
        ),
        (without(COMPOSED, "STYLE"), "STYLE: is missing, and GUIDANCE styledrop-compose needs it; name the style's ad"),
        (
            without(COMPOSED, "CONTENT"),
            "CONTENT: is missing, and GUIDANCE styledrop-compose needs it; name",
        ),
        (
            {**COMPOSED, "ADAPTER_NAMES": text("neon")},
            "ADAPTER_NAMES: means nothing to GUIDANCE styledrop-compose; leave it out, or pass GUIDANCE cfg or",
        ),
        (
            {**STYLEDROP, "STYLE": text("glass", "neon")},
            "STYLE: 2 names, and GUIDANCE styledrop takes the adapter of one style; name one, or mix",
        ),
        (
            {**STYLEDROP, "ADAPTER_NAMES": text("neon", "glass")},
            "ADAPTER_NAMES: 'glass' is named in STYLE, too; name it only here, with its whole weight",
        ),
        ({**STYLEDROP, "CONTENT": text("cat")}, "CONTENT: means nothing to GUIDANCE styledrop; leave it out, or pass"),
        ({**STYLEDROP, "CONTENT_PROMPT": text("a cat")}, "CONTENT_PROMPT: means nothing to GUIDANCE styledrop"),
        ({**STYLEDROP, "GAMMA": one(0.5)}, "GAMMA: means nothing to GUIDANCE styledrop"),
        ({**STYLEDROP, "GUIDANCE_SCALE": one(3)}, "GUIDANCE_SCALE: means nothing to GUIDANCE styledrop"),
        ({**STYLEDROP, "STYLE_GUIDANCE": one(1)}, "STYLE_GUIDANCE: means nothing to GUIDANCE styledrop"),
        ({**STYLED, "STYLE_STRENGTH": one(1)}, "STYLE_STRENGTH: means nothing to GUIDANCE dreamstyler"),
        ({"TEXT_STRENGTH": one(1)}, "TEXT_STRENGTH: means nothing to GUIDANCE cfg; leave it out, or pass GUIDANCE sty"),
        ({**STYLEDROP, "STYLE_STRENGTH": one(50.5)}, "STYLE_STRENGTH: 50.5 is out of range; pass a finite number from"),
        ({**STYLEDROP, "TEXT_STRENGTH": one(np.nan)}, "TEXT_STRENGTH: nan is out of range"),
        ({**COMPOSED, "GAMMA": one(-0.5)}, "GAMMA: -0.5 is out of range; pass a finite number from 0 to 1"),
        ({**COMPOSED, "GAMMA": one(1.5)}, "GAMMA: 1.5 is out of range; pass a finite number from 0 to 1"),
        ({**COMPOSED, "GAMMA": one(np.nan)}, "GAMMA: nan is out of range"),
        ({"TEMPERATURE": one(2)}, "TEMPERATURE: means nothing to a diffusion backbone; leave it out"),
        ({"N": np.array([17], np.int32)}, "N: 17 is out of range; pass 1 to 16"),
        ({"N": np.array([0], np.int32)}, "N: 0 is out of range; pass 1 to 16"),
        ({"RERANK": text("best")}, "RERANK: 'best' is unknown; pass one of text, style"),
        ({"RERANK": text("")}, "RERANK: '' is unknown; pass one of text, style"),
        ({"RERANK": text("style")}, "STYLE_IMAGE: is missing, and RERANK style compares with it; pass a picture file"),
        ({"STYLE_IMAGE": text(b"x")}, "STYLE_IMAGE: means nothing without RERANK style; leave it out, or pass RERANK"),
        ({"STYLE_IMAGE": text(b"x"), "RERANK": text("text")}, "STYLE_IMAGE: means nothing without RERANK style"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(tensors: Any, message: str, manifest: Manifest) -> None:
    with pytest.raises(InvalidArgument, match=f"^{re.escape(message)}"):
        parse({"PROMPT": text("a boat"), **tensors}, manifest)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"TEMPERATURE": one(-1)}, "TEMPERATURE: -1.0 is out of range; pass a finite number from 0 to 100"),
        ({"TEMPERATURE": one(np.inf)}, "TEMPERATURE: inf is out of range"),
        ({"SCHEDULER": text("euler")}, "SCHEDULER: 'euler' is unknown; pass one of maskgit, amused"),
        ({"DEPTH": text(b"x")}, "DEPTH: bundle 'toy-masked' has no ControlNet"),
    ],
)
def test_what_a_masked_backbone_cannot_do_is_refused(tensors: Any, message: str, masked_manifest: Manifest) -> None:
    with pytest.raises(InvalidArgument, match=f"^{re.escape(message)}"):
        parse({"PROMPT": text("a boat"), **tensors}, masked_manifest)


@pytest.mark.parametrize("field", ["CONTROL_SCALE", "DEPTH"])
def test_a_bundle_without_a_controlnet_cannot_be_steered(field: str, manifest: Manifest) -> None:
    bare = manifest.model_copy(update={"control": None})
    value = text(b"x") if field == "DEPTH" else np.array([0.5], np.float32)
    with pytest.raises(InvalidArgument, match=f"^{field}: bundle 'toy' has no ControlNet; link it with --controlnet"):
        parse({"PROMPT": text("a boat"), **CONTENT, field: value}, bare)


BAD: list[tuple[str, Any, str]] = [
    ("PROMPT", text(""), "say what to paint"),
    ("PROMPT", text(" \n"), "say what to paint"),
    ("PROMPT", text(b"\xff\xfe"), "UTF-8"),
    ("PROMPT", text("x" * 100_000), "at most 8192"),
    ("PROMPT", text("a", "b"), "exactly one"),
    ("STEPS", np.array([0], np.int32), "pass 1 to 200"),
    ("STEPS", np.array([10_000], np.int32), "pass 1 to 200"),
    ("STEPS", np.array([2.5], np.float32), "'2.5' is float; pass a whole number"),
    ("SEED", np.array([2.0], np.float32), "'2.0' is float; pass a whole number"),
    ("STEPS", np.array([True]), "'True' is bool; pass a whole number"),
    ("STEPS", text(b"4"), "is bytes; pass a whole number"),
    ("GUIDANCE_SCALE", text(b"4"), "is bytes; pass a number"),
    ("GUIDANCE_RAMP", np.array([2.5], np.float32), "'2.5' is float; pass True or False"),
    ("IMAGE", np.array([2.5], np.float32), "'2.5' is float; pass an encoded picture"),
    ("GUIDANCE_SCALE", np.array([np.nan], np.float32), "finite"),
    ("GUIDANCE_SCALE", np.array([51], np.float32), "0 to 50"),
    ("SCHEDULER", text("heun"), "ddim, dpmpp_2m, euler, euler_a, lcm, unipc"),
    ("SEED", np.array([-1], np.int64), "pass 0 to"),
    ("WIDTH", np.array([60], np.int32), "pass 48 or 64"),
    ("HEIGHT", np.array([3], np.int32), "pass 16 or 32"),
    ("WIDTH", np.array([4096], np.int32), "at most 16384 pixels"),
    ("FORMAT", text("gif"), "png, jpeg, webp"),
    ("ADAPTER_NAMES", text("neon", "neon"), "name it once"),
    ("ADAPTER_NAMES", text(*(f"s{i}" for i in range(9))), "at most 8"),
    ("ADAPTER_WEIGHTS", np.array([1], np.float32), "one weight for each"),
    ("COLOUR", text("red"), "pass only"),
]


@pytest.mark.parametrize(("field", "value", "fix"), BAD)
def test_bad_input_names_the_field_and_the_fix(field: str, value: Any, fix: str, manifest: Manifest) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse({"PROMPT": text("a boat"), field: value}, manifest)
    assert str(caught.value).startswith(f"{field}: ")
    assert fix in str(caught.value)


@pytest.mark.parametrize("weight", [np.nan, np.inf, 4.5, -5])
def test_a_weight_must_be_finite_and_in_range(weight: float, manifest: Manifest) -> None:
    tensors = {"PROMPT": text("a"), "ADAPTER_NAMES": text("neon"), "ADAPTER_WEIGHTS": np.array([weight], np.float32)}
    with pytest.raises(InvalidArgument, match="^ADAPTER_WEIGHTS: .* from -4 to 4"):
        parse(tensors, manifest)


def test_a_prompt_must_be_there(manifest: Manifest) -> None:
    with pytest.raises(InvalidArgument, match="^PROMPT: "):
        parse({}, manifest)


@pytest.mark.parametrize("field", ["IMAGE", "DEPTH", "STYLE_IMAGE"])
def test_a_file_that_is_too_large_is_refused_before_anything_is_made_of_it(field: str, manifest: Manifest) -> None:
    message = f"^{field}: 33554433 bytes is too large; pass at most 33554432 \\(32 MiB\\)$"
    with pytest.raises(InvalidArgument, match=message):
        parse({"PROMPT": text("a boat"), field: text(bytes(MAX_BYTES + 1))}, manifest)


def test_without_its_files_a_request_still_says_which_there_were(manifest: Manifest) -> None:
    request = parse({"PROMPT": text("a boat"), "IMAGE": text(b"x"), "STRENGTH": np.array([0.2], np.float32)}, manifest)
    left = request.without_files()
    assert left.files == (b"", None, None)
    assert left.steps_to_run == request.steps_to_run == 5
    assert altered(left, image=b"x") == request
