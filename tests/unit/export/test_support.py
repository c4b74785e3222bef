"""What no graph can be exported for is named by the config that says so, before torch is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from impasto_export import matching, support
from impasto_export.architecture import SHIPPED
from impasto_export.errors import GraphError
from tests.helpers import checkpoints, reduced


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
            r"in_channels is 9 .*latent_channels is 4, .* \(inpainting\)",
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
        ("sdxl", "unet", {"addition_time_embed_dim": "8"}, "with a pooled text of .* and 8 per number not 6 numbers"),
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
