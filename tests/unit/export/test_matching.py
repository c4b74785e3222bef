"""Configs as other library versions wrote them still tell the architecture; what matters to the graph decides."""

from __future__ import annotations

from typing import Any

import pytest

from impasto_export import matching
from impasto_export.architecture import SHIPPED, Json, load, read_json
from impasto_export.errors import GraphError, UnknownArchitecture
from shipped import PUBLIC

BACKBONES = {path.name for path in PUBLIC.iterdir() if (path / "model_index.json").is_file()}


def configs(name: str, **changes: Json) -> dict[str, Json]:
    """A public backbone's, part by part."""
    parts = [path for path in (PUBLIC / name).iterdir() if path.is_dir()]
    return {path.name: {**read_json(path / "config.json"), **changes.get(path.name, {})} for path in parts}


def name_of(found: dict[str, Json]) -> str:
    return matching.match(found, [SHIPPED])[1].name


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_public_backbone_has_its_skeleton(name: str) -> None:
    assert name_of(configs(name)) == name


# What newer versions write of the same networks, and older ones left away.
NEWER: dict[str, Json] = {
    "text_encoder": {
        "_name_or_path": "somewhere",
        "attention_dropout": 0.0,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "initializer_factor": 1.0,
        "projection_dim": 512,
        "return_dict": True,
        "top_k": 50,
        "torch_dtype": "float16",
        "transformers_version": "4.46.0",
    },
    "unet": {
        "_diffusers_version": "0.31.0",
        "addition_embed_type": None,
        "addition_embed_type_num_heads": 64,
        "attention_head_dim": [8, 8, 8, 8],
        "attention_type": "default",
        "class_embed_type": None,
        "dropout": 0.1,
        "layers_per_block": [2, 2, 2, 2],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "only_cross_attention": [False] * 4,
        "reverse_transformer_layers_per_block": None,
        "time_embedding_type": "positional",
        "transformer_layers_per_block": 1,
        "upcast_attention": None,
        "use_linear_projection": None,
    },
    "vae": {
        "force_upcast": True,
        "latents_mean": None,
        "mid_block_add_attention": True,
        "scaling_factor": 0.13025,
        "shift_factor": None,
        "use_quant_conv": True,
    },
}


def test_what_other_versions_write_changes_nothing() -> None:
    assert name_of(configs("sd1", **NEWER)) == "sd1"


def test_what_older_versions_left_away_changes_nothing() -> None:
    """The first published config of the UNet had no `mid_block_scale_factor`, and transformers' defaults were ours."""
    found = configs("sd1")
    del found["unet"]["mid_block_scale_factor"], found["vae"]["scaling_factor"], found["text_encoder"]["vocab_size"]
    assert name_of(found) == "sd1"


def test_texts_end_at_the_highest_id_by_either_number() -> None:
    assert name_of(configs("sdxl", text_encoder_2={"eos_token_id": 49407})) == "sdxl"
    with pytest.raises(UnknownArchitecture, match=r"text_encoder_2.eos_token_id: checkpoint 3, architecture 2"):
        matching.match(configs("sdxl", text_encoder_2={"eos_token_id": 3}), [SHIPPED])


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("unet", "attention_head_dim", [8, 8, 8, 16]),
        ("unet", "use_linear_projection", True),
        ("text_encoder", "hidden_act", "gelu"),
        ("vae", "mid_block_add_attention", None),
    ],
)
def test_what_matters_to_the_graph_is_told_apart(part: str, key: str, value: Any) -> None:
    with pytest.raises(UnknownArchitecture, match=f"{part}.{key}: checkpoint"):
        matching.match(configs("sd1", **{part: {key: value}}), [SHIPPED])


# What diffusers' EMAModel leaves in the UNet's config.json, a key of a library to come, and what asks for nothing.
STRANGE = {
    "decay": 0.9999,
    "optimization_step": 37000,
    "use_ema_warmup": False,
    "_private": 1,
    "newly": [1],
    "old": None,
}


def test_what_the_class_does_not_know_is_ignored_and_named() -> None:
    found = configs("sd1", unet=STRANGE, vae={"wavelets": "haar"}, text_encoder={"newly": 1})
    _, made = matching.match(found, [SHIPPED])
    assert made.name == "sd1"
    assert matching.strangers(made, found) == (
        "unet: its config has decay, newly, optimization_step, which a UNet2DConditionModel does not know; ignored",
        "vae: its config has wavelets, which a AutoencoderKL does not know; ignored",
    )
    assert matching.strangers(made, configs("sd1", **NEWER)) == ()


def test_another_class_of_the_same_keys_is_told_apart() -> None:
    with pytest.raises(GraphError, match="unet is a UNetMotionModel; only UNet2DConditionModel is served"):
        matching.match(configs("sd1", unet={"_class_name": "UNetMotionModel"}), [SHIPPED])


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_an_encoder_that_is_told_of_padding_is_not_served(part: str) -> None:
    """diffusers' pipelines hand it the attention mask then; no weight tells it apart."""
    assert name_of(configs("sdxl", **{part: {"use_attention_mask": None}})) == "sdxl"
    with pytest.raises(GraphError, match=f"{part}: use_attention_mask is True; only False is exported: the encoder re"):
        matching.match(configs("sdxl", **{part: {"use_attention_mask": True}}), [SHIPPED])


def test_architectures_apart_are_the_families_apart() -> None:
    """So that no checkpoint fits two."""
    shipped = [load(path) for path in SHIPPED.iterdir()]
    for one in shipped:
        given = {part: {**component.config} for part, component in one.components.items()}
        alike = [other.name for other in shipped if other.components.keys() == given.keys()]
        fitting = [other for other in alike if not matching.differences(_named(shipped, other), given)]
        assert fitting == [one.name]


def _named(shipped: list[Any], name: str) -> Any:
    return next(found for found in shipped if found.name == name)
