"""What no graph can be exported for is named by the config that says so, before torch is asked."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from impasto_export import matching, support
from impasto_export.architecture import SHIPPED
from impasto_export.errors import GraphError
from impasto_export.tracing.upscaler import MuseUpscaler
from tests.helpers import cascades, checkpoints, reduced


@pytest.mark.parametrize("name", reduced.PARTS)
def test_what_is_served_passes(name: str) -> None:
    support.check(reduced.configs(name))


@pytest.mark.parametrize(
    ("name", "part", "changes", "message"),
    [
        (
            "sd1",
            "unet",
            {"in_channels": 9},
            r"in_channels is 9, but .*latent_channels is 4, .* \(inpainting\)",
        ),
        ("sd1", "unet", {"in_channels": 8}, "takes the picture to be edited beside the sample"),
        ("sd1", "unet", {"class_embed_type": "projection"}, r"class_embed_type is 'projection', .*unCLIP"),
        ("sd1", "unet", {"num_class_embeds": 1000}, "num_class_embeds is 1000, .*upscalers"),
        ("sd1", "unet", {"encoder_hid_dim_type": "image_proj"}, r"encoder_hid_dim_type is 'image_proj', .*Kandinsky"),
        (
            "sd1",
            "unet",
            {"addition_embed_type": "image"},
            "'image', and there is no text_encoder_2; SDXL",
        ),
        ("sd1", "unet", {"addition_embed_type": "text_time"}, "'text_time', and there is no text_encoder_2"),
        ("sdxl", "unet", {"addition_embed_type": None}, "None, and there is a text_encoder_2"),
        (
            "sdxl",
            "unet",
            {"projection_class_embeddings_input_dim": 60},
            "SDXL's refiner, .*aesthetic",
        ),
        ("sdxl", "unet", {"addition_time_embed_dim": "8"}, "a pooled text of .* and 6 numbers of 8 each are served"),
        ("sd1", "unet", {"_class_name": "UNet3DConditionModel"}, "unet is a UNet3DConditionModel; only UNet2DCond"),
        ("sd1", "vae", {"_class_name": "AutoencoderTiny"}, "vae is a AutoencoderTiny; only AutoencoderKL"),
        ("sd1", "text_encoder", {"architectures": ["T5EncoderModel"]}, "text_encoder is a T5EncoderModel"),
        ("sd1", "text_encoder", {"architectures": ["CLIPTextModelWithProjection"]}, "in a diffusion checkpoint it is"),
    ],
)
def test_what_is_not_is_named_in_a_sentence(name: str, part: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError, match=message) as raised:
        support.check(reduced.configs(name, **{part: changes}))
    assert str(raised.value).startswith(f"{part}")
    assert "\n" not in str(raised.value)


def test_linking_says_it_too_and_does_not_advise_to_export(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="inpainting"):
        matching.match(reduced.configs("sd1", unet={"in_channels": 9}), [SHIPPED])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"addition_embed_type": "text_time"}, "addition_embed_type is 'text_time', so it is SDXL's"),
        ({"global_pool_conditions": True}, "global_pool_conditions is True"),
        ({"conditioning_channels": 1}, "conditioning_channels is 1; only 3 is exported: hints have 3 channels"),
    ],
)
def test_a_controlnet_stands_alone(changes: dict[str, Any], message: str) -> None:
    support.check({"controlnet": checkpoints.config("controlnet")})
    with pytest.raises(GraphError, match=message):
        support.check({"controlnet": {**checkpoints.config("controlnet"), **changes}})


def cascade(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    parts = (*checkpoints.MASKED, *cascades.STAGE)
    return {part: {**cascades.config(part), **changes.get(part, {})} for part in parts}


def test_a_second_stage_that_fits_passes() -> None:
    support.check(cascade())
    support.check(cascade(upscaler={"scale": 4}, upscaler_vqvae={"block_out_channels": [16, 32, 64]}))


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (
            "upscaler",
            {"low_vocab_size": 1024},
            r"low_vocab_size is 1024, transformer\.vocab_size 1088; they must be eq",
        ),
        ("transformer", {"vocab_size": 1100}, r"low_vocab_size is 1088, transformer\.vocab_size 1100"),
        ("upscaler", {"encoder_hidden_size": 64}, r"encoder_hidden_size is 64, text_encoder\.hidden_size 128"),
        ("upscaler_vqvae", {"num_vq_embeddings": 8}, r"codebook_size is 4096, upscaler_vqvae\.num_vq_embeddings 8"),
        ("upscaler", {"vocab_size": 4096}, "vocab_size is 4096 and codebook_size 4096; the mask needs an id"),
        ("upscaler", {"patch": 4}, "scale is 2 and patch 4; the patch must divide the scale"),
        ("upscaler", {"patch": 0}, "patch is 0; whole numbers of at least 1"),
        ("upscaler", {"num_layers": True}, "num_layers is True; whole numbers"),
        ("upscaler", {"vocab_size": None}, "vocab_size is None; whole numbers"),
        ("upscaler", {"num_attention_heads": 48}, "hidden_size is 256 and num_attention_heads 48; every head needs"),
        (
            "upscaler_vqvae",
            {"block_out_channels": [16]},
            "a token of upscaler_vqvae 1 pixels and one of vqvae 8, so the finished picture is 0.25 times as wide",
        ),
        ("upscaler", {"_class_name": "UVit2DModel"}, "upscaler is a UVit2DModel; only MuseUpscaler is served"),
        ("upscaler_vqvae", {"norm_type": "spatial"}, "upscaler_vqvae: norm_type is spatial; only group"),
    ],
)
def test_a_second_stage_that_does_not_fit_is_named(part: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        support.check(cascade(**{part: changes}))


def test_what_a_missing_key_of_a_second_stage_means() -> None:
    parameters = inspect.signature(MuseUpscaler.__init__).parameters.values()
    stated = {item.name: item.default for item in parameters if item.default is not inspect.Parameter.empty}
    assert stated == support.UPSCALER
