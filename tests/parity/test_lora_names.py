"""LoRA files for SD 1.5 and SDXL, whose trainers name UNets in three ways, against diffusers' `load_lora_weights`.

What is imported is folded into the weights of torch's modules: so all is compared but the lanes, which other tests run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import nn

from impasto_export import spellings
from impasto_export.adapters import importer
from impasto_export.architecture import Json
from impasto_export.spellings import TEXT_PREFIX
from impasto_export.tracing import graphs, sites
from impasto_export.weights import read_header, read_tensor
from tests.helpers import lora_files, reduced
from tests.helpers.engines import Array
from tests.helpers.likeness import range_db

from .test_lora_files import DECIBELS, STRENGTH

TARGETS = {"unet": ["to_k", "to_out.0", "proj_in"], "text_encoder": ["k_proj"], "text_encoder_2": ["v_proj", "fc1"]}
# The public UNets, as far as their blocks are concerned.
SD1: Json = {"cross_attention_dim": 768}
SDXL: Json = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}


@dataclass(frozen=True)
class Twin:
    """A backbone of reduced widths in torch, and of its bundle's manifest what an import reads."""

    modules: Mapping[str, Any]
    manifest: Json

    @property
    def graphs(self) -> list[str]:
        return list(self.manifest["graphs"])

    @property
    def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """graph -> site -> shape of its weight: SD 1.5 has 1x1 convolutions among them."""
        return {
            graph: {site["name"]: tuple(self.module(graph, site["name"]).weight.shape) for site in facts["sites"]}
            for graph, facts in self.manifest["graphs"].items()
        }

    def module(self, graph: str, name: str) -> Any:
        return submodule(self.modules[graph], name)

    def pipeline(self) -> Any:
        """On copies, since adapters stay in the modules that they are loaded into."""
        copies = {part: deepcopy(module) for part, module in self.modules.items()}
        if "text_encoder_2" in copies:
            more = {"tokenizer_2": None, "add_watermarker": False}
            return StableDiffusionXLPipeline(
                **copies, **more, tokenizer=None, scheduler=EulerDiscreteScheduler(steps_offset=1)
            )
        more = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return StableDiffusionPipeline(
            **copies, **more, tokenizer=None, scheduler=EulerDiscreteScheduler(steps_offset=1)
        )


def submodule(module: Any, name: str) -> Any:
    """transformers' encoder without a projection is the text model itself."""
    return module.get_submodule(name if hasattr(module, "text_model") else name.removeprefix(TEXT_PREFIX))


def twin(kind: str) -> Twin:
    torch.manual_seed(0)
    modules = {part: graphs.build(part, config) for part, config in reduced.configs(kind).items()}
    found = {graph: sites.find(module, graph) for graph, module in modules.items() if graph in TARGETS}
    named = {
        graph: [{**site.record, "name": site.name if graph == "unet" else full(site.name)} for site in several]
        for graph, several in found.items()
    }
    facts = {graph: {"sites": several} for graph, several in named.items()}
    return Twin(modules, {"family": "diffusion", "architecture": "a" * 64, "graphs": facts})


def full(name: str) -> str:
    return TEXT_PREFIX + name.removeprefix(TEXT_PREFIX)


@pytest.fixture(scope="module")
def twins() -> Mapping[str, Twin]:
    return {kind: twin(kind) for kind in ("sd1", "sdxl")}


def folded(pipe: Any, adapter: Path, strength: float) -> Any:
    """The pipeline with an imported adapter in its weights."""
    header = read_header(adapter)
    for where in (key.removesuffix(".A") for key in header.tensors if key.endswith(".A")):
        a, b, scale = (torch.from_numpy(read_tensor(header, f"{where}.{role}").copy()) for role in ("A", "B", "scale"))
        graph, _, name = where.partition(".")
        weight = submodule(getattr(pipe, graph), name).weight
        with torch.no_grad():
            weight += (strength * scale * (a @ b).T).reshape(weight.shape)
    return pipe


