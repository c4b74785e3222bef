"""Every spelling of a layer's name leads to the one layer, in LoRAs, folders and single files; what leads to none is
said, with the nearest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from impasto_export import manifest, parameters, spellings
from impasto_export.adapters import importer, layers
from impasto_export.adapters.registry import Registry
from impasto_export.architecture import SHIPPED, load
from impasto_export.errors import UnaccountedKeys
from impasto_export.link import link
from impasto_export.merging.merge import merge
from tests.helpers import checkpoints, lora_files

UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
ORIGINAL = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
TEXT = "text_model.encoder.layers.1.self_attn.q_proj"
SHORT = "encoder.layers.1.self_attn.q_proj"
RANK, ALPHA = 3, 2.0
KOHYA, PEFT = ("lora_down.weight", "lora_up.weight"), ("lora_A.weight", "lora_B.weight")


def flat(path: str) -> str:
    return path.replace(".", "_")


# By who writes it so: what stands for the UNet's layer, for the text encoder's, and the endings.
FILES: Mapping[str, tuple[str, str, tuple[str, str]]] = {
    "diffusers": (f"unet.{UNET}", f"text_encoder.{TEXT}", PEFT),
    "diffusers, transformers 5.6": (f"unet.{UNET}", f"text_encoder.{SHORT}", PEFT),
    "diffusers, prefixed twice": (f"unet.unet.{UNET}", f"text_encoder.text_encoder.{TEXT}", PEFT),
    "diffusers before PEFT": (
        f"unet.{UNET.replace('to_q', 'processor.to_q_lora')}",
        f"text_encoder.{TEXT.replace('q_proj', 'to_q_lora')}",
        ("down.weight", "up.weight"),
    ),
    "diffusers, no prefix": (UNET, TEXT, ("lora.down.weight", "lora.up.weight")),
    "PEFT within a prefix": (f"unet.base_model.model.{UNET}", f"text_encoder.base_model.model.{SHORT}", PEFT),
    "PEFT, twice": (f"base_model.model.base_model.model.{UNET}", f"base_model.model.{TEXT}", PEFT),
    "PEFT, adapter named": (
        f"base_model.model.{UNET}",
        f"base_model.model.{TEXT}",
        ("lora_A.default.weight", "lora_B.default.weight"),
    ),
    "DDP": (f"module.unet.{UNET}", f"text_encoder.module.{TEXT}", PEFT),
    "torch.compile": (f"unet._orig_mod.{UNET}", f"_orig_mod.text_encoder.{TEXT}", PEFT),
    "torch.compile of blocks": (
        f"unet.{UNET.replace('.transformer', '._orig_mod.transformer')}",
        f"text_encoder.{TEXT.replace('layers.1', 'layers.1._orig_mod')}",
        PEFT,
    ),
    "checkpointed, in FSDP": (
        f"unet._fsdp_wrapped_module.{UNET.replace('.attn1', '._checkpoint_wrapped_module.attn1')}",
        f"text_encoder._fsdp_wrapped_module.{TEXT}",
        PEFT,
    ),
    "kohya": (f"lora_unet_{flat(UNET)}", f"lora_te_{flat(TEXT)}", KOHYA),
    "kohya, transformers 5.6": (f"lora_unet_{flat(UNET)}", f"lora_te1_{flat(SHORT)}", KOHYA),
    "kohya, original UNet": (f"lora_unet_{flat(ORIGINAL)}", f"lora_te1_{flat(TEXT)}", KOHYA),
    "kohya in DDP": (f"module.lora_unet_{flat(UNET)}", f"module.lora_te_{flat(TEXT)}", KOHYA),
    "kohya of a compiled model": (f"lora_unet__orig_mod_{flat(UNET)}", f"lora_te__orig_mod_{flat(TEXT)}", KOHYA),
    "kohya of compiled blocks": (
        f"lora_unet_{flat(UNET.replace('.attn1', '._orig_mod.attn1'))}",
        f"lora_te_{flat(TEXT.replace('layers.1', 'layers.1._orig_mod'))}",
        KOHYA,
    ),
    "kohya by diffusers' converter": (f"lora_unet_{flat(UNET)[:-5]}.to_q", f"lora_te1_{flat(TEXT)}", KOHYA),
    "merged with others": (f"diffusion_model_{flat(ORIGINAL)}", f"lora_te1_{flat(TEXT)}", KOHYA),
    "OneTrainer": (f"unet.{ORIGINAL}", f"clip_l.{TEXT}", KOHYA),
    "OneTrainer, before": (f"lora_unet.{UNET}", f"lora_te.{TEXT}", KOHYA),
    "ComfyUI": (f"diffusion_model.{ORIGINAL}", f"text_encoders.clip_l.transformer.{TEXT}", KOHYA),
    "ComfyUI, SD 2.x": (f"diffusion_model.{ORIGINAL}", f"text_encoders.clip_h.transformer.{TEXT}", KOHYA),
    "of a checkpoint": (f"model.diffusion_model.{ORIGINAL}", f"cond_stage_model.transformer.{SHORT}", PEFT),
    "LyCORIS": (f"lycoris_{flat(UNET)}", f"lycoris_{flat(TEXT)}", KOHYA),
}


@pytest.fixture(scope="module")
def bundle32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mini-diffusion in float32, so that a merged weight is as exact as it can be."""
    folder = tmp_path_factory.mktemp("float32")
    return link(checkpoints.save(folder / "checkpoint", 1, torch.float32), folder / "bundle").folder


