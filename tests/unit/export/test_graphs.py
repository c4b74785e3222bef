"""What export writes: the committed skeletons are current, and hold no weights; a new text encoder exports."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from diffusers import ControlNetModel
from torch import nn

from impasto_export import architecture, splice
from impasto_export.architecture import Port, Site
from impasto_export.errors import CheckpointError, GraphError
from impasto_export.tracing import dims, graphs, sites, texts
from impasto_export.tracing.recipes import Recipe
from tests.helpers import cascades, checkpoints

FOLDERS = (checkpoints.MINI, checkpoints.CONTROL, checkpoints.MUSE, cascades.CASCADE)
SKELETONS = sorted(path for folder in FOLDERS for path in folder.glob("*.onnx"))
NAMES = [f"{path.parent.name}-{path.stem}" for path in SKELETONS]


def test_the_committed_architecture_is_current(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "trace", lambda recipe: b"")
    found = graphs.export(checkpoint, tmp_path / "out", "mini-diffusion")
    assert architecture.load(checkpoints.MINI) == found == architecture.load(tmp_path / "out")


def test_the_committed_masked_architecture_is_current(
    masked_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "trace", lambda recipe: b"")
    found = graphs.export(masked_checkpoint, tmp_path / "out", "mini-muse")
    assert architecture.load(checkpoints.MUSE) == found == architecture.load(tmp_path / "out")


def test_the_committed_architecture_of_two_stages_is_current(
    cascade_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "trace", lambda recipe: b"")
    found = graphs.export(cascade_checkpoint, tmp_path / "out", "mini-muse-cascade")
    assert architecture.load(cascades.CASCADE) == found == architecture.load(tmp_path / "out")


def test_the_first_stage_is_the_same_with_a_second() -> None:
    one, two = (architecture.load(folder) for folder in (checkpoints.MUSE, cascades.CASCADE))
    assert one.graphs.items() <= two.graphs.items()
    for graph in one.graphs.values():
        assert (checkpoints.MUSE / graph.file).read_bytes() == (cascades.CASCADE / graph.file).read_bytes()


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
def test_nothing_of_the_file_is_left_out(folder: Path) -> None:
    stated = architecture.read_json(folder / "architecture.json")
    assert architecture.load(folder).canonical() == architecture.canonical_json(stated)


def test_the_digest_is_of_what_adapters_hold_on_to() -> None:
    """Of components and sites: adapters need not be imported again because graphs take them in another way."""
    found = architecture.load(checkpoints.MINI)
    unet = found.graphs["unet"]
    otherwise = replace(unet, inputs=(*unet.inputs, Port("more", "float32", ("lanes",))))
    fewer = replace(unet, sites=unet.sites[1:])
    other = replace(found.components["unet"], config={"layers_per_block": 3})
    assert replace(found, name="renamed", graphs={**found.graphs, "unet": otherwise}).digest == found.digest
    assert replace(found, graphs={**found.graphs, "unet": fewer}).digest != found.digest
    assert replace(found, components={**found.components, "unet": other}).digest != found.digest


def test_the_committed_controlnet_is_current(controlnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "trace", lambda recipe: b"")
    found = graphs.export_controlnet(controlnet, tmp_path / "out", "mini-controlnet")
    assert architecture.load(checkpoints.CONTROL) == found == architecture.load(tmp_path / "out")


def test_the_committed_controlnet_is_made_for_mini_diffusion() -> None:
    unet: Any = checkpoints.model("unet", 0)
    made = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64, 96))
    assert graphs._component(made) == architecture.load(checkpoints.CONTROL).components["controlnet"]


@pytest.mark.parametrize("path", SKELETONS, ids=NAMES)
def test_skeletons_are_small_and_bare(path: Path) -> None:
    assert path.stat().st_size < 1_000_000
    model = splice.read(path)
    assert splice.placeholders(model)
    assert splice.placeholders(model).keys() <= {name for node in model.graph.node for name in node.input}
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    inline = [item for item in model.graph.initializer if item.data_location != onnx.TensorProto.EXTERNAL]
    assert sum(len(item.raw_data) for item in inline) < 100_000


@pytest.mark.parametrize("path", SKELETONS, ids=NAMES)
def test_graph_inputs_are_the_ports_and_the_banks_of_every_site(path: Path) -> None:
    graph = architecture.load(path.parent).graphs[path.stem]
    model = splice.read(path)
    expected = [port.name for port in (*graph.inputs, *sites.banks(graph.sites))]
    assert [value.name for value in model.graph.input] == expected
    assert [value.name for value in model.graph.output] == [port.name for port in graph.outputs]


def test_sizes_of_residuals_are_free() -> None:
    path = checkpoints.MINI / "unet.onnx"
    ports = {value.name: value.type.tensor_type.shape.dim for value in splice.read(path).graph.input}
    residuals = [name for name in ports if "residual" in name]
    assert residuals == [*(f"down_residual_{index}" for index in range(6)), "mid_residual"]
    for name in residuals:
        assert [size.dim_param for size in ports[name]] == ["lanes", "", f"{name}_h", f"{name}_w"]


def test_every_usual_target_is_a_site() -> None:
    found = architecture.load(checkpoints.MINI).graphs
    assert {len(found[name].sites) for name in ("vae_decoder", "vae_encoder")} == {0}
    assert len(found["text_encoder"].sites) == 4 * 6
    assert len(found["unet"].sites) == 10 * 12


def test_sites_of_the_masked_transformer() -> None:
    """Four layers of two attentions and an MLP; six outer blocks of two attentions."""
    found = architecture.load(checkpoints.MUSE).graphs
    every = found["transformer"].sites
    lora = [site for site in every if site.kind == "lora"]
    bottlenecks = [site.name for site in every if site.kind == "bottleneck"]
    assert len(lora) == 4 * (2 * 4 + 2) + 6 * 2 * 4
    assert [name for name in bottlenecks if name.startswith("transformer_layers.3.")] == [
        f"transformer_layers.3.{place}" for place in ("attn1", "attn2", "ff")
    ]
    outer = [f"{side}_block.attention_blocks.{index}.attn2" for side in ("down", "up") for index in range(3)]
    assert [name for name in bottlenecks if not name.startswith("transformer_layers")] == outer
    assert len(bottlenecks) == 4 * 3 + 6
    assert len(found["text_encoder"].sites) == 4 * 6


def test_sites_of_the_second_stage() -> None:
    """Two layers over the small picture, which see no text; five over the large one."""
    found = architecture.load(cascades.CASCADE).graphs
    every = found["upscaler"].sites
    assert len([site for site in every if site.kind == "lora"]) == 2 * (4 + 2) + 5 * (2 * 4 + 2)
    bottlenecks = [site.name for site in every if site.kind == "bottleneck"]
    low = [f"low_layers.{index}.{place}" for index in range(2) for place in ("attn1", "ff")]
    assert bottlenecks == [
        *low,
        *(f"layers.{index}.{place}" for index in range(5) for place in ("attn1", "attn2", "ff")),
    ]
    assert not found["upscaler_vq_encoder"].sites


def test_ports_of_a_bottleneck() -> None:
    site = Site("x.ff", 8, 8, "bottleneck")
    assert [(port.name, port.shape) for port in sites.banks([site])] == [
        ("x.ff.down", ("H", 8)),
        ("x.ff.up", ("H", 8)),
        ("x.ff.tanh", ("H", 1)),
    ]
    assert [(port.name, port.shape) for port in sites.inputs([Site("x", 8, 4), site])] == [
        ("lora_rows", ("lanes", "lora_K")),
        ("lora_weights", ("lanes", "lora_K")),
        ("bottleneck_rows", ("lanes", "bottleneck_K")),
        ("bottleneck_weights", ("lanes", "bottleneck_K")),
    ]
    assert site.record == {"name": "x.ff", "in_features": 8, "out_features": 8, "kind": "bottleneck"}
    assert "kind" not in Site("x", 8, 8).record


def test_a_new_text_encoder_exports_under_its_parameter_names() -> None:
    config = {**checkpoints.config("text_encoder"), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    model = graphs.build("text_encoder", {**config, "vocab_size": 40, "num_attention_heads": 2})
    recipe = texts.text_encoder(model)
    skeleton = onnx.load_from_string(graphs.trace(recipe))
    expected = {f"text_model.{name}": tuple(value.shape) for name, value in model.named_parameters()}
    assert {name: slot.shape for name, slot in splice.placeholders(skeleton).items()} == expected


def test_a_training_runs_settings_do_not_become_architecture() -> None:
    """diffusers keeps in a model's config what it ignored: EMA's, say, which no second checkpoint would fit."""
    config = checkpoints.config("unet")
    made = graphs.build("unet", {**config, "decay": 0.9999, "optimization_step": 37000})
    assert made.config["optimization_step"] == 37000
    assert graphs._component(made) == graphs._component(graphs.build("unet", config))


def test_a_bias_that_happens_to_be_zero_is_not_left_out() -> None:
    """A new ControlNet's outputs are zeros, in weights and biases: a checkpoint's aren't."""
    convolution = nn.Conv2d(2, 3, 1)
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.zeros(9), convolution.parameters())
    module = nn.Sequential(OrderedDict(model=convolution))
    port = Port("x", "float32", ("n", 2, 4, 4))
    recipe = Recipe("x", "x", module, (torch.randn(2, 2, 4, 4),), ({0: dims.LANES},), (port,), (port,))
    skeleton = onnx.load_from_string(graphs.trace(recipe))
    assert list(skeleton.graph.node[0].input) == ["x", "weight", "bias"]


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("controlnet", {"_class_name": "UNet2DConditionModel"}, "only ControlNetModel"),
        ("controlnet", {"global_pool_conditions": True}, "global_pool_conditions"),
        ("controlnet", {"class_embed_type": "timestep"}, "class_embed_type"),
        ("controlnet", {"num_class_embeds": 10}, "num_class_embeds"),
        ("controlnet", {"addition_embed_type": "text_time"}, "addition_embed_type"),
        ("controlnet", {"conditioning_channels": 1}, "hints have 3 channels"),
        ("unet", {"_class_name": "UNet3DConditionModel"}, "UNet3DConditionModel"),
        ("text_encoder", {"architectures": ["T5EncoderModel"]}, "T5EncoderModel"),
    ],
)
def test_what_cannot_be_exported_is_refused(part: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        graphs.build(part, {**checkpoints.config(part), **changes})


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("vqvae", {"norm_type": "spatial"}, "norm_type is spatial; only group"),
        ("vqvae", {"lookup_from_codebook": False}, "lookup_from_codebook is False; only True"),
        ("vqvae", {"_class_name": "AutoencoderKL"}, "only VQModel"),
        ("transformer", {"_class_name": "FluxTransformer2DModel"}, "FluxTransformer2DModel; only UVit2DModel"),
        ("text_encoder", {"architectures": ["CLIPTextModel"]}, "in a masked checkpoint it is a CLIPTextModelWithProj"),
        ("transformer", {"upsample": False}, r"upsample is False, transformer\.downsample True; they must be equal"),
        ("transformer", {"codebook_size": 64}, r"codebook_size is 64, vqvae\.num_vq_embeddings 1024"),
        ("transformer", {"cond_embed_dim": 64}, r"cond_embed_dim is 64, text_encoder\.projection_dim 128"),
    ],
)
def test_what_cannot_be_exported_of_a_masked_checkpoint_is_refused(
    part: str, changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    for name in checkpoints.MASKED:
        config = {**checkpoints.masked_config(name), **(changes if name == part else {})}
        checkpoints.write_json(tmp_path / name / "config.json", config)
    with pytest.raises(GraphError, match=message):
        graphs.export(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_configs_is_named(checkpoint: Path, tmp_path: Path) -> None:
    (shutil.copytree(checkpoint, tmp_path / "own") / "vae" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"vae/config\.json is missing"):
        graphs.export(tmp_path / "own", tmp_path / "out")