def output(pipe: Any, graph: str) -> Array:
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        if graph != "unet":
            ids = torch.randint(0, reduced.VOCABULARY, (1, reduced.TOKENS), generator=draw)
            return np.asarray(getattr(pipe, graph)(ids, output_hidden_states=True).hidden_states[-2])
        width = pipe.unet.config.cross_attention_dim
        sizes = (1, 4, 16, 16), (1, reduced.TOKENS, width), (1, 20)
        sample, context, pooled = (torch.randn(size, generator=draw) for size in sizes)
        added = {"text_embeds": pooled, "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])}
        return np.asarray(pipe.unet(sample, 500.0, context, added_cond_kwargs=added, return_dict=False)[0])


def diffusers_file(folder: Path, twin: Twin) -> Path:
    """As diffusers' training scripts save, alpha in the header."""
    pipe, arguments = twin.pipeline(), {}
    torch.manual_seed(3)
    for graph in twin.graphs:
        config = LoraConfig(r=2, lora_alpha=6, target_modules=TARGETS[graph], init_lora_weights=False)
        getattr(pipe, graph).add_adapter(config)
        arguments[f"{graph}_lora_layers"] = get_peft_model_state_dict(getattr(pipe, graph))
        arguments[f"{graph}_lora_adapter_metadata"] = config.to_dict()
    pipe.save_lora_weights(folder, **arguments)
    return folder / "pytorch_lora_weights.safetensors"


def kohya_file(folder: Path, twin: Twin) -> Path:
    """As kohya's trainer saves for SD 1.5, and others for SDXL, too."""
    names = lora_files.SDXL if "text_encoder_2" in twin.graphs else lora_files.SD1
    tensors = lora_files.kohya(twin.shapes, lora_files.lora, rank=4, alpha=1.0, names=names)
    return lora_files.write(folder / "kohya.safetensors", tensors)


def original_kohya_file(folder: Path, twin: Twin) -> Path:
    """As kohya's trainer saves for SDXL, of which it has the original UNet."""
    spelled = spellings.originals(twin.shapes["unet"])
    tensors = lora_files.kohya(twin.shapes, lora_files.lora, rank=4, alpha=1.0, names=lora_files.SDXL, spelled=spelled)
    return lora_files.write(folder / "kohya.safetensors", tensors)


@pytest.mark.parametrize(
    ("kind", "write"),
    [
        ("sd1", diffusers_file),
        ("sd1", kohya_file),
        ("sdxl", diffusers_file),
        ("sdxl", kohya_file),
        ("sdxl", original_kohya_file),
    ],
)
def test_a_file_in_the_weights(
    kind: str, write: Callable[[Path, Twin], Path], twins: Mapping[str, Twin], tmp_path: Path
) -> None:
    file, adapter = write(tmp_path, twins[kind]), tmp_path / "imported.safetensors"
    adapter.write_bytes(importer.convert(file, twins[kind].manifest).data)
    theirs = twins[kind].pipeline()
    theirs.load_lora_weights(file.parent, weight_name=file.name, adapter_name="style")
    theirs.set_adapters("style", STRENGTH)
    ours, twice = (folded(twins[kind].pipeline(), adapter, strength) for strength in (STRENGTH, 2 * STRENGTH))
    for graph in twins[kind].graphs:
        expected = output(theirs, graph)
        assert range_db(output(ours, graph), expected) >= DECIBELS
        assert range_db(output(twice, graph), expected) < DECIBELS - 5, "strength must matter"


def dotted(path: str) -> str:
    return path


def flattened(path: str) -> str:
    return path.replace(".", "_")


def shortened(path: str) -> str:
    """Since transformers 5.6 the text model is no module of its own."""
    return flattened(path.removeprefix(TEXT_PREFIX))


# By who writes them: prefixes, and how a UNet's and a text encoder's paths are spelled; True for the original UNet's.
OTHERS: Mapping[str, tuple[Mapping[str, str], bool, Callable[[str], str]]] = {
    "OneTrainer": ({"unet": "unet.", "text_encoder": "clip_l.", "text_encoder_2": "clip_g."}, True, dotted),
    "ComfyUI": (
        {
            "unet": "diffusion_model.",
            "text_encoder": "text_encoders.clip_l.transformer.",
            "text_encoder_2": "text_encoders.clip_g.transformer.",
        },
        True,
        dotted,
    ),
    "kohya with transformers 5.6": (
        {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
        False,
        shortened,
    ),
}


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
@pytest.mark.parametrize("writer", OTHERS)
def test_every_layer_as_others_write_it(writer: str, kind: str, twins: Mapping[str, Twin], tmp_path: Path) -> None:
    """Against W + s·B·A in float64: diffusers leaves some of these layers out, so it is no measure."""
    twin, (prefixes, original, spell), draw = twins[kind], OTHERS[writer], np.random.default_rng(2)
    layers = [(graph, name, shape) for graph, shapes in twin.shapes.items() for name, shape in shapes.items()]
    assert any("q_proj" in name for _, name, _ in layers)
    tensors: dict[str, Array] = {}
    expected: dict[tuple[str, str], Any] = {}
    for graph, name, shape in layers:
        path = spellings.originals(twin.shapes["unet"])(name) if original and graph == "unet" else name
        down, up = lora_files.lora(shape, 4, draw).values()
        key = prefixes[graph] + spell(path)
        tensors |= {
            f"{key}.lora_down.weight": down,
            f"{key}.lora_up.weight": up,
            f"{key}.alpha": np.array(3.0, np.float32),
        }
        change = 3 / 4 * up.reshape(shape[0], 4).astype(np.float64) @ down.reshape(4, -1).astype(np.float64)
        expected[graph, name] = twin.module(graph, name).weight.detach().double() + change.reshape(shape)
    file, adapter = lora_files.write(tmp_path / "x.safetensors", tensors), tmp_path / "imported.safetensors"
    made = importer.convert(file, twin.manifest)
    adapter.write_bytes(made.data)
    assert made.record["sites"] == len(layers)
    pipe = folded(twin.pipeline(), adapter, 1.0)
    for (graph, name), weight in expected.items():
        found = submodule(getattr(pipe, graph), name).weight.detach().double()
        assert torch.allclose(found, weight, rtol=1e-5, atol=1e-5), f"{graph}.{name}"


@pytest.mark.parametrize("config", [SD1, SDXL], ids=["SD 1.5", "SDXL"])
def test_every_layer_of_the_original_unet_is_found(config: Json) -> None:
    """Under the names by which diffusers converts a whole checkpoint."""
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(**config)
    modules = [name for name, module in unet.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    original = spellings.originals(modules)
    bare = {f"model.diffusion_model.{original(name)}.{part}": "" for name in modules for part in ("weight", "bias")}
    whole = {**bare, **{f"model.diffusion_model.out.0.{part}": "" for part in ("weight", "bias")}}
    named = {**whole, **{f"model.diffusion_model.{original(name)}.weight": name for name in modules}}
    converted = convert_ldm_unet_checkpoint(named, dict(unet.config))
    assert {f"{name}.weight": name for name in modules} == {key: name for key, name in converted.items() if name}
    found = spellings.spelled("unet", modules)
    assert [found[original(name).replace(".", "_")] for name in modules] == modules
