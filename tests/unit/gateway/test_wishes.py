"""Requests as they come over HTTP, and what a client is then asked for."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest

from impasto_client import NamedGuidance
from impasto_gateway.errors import Refusal
from impasto_gateway.settings import Limits
from impasto_gateway.wish import Wish
from impasto_gateway.wishes import Files, wish_of
from impasto_gateway.words import KINDS
from tests.helpers.gateways import CATALOGUE, SMALL, png

LIMITS = Limits()


def wished(files: Files | None = None, edits: bool = False, limits: Limits = LIMITS, **said: Any) -> Wish:
    return wish_of({"prompt": "a boat", **said}, files or {}, CATALOGUE, limits, edits)


def refused(files: Files | None = None, edits: bool = False, limits: Limits = LIMITS, **said: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        wished(files, edits, limits, **said)
    return caught.value


def photo(files: Files | None = None, **said: Any) -> Wish:
    """Of a photo, in the model for photos."""
    return wish_of({"model": "stylizer", **said}, {"image": [png()], **(files or {})}, CATALOGUE, LIMITS, edits=True)


def test_a_prompt_alone_is_enough() -> None:
    wish = wished()
    assert (wish.kind, wish.prompt, wish.bundle) == ("generate", "a boat", "studio")
    assert wish.options == {"format": "png", "model": "studio"}
    assert (wish.size, wish.pixels, wish.steps, wish.timeout_s) == ((128, 128), 128 * 128, 25, 300.0)
    assert (wish.stream, wish.partial_images, wish.metadata, wish.warnings, wish.revised) == (False, 0, True, (), None)


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ({"num_inference_steps": 12}, {"steps": 12}),
        ({"steps": 12, "seed": 7, "negative_prompt": "fog"}, {"steps": 12, "seed": 7, "negative_prompt": "fog"}),
        ({"size": "128x64"}, {"width": 128, "height": 64}),
        ({"size": "auto", "width": 128}, {"width": 128}),
        ({"output_format": "webp", "n": 4}, {"format": "webp", "n": 4}),
        ({"guidance_scale": 7.5, "guidance_ramp": True}, {"guidance_scale": 7.5, "guidance_ramp": True}),
        ({"upscale_steps": 4, "temperature": 2}, {"upscale_steps": 4, "temperature": 2}),
        ({"seed": None, "steps": None}, {}),
    ],
)
def test_words_become_options(said: dict[str, Any], options: dict[str, Any]) -> None:
    assert wished(**said).options == {"format": "png", "model": "studio", **options}


@pytest.mark.parametrize(
    ("said", "adapters", "style"),
    [
        ({"adapters": "neon"}, {"neon": 1.0}, None),
        ({"adapters": {"neon": 0.8, "glass": -1}}, {"neon": 0.8, "glass": -1}, None),
        ({"adapters": ["glass", {"name": "neon", "weight": 0.8}]}, {"glass": 1.0, "neon": 0.8}, None),
        ({"prompt": "a boat <lora:neon:0.8>"}, {"neon": 0.8}, None),
        ({"style": "sks03"}, None, ["sks03"]),
        ({"style": ["sks03", "sks03"]}, None, ["sks03", "sks03"]),
        ({"style": "neon"}, {"neon": 1.0}, None),
        ({"style": {"neon": 0.5}}, {"neon": 0.5}, None),
        ({"adapters": ["neon:0.5", "glass"]}, {"neon": 0.5, "glass": 1.0}, None),
        ({"adapters": {"sks03": 1}}, None, ["sks03"]),
        ({"style": "unknown"}, None, ["unknown"]),
        ({"adapters": "unknown"}, {"unknown": 1.0}, None),
        ({"model": "studio:neon"}, {"neon": 1.0}, None),
        ({"model": "studio:sks03"}, None, ["sks03"]),
        ({"model": "studio:neon", "adapters": {"glass": 0.5}}, {"glass": 0.5, "neon": 1.0}, None),
        ({"style": "neon", "guidance": "styledrop"}, None, ["neon"]),
        ({"model": "studio:neon", "guidance": "styledrop"}, None, ["neon"]),
        ({"adapters": {}, "style": []}, None, None),
    ],
)
def test_an_adapter_goes_where_its_kind_belongs(said: dict[str, Any], adapters: Any, style: Any) -> None:
    options = wished(**said).options
    assert (options.get("adapters"), options.get("style")) == (adapters, style)


@pytest.mark.parametrize(
    ("said", "guidance"),
    [
        (
            {"guidance": "styledrop", "style_strength": 3, "style": "neon"},
            NamedGuidance("styledrop", {"style_strength": 3}),
        ),
        ({"style_strength": 3, "style": "neon"}, NamedGuidance("styledrop", {"style_strength": 3})),
        ({"gamma": 0.3, "content": "glass"}, NamedGuidance("styledrop-compose", {"gamma": 0.3})),
        (
            {"guidance": "dreamstyler", "guidance_scale": 4, "style_guidance": 1},
            NamedGuidance("dreamstyler", {"guidance_scale": 4, "style_guidance": 1}),
        ),
        ({"guidance_scale": 4}, None),
    ],
)
def test_strengths_go_to_their_rule(said: dict[str, Any], guidance: Any) -> None:
    options = wished(**said).options
    assert options.get("guidance") == guidance
    assert ("guidance_scale" in options) == (guidance is None)


def test_a_model_alias_says_the_words_of_its_adapter() -> None:
    assert wished(model="studio:neon").prompt == "a boat, neon lights"
    assert wished(model="studio:neon", prompt="neon lights at night").prompt == "neon lights at night"
    glass = wished(model="studio:glass")
    assert (glass.prompt, glass.revised) == ("a boat of stained glass", "a boat of stained glass")


@pytest.mark.parametrize("model", ["gpt-image-1", "gpt-image-2.5-sunburst", "dall-e-3", "chatgpt-image-latest"])
def test_models_that_clients_hard_code_mean_the_default(model: str) -> None:
    wish = wished(model=model)
    assert (wish.bundle, wish.warnings) == ("studio", (f"model: {model!r} is not here; 'studio' painted",))


def test_what_has_no_effect_is_said() -> None:
    said: dict[str, Any] = {
        "quality": "high",
        "user": "me",
        "response_format": "url",
        "style": "vivid",
        "background": "transparent",
    }
    fields = [warning.split(":")[0] for warning in wished(**said).warnings]
    assert sorted(fields) == ["background", "quality", "response_format", "style", "user"]


def test_what_asks_for_nothing_is_passed_over() -> None:
    assert not wished(quality="auto", background="opaque", response_format="b64_json", moderation="auto").warnings


@pytest.mark.parametrize(
    ("said", "param", "problem"),
    [
        ({"stepz": 3}, "stepz", "did you mean 'steps'?"),
        ({"cfg_scale": 7}, "cfg_scale", "did you mean 'guidance_scale'?"),
        ({"steps": 3, "num_inference_steps": 4}, "num_inference_steps", "steps says the same"),
        ({"num_inference_steps": 3, "steps": 4}, "steps", "num_inference_steps says the same"),
        ({"prompt": None}, "prompt", "there is no word in it"),
        ({"prompt": "  "}, "prompt", "there is no word in it"),
        ({"prompt": "<lora:neon:1>"}, "prompt", "there is no word in it"),
        ({"prompt": ["a boat"]}, "prompt", "is no text"),
        ({"model": "studioo"}, "model", "did you mean 'studio'?"),
        ({"model": "studio:neo"}, "model", "did you mean 'studio:neon'?"),
        ({"model": 7}, "model", "'7' is not a name"),
        ({"model": "stylizer"}, "model", "paints photos"),
        ({"size": "1024"}, "size", "'1024' is no size"),
        ({"size": "64x64", "width": 64}, "size", "beside width or height"),
        ({"size": "512x520"}, "size", "too much for 'studio'; send at most 65536 in all, e.g. 128x128"),
        ({"adapters": "neon:much"}, "adapters", "'neon:much' is no adapter with a weight; send NAME or NAME:0.5"),
        ({"style": ":0.5"}, "style", "is no adapter with a weight"),
        ({"width": 60000}, "width", "60000 x 128 pixels is too much"),
        ({"width": 0}, "width", "width: got 0; send a whole number from 1 to 65536"),
        ({"width": 64.0}, "width", "got 64.0; send a whole number"),
        ({"n": 17}, "n", "n: got 17; send a whole number from 1 to 16"),
        ({"n": "0"}, "n", 'n: got "0"; send a whole number'),
        ({"n": True}, "n", "got true; send a whole number"),
        ({"output_format": "gif"}, "output_format", "'gif' is not written here; send png, jpeg, webp"),
        ({"guidance": "magic"}, "guidance", "'magic' is no rule"),
        ({"guidance": "cfg", "gamma": 1}, "gamma", "send guidance styledrop-compose"),
        ({"style_guidance": 1, "gamma": 1}, "style_guidance", "belong to different guidance rules"),
        ({"adapters": 7}, "adapters", "'7' names no adapters"),
        ({"adapters": [{"name": "neon", "strength": 1}]}, "adapters", "is no adapter"),
        ({"adapters": ["neon", "neon"]}, "adapters", "'neon' is named twice"),
        ({"adapters": "neon", "prompt": "a boat <lora:neon:1>"}, "prompt", "'neon' is named twice"),
        ({"adapters": {str(i): 1 for i in range(10_000)}}, "adapters", "more than 8"),
        ({"adapters": {"sks03": 0.5}}, "adapters", "'sks03' takes no weight here"),
        ({"partial_images": 3}, "partial_images", "send stream true, too"),
        ({"progress": True}, "progress", "send stream true, too"),
        ({"partial_images": 4, "stream": True}, "partial_images", "from 0 to 3"),
        ({"stream": "yes"}, "stream", "'yes' is neither true nor false"),
        ({"timeout": 0}, "timeout", "'0' is no time"),
        ({"timeout": 301}, "timeout", "at most 300"),
        ({"detail": 2}, "detail", "'studio' paints no photos"),
        ({"upscale": True}, "upscale", "send one to /v1/images/edits"),
        ({"image": "not base64!"}, "image", "it is not base64"),
        ({"image": base64.b64encode(b"GIF89a").decode()}, "image", "no PNG, JPEG or WebP"),
        ({"preview_every": 5}, "preview_every", "there is no such field"),
    ],
)
def test_a_fault_is_told_with_its_field(said: dict[str, Any], param: str, problem: str) -> None:
    refusal = refused(**said)
    assert (refusal.status, refusal.param) == (404 if param == "model" and "mean" in problem else 400, param)
    assert refusal.message.startswith(f"{param}: ")
    assert problem in refusal.message


@pytest.mark.parametrize("word", sorted(word for word, kind in KINDS.items() if kind == "picture"))
def test_a_list_without_pictures_is_refused(word: str) -> None:
    said: dict[str, Any] = {"prompt": "a boat", word: []}
    refusal = refused(**said)
    assert (refusal.status, refusal.param) == (400, word)


def test_limits_hold() -> None:
    assert "more than 64 bytes" in refused(limits=SMALL, prompt="é" * 33).message
    assert "more than 64 bytes" in refused(limits=SMALL, negative_prompt="a" * 65).message
    assert "more than 2" in refused(limits=SMALL, adapters={"a": 1, "b": 1, "c": 1}).message
    assert "200 x 100 pixels" in refused({"image": [png(200, 100)]}, True, limits=SMALL).message


def test_pictures_cost_their_pixels() -> None:
    assert wished(size="128x64", n=4).pixels == 4 * 128 * 64
    assert wished(upscale_steps=0).pixels == 64 * 64  # without its second stage
    assert photo(size="96x96").pixels == 96 * 64


def test_a_picture_is_painted_anew() -> None:
    wish = wished({"image": [png()]}, edits=True, strength=0.5)
    assert (wish.kind, wish.options["image"], wish.options["strength"]) == ("generate", png(), 0.5)
    assert wish.steps == 12


def test_a_picture_is_painted_larger() -> None:
    wish = wished({"image": [png()]}, edits=True, upscale=True)
    assert (wish.kind, wish.options["picture"]) == ("upscale", png())
    assert "image" not in wish.options


def test_a_picture_may_come_in_base64() -> None:
    text = base64.b64encode(png()).decode()
    assert wished(image=text).options["image"] == png()
    assert wished(image=f"data:image/png;base64,{text}").options["image"] == png()


def test_a_photo_is_painted_in_styles() -> None:
    wish = photo(style={"starry": 0.6, "wave": 0.4}, strength=0.8, long_side=96)
    assert (wish.kind, wish.prompt, wish.size) == ("stylize", "", (96, 64))
    assert wish.options == {
        "photo": png(),
        "style": [("starry", 0.6), ("wave", 0.4)],
        "strength": 0.8,
        "long_side": 96,
        "format": "png",
        "model": "stylizer",
    }


@pytest.mark.parametrize(
    ("said", "style"),
    [
        ({}, None),
        ({"style": "starry"}, ["starry"]),
        ({"adapters": ["starry", "wave"]}, ["starry", "wave"]),
        ({"prompt": "<lora:starry:0.5>"}, [("starry", 0.5)]),
        ({"model": "stylizer:starry"}, ["starry"]),
        ({"model": "stylizer:starry", "style": "wave"}, ["wave"]),
    ],
)
def test_a_photos_style_may_be_named_in_many_ways(said: dict[str, Any], style: Any) -> None:
    assert photo(**said).options.get("style") == style


def test_further_pictures_of_a_photo_are_styles() -> None:
    painting = png(colour="blue")
    wish = photo({"image": [png(), painting]}, style={"starry": 0.5}, style_image_weights=[0.25])
    assert wish.options["style"] == [("starry", 0.5), (painting, 0.25)]


def test_masks_are_of_all_or_of_each_style() -> None:
    one, other = png(colour="white"), png(colour="black")
    assert photo({"mask": [one]}, style="starry").options["mask"] == one
    wish = photo({"mask": [one, other]}, style=["starry", "wave"])
    assert wish.options["regions"] == [("starry", one), ("wave", other)]
    assert "style" not in wish.options


def test_a_photo_needs_no_words_and_keeps_its_shape() -> None:
    assert photo(prompt="a boat", size="128x128").warnings == (
        "size: the photo keeps its shape; its longer side is 128 pixels",
        "prompt: this model paints photos without words",
    )


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"seed": 7}, "seed"),
        ({"num_inference_steps": 7}, "num_inference_steps"),
        ({"n": 2}, "n"),
        ({"width": 64}, "width"),
        ({"style_image_weights": [1]}, "style_image_weights"),
        ({"style": ["starry", "starry"]}, "style"),
    ],
)
def test_a_photo_is_not_asked_for_what_it_cannot_have(said: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as caught:
        photo(**said)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("files", "param"),
    [({}, "image"), ({"image": [png(), png()]}, "image"), ({"image": [b""]}, "image"), ({"photo": [png()]}, "photo")],
)
def test_edits_need_one_picture(files: Files, param: str) -> None:
    assert refused(files, edits=True).param == param


def test_a_mask_needs_a_model_for_photos() -> None:
    assert refused({"image": [png()], "mask": [png()]}, edits=True).param == "mask"


@pytest.mark.parametrize(
    ("said", "wire", "word"),
    [
        ({"num_inference_steps": 3}, "STEPS", "num_inference_steps"),
        ({"steps": 3}, "STEPS", "steps"),
        ({"size": "64x64"}, "WIDTH", "size"),
        ({"output_format": "png"}, "FORMAT", "output_format"),
        ({"model": "studio:neon"}, "ADAPTER_NAMES", "model"),
        ({"prompt": "a <lora:neon:9>"}, "ADAPTER_WEIGHTS", "prompt"),
        ({"style": "neon"}, "ADAPTER_NAMES", "style"),
    ],
)
def test_the_callers_word_for_a_field_is_kept(said: dict[str, Any], wire: str, word: str) -> None:
    assert wished(**said).names[wire] == word


@pytest.mark.parametrize(
    ("said", "painted"),
    [
        ("256x256", (256, 256)),
        ("1024x1024", (256, 256)),
        ("1536x1024", (312, 208)),
        ("1024x1792", (192, 336)),
    ],
)
def test_sizes_that_others_offer_are_painted_as_large_as_they_can_be(said: str, painted: tuple[int, int]) -> None:
    wish = wished(size=said)
    assert (wish.options["width"], wish.options["height"]) == wish.size == painted
    smaller = f"size: 'studio' can't paint {said}; painted at {painted[0]}x{painted[1]}"
    assert wish.warnings == (() if said == "256x256" else (smaller,))


def test_a_style_with_its_weight_as_commands_have_it() -> None:
    assert photo(style="wave:0.5").options["style"] == [("wave", 0.5)]
    assert photo(style=["wave:0.5", "starry:0.25"]).options["style"] == [("wave", 0.5), ("starry", 0.25)]


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({}, "style"),
        ({"style": "wave"}, "style"),
        ({"adapters": "wave"}, "adapters"),
        ({"prompt": "<lora:wave>"}, "prompt"),
        ({"model": "stylizer:wave"}, "model"),
    ],
)
def test_a_photos_styles_are_what_the_caller_called_them(said: dict[str, Any], word: str) -> None:
    names = photo(**said).names
    assert (names["ADAPTER_NAMES"], names["ADAPTER_WEIGHTS"]) == (word, word)


def test_what_only_other_models_do() -> None:
    mask = refused({"image": [png()], "mask": [png()]}, edits=True)
    assert mask.message == "mask: 'studio' paints the whole picture anew, and takes no mask; leave it out"
    flat = replace(CATALOGUE, bundles=tuple(replace(one, stages=("base",)) for one in CATALOGUE.bundles))
    with pytest.raises(Refusal, match="'studio' has no second stage that paints a picture larger") as caught:
        wish_of({"prompt": "a boat", "upscale": True}, {"image": [png()]}, flat, LIMITS, edits=True)
    assert caught.value.param == "upscale"
    assert wished({"image": [png()]}, edits=True, upscale=True).names["BASE_IMAGE"] == "image"