def weight(bundle: Path, graph: str, module: str) -> np.ndarray[Any, Any]:
    found = parameters.of(bundle, manifest.load(bundle))[graph][f"{module}.weight"]
    return parameters.values(bundle, module, found).astype(np.float64)


@pytest.mark.parametrize("writer", FILES)
def test_the_weights_that_a_lora_means(writer: str, bundle32: Path, tmp_path: Path) -> None:
    """W + s·B·A in float64, for both of its layers: of some of these spellings libraries drop the text encoder's."""
    draw = np.random.default_rng(3)
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    expected: dict[tuple[str, str], np.ndarray[Any, Any]] = {}
    *names, (down, up) = FILES[writer]
    for (graph, module), name in zip((("unet", UNET), ("text_encoder", TEXT)), names, strict=True):
        base = weight(bundle32, graph, module)
        a, b = (
            draw.standard_normal(size).astype(np.float32) for size in ((RANK, base.shape[1]), (base.shape[0], RANK))
        )
        tensors |= {f"{name}.{down}": a, f"{name}.{up}": b, f"{name}.alpha": np.array(ALPHA, np.float32)}
        expected[graph, module] = base + ALPHA / RANK * (b.astype(np.float64) @ a.astype(np.float64))
    file, registry = lora_files.write(tmp_path / "x.safetensors", tensors), Registry(tmp_path / "registry")
    made = importer.convert(file, manifest.load(bundle32), bundle=bundle32)
    assert (made.record["kind"], made.record["sites"], made.record["source"]["assumed"]) == ("lora", 2, [])
    registry.put("style", made.data)
    merged = merge(bundle32, [("style", 1.0)], tmp_path / "merged", registry).folder
    for (graph, module), exact in expected.items():
        assert np.allclose(weight(merged, graph, module), exact, rtol=1e-5, atol=1e-6), f"{graph}.{module}"
        assert not np.allclose(weight(bundle32, graph, module), exact, rtol=1e-2, atol=1e-2), "it must matter"


ARCHITECTURES = [path.name for path in sorted(SHIPPED.iterdir()) if (path / "architecture.json").is_file()]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_two_layers_of_true_size_share_a_spelling(architecture: str) -> None:
    for graph, facts in load(SHIPPED / architecture).graphs.items():
        names = [site.name for site in facts.sites]
        found = spellings.spelled(graph, names)
        originals = spellings.originals(names) if graph == "unet" else str
        for spell in (str, originals, spellings.without_text_model if graph in spellings.ENCODERS else str):
            assert [found[flat(spell(name))] for name in names] == names


@pytest.mark.parametrize(
    ("name", "component", "path"),
    [
        ("lora_te2_text_model_encoder_layers_0", "text_encoder_2", "text_model_encoder_layers_0"),
        ("clip_g.text_model.encoder.layers.0", "text_encoder_2", "text_model.encoder.layers.0"),
        ("text_encoders.clip_g.transformer.encoder.layers.0", "text_encoder_2", "encoder.layers.0"),
        ("text_encoder_2.base_model.model.encoder.layers.0", "text_encoder_2", "encoder.layers.0"),
        ("conditioner.embedders.0.transformer.text_model.encoder", "text_encoder", "text_model.encoder"),
        ("lora_transformer_transformer_layers_0_attn1_to_q", "transformer", "transformer_layers_0_attn1_to_q"),
        ("transformer.transformer_layers.0.attn1.to_q", "transformer", "transformer_layers.0.attn1.to_q"),
        ("transformer_layers.0.attn1.to_q", None, "transformer_layers.0.attn1.to_q"),
        ("lycoris_down_blocks_0", None, "down_blocks_0"),
        ("unet.transformer.x", "unet", "transformer.x"),
    ],
)
def test_prefixes(name: str, component: str | None, path: str) -> None:
    assert spellings.component(name) == (component, path)


@pytest.mark.parametrize(
    ("names", "writer"),
    [
        (["unet.down_blocks.0.to_q"], "diffusers"),
        (["down_blocks.0.to_q"], "diffusers"),
        (["unet.input_blocks.0.to_q", "clip_l.text_model.x"], "onetrainer"),
        (["diffusion_model.input_blocks.0"], "original"),
        (["module.lora_unet_down_blocks_0"], "kohya"),
        (["lycoris_down_blocks_0"], "lycoris"),
    ],
)
def test_who_writes_names_like_these(names: list[str], writer: str) -> None:
    assert spellings.writer(names) == writer


@pytest.mark.parametrize(
    ("part", "name", "canonical"),
    [
        ("text_encoder", "final_layer_norm.bias", "text_model.final_layer_norm.bias"),
        ("text_encoder", "text_model.final_layer_norm.bias", "text_model.final_layer_norm.bias"),
        ("text_encoder", "module.final_layer_norm.bias", "text_model.final_layer_norm.bias"),
        ("text_encoder_2", "text_projection.weight", "text_projection.weight"),
        ("vae", "decoder.mid_block.attentions.0.proj_attn.bias", "decoder.mid_block.attentions.0.to_out.0.bias"),
        ("vae", "decoder.mid_block.attentions.0.to_out.0.bias", "decoder.mid_block.attentions.0.to_out.0.bias"),
        ("vqvae", "decoder.mid_block.attentions.0.query.weight", "decoder.mid_block.attentions.0.to_q.weight"),
        ("vae", "encoder.mid_block.attentions.0.k.weight", "encoder.mid_block.attentions.0.to_k.weight"),
        ("vae", "_orig_mod.encoder.mid_block.attentions.0.v.bias", "encoder.mid_block.attentions.0.to_v.bias"),
        ("vae", "encoder.mid_block.attentions.0.group_norm.bias", "encoder.mid_block.attentions.0.group_norm.bias"),
        ("unet", "a.attentions.0.query.weight", "a.attentions.0.query.weight"),
        ("unet", "_orig_mod.a.base_layer.weight", "a.weight"),
        ("unet", "a._orig_mod.module.b.weight", "a.b.weight"),
        ("unet", "a._fsdp_wrapped_module._checkpoint_wrapped_module.b.weight", "a.b.weight"),
        ("unet", "a.to_q._orig_mod.base_layer.weight", "a.to_q.weight"),
    ],
)
def test_names_of_checkpoints_in_folders(part: str, name: str, canonical: str) -> None:
    assert spellings.canonical(part, name) == canonical


def test_what_names_no_layer_is_told_the_nearest(bundle32: Path, tmp_path: Path) -> None:
    one = np.ones(1, np.float32)
    near = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    keys = {
        f"lora_unet_{flat(UNET.replace('blocks.0.attn', 'blocks.7.attn'))}.alpha": f"unet.{near}",
        f"diffusion_model.{ORIGINAL.replace('to_q', 'to_qq')}.alpha": f"unet.{near.replace('to_q', 'to_')}",
        f"lora_te1_{flat(SHORT.replace('layers.1', 'layers.9'))}.alpha": "text_encoder.text_model.encoder.layers.",
        "lora_unet_foreign.alpha": None,
    }
    file = lora_files.write(tmp_path / "x.safetensors", dict.fromkeys(keys, one))
    with pytest.raises(UnaccountedKeys) as raised:
        importer.convert(file, manifest.load(bundle32), bundle=bundle32)
    told = dict(line.split(": ", 1) for line in raised.value.keys)
    reason = "names no layer of this backbone that takes adapters"
    for key, hint in keys.items():
        assert told[key].startswith(f"{reason}; the nearest is {hint}") if hint else told[key] == reason


def test_layers_that_are_numbered_cannot_be_found(bundle32: Path, tmp_path: Path) -> None:
    """cloneofsimo's first LoRAs tell a layer by its place in a list."""
    file = lora_files.write(tmp_path / "x.safetensors", {"unet:0:up": np.ones((4, 2), np.float32)})
    with pytest.raises(UnaccountedKeys, match="unet:0:up: its layers are numbered, not named"):
        importer.convert(file, manifest.load(bundle32))


def test_a_bundles_layers_are_found_under_both_names_of_its_blocks(bundle32: Path) -> None:
    known = layers.of(manifest.load(bundle32), bundle32)["unet"]
    assert spellings.originals(known)(UNET) == ORIGINAL
