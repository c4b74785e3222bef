from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from impasto_export.adapters import importer
from impasto_export.adapters.registry import Registry
from impasto_export.checkpoints.control import Control
from impasto_export.link import link
from impasto_server.pipeline import Pipeline
from impasto_server.settings import EngineName, Settings
from tests.helpers import checkpoints

CHECKPOINT = Path(__file__).parents[2] / "studio" / "mini-diffusion"
UNET_SITES = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "proj_in"]
TEXT_SITES = ["q_proj", "v_proj", "fc1"]


# Words of the vocabulary that each stage's vectors are near, so that they change the picture a good deal, too.
EMBEDDINGS = {
    "oil": ("flat", "poster", "crayon", "ink", "outline", "watercolour"),
    "ink": ("purple", "clay", "outline", "crayon", "sunset", "pixel"),
    "toy": ("green castle",),
}
Open = Callable[..., Pipeline]


@dataclass(frozen=True)
class Studio:
    """mini-diffusion as a bundle, with a random ControlNet; random LoRAs and embeddings by name.

    They are in a registry, and as files: `loras` as diffusers writes them, `embeddings` as DreamStyler names its keys.
    """

    bundle: Path
    registry: Path
    loras: Path
    embeddings: Path
    controlnet: Path


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    folder = tmp_path_factory.mktemp("studio")
    made = Studio(*(folder / name for name in ("bundle", "registry", "loras", "embeddings", "controlnet")))
    write_controlnet(made.controlnet)
    link(CHECKPOINT, made.bundle, steering=Control(made.controlnet, ("edges", "edges", "depth"), ("depth",)))
    manifest = json.loads((made.bundle / "manifest.json").read_text())
    registry = Registry(made.registry)
    for name, seed in (("one", 1), ("two", 2), ("three", 3)):
        write_lora(made.loras / name, seed)
        registry.put(name, importer.convert(made.loras / name / "pytorch_lora_weights.safetensors", manifest).data)
    made.embeddings.mkdir()
    pipe = diffusers_pipeline()
    for name in EMBEDDINGS:
        write_embedding(made.embeddings / f"{name}.safetensors", name, pipe)
        registry.put(name, importer.convert(made.embeddings / f"{name}.safetensors", manifest).data)
    return made


@pytest.fixture(scope="module")
def open_pipeline(studio: Studio) -> Iterator[Open]:
    """Pipelines by engine and settings, each compiled once; "auto" is the precision a server would run in."""
    opened: dict[Settings, Pipeline] = {}

    def open_(engine: EngineName, **options: Any) -> Pipeline:
        wanted = Settings(studio.bundle, studio.registry, engine, **options)
        if wanted not in opened:
            opened[wanted] = Pipeline.load(wanted)
        return opened[wanted]

    yield open_
    for pipeline in opened.values():
        pipeline.close()


def diffusers_pipeline() -> Any:
    """The checkpoint in the reference implementation, fp32."""
    pipe = StableDiffusionPipeline.from_pretrained(CHECKPOINT, safety_checker=None, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def write_lora(folder: Path, seed: int) -> None:
    """A LoRA that changes the picture a good deal, for the UNet and the text encoder, as diffusers writes it."""
    pipe = diffusers_pipeline()
    torch.manual_seed(seed)
    layers = {}
    for part, sites in (("unet", UNET_SITES), ("text_encoder", TEXT_SITES)):
        config = LoraConfig(r=4 * seed, lora_alpha=6, target_modules=sites, init_lora_weights=False)
        getattr(pipe, part).add_adapter(config)
        layers[f"{part}_lora_layers"] = get_peft_model_state_dict(getattr(pipe, part))
        layers[f"{part}_lora_adapter_metadata"] = config.to_dict()
    pipe.save_lora_weights(folder, **layers)


def write_embedding(file: Path, name: str, pipe: Any) -> None:
    """`<name>-T0` …, as EMBEDDINGS says."""
    known, draw = (
        pipe.text_encoder.get_input_embeddings().weight.detach(),
        torch.Generator().manual_seed(sum(name.encode())),
    )
    stages = {}
    for stage, words in enumerate(EMBEDDINGS[name]):
        near = known[pipe.tokenizer(words, add_special_tokens=False).input_ids]
        stages[f"<{name}>-T{stage}"] = near + 0.3 * known.std() * torch.randn(near.shape, generator=draw)
    save_file(stages, file)


def write_controlnet(folder: Path) -> None:
    """A random one whose hint isn't lost on its way in, as it is where SiLU takes some at every layer."""
    model = checkpoints.model("controlnet", seed=1)
    with torch.no_grad():
        for layer in model.controlnet_cond_embedding.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.mul_(3)
    model.save_pretrained(folder)


def content() -> NDArray[np.uint8]:
    """A house under a sun, 128 x 128."""
    pixels = np.full((128, 128, 3), (150, 190, 230), np.uint8)
    cv2.rectangle(pixels, (30, 60), (90, 110), (180, 60, 50), -1)
    cv2.circle(pixels, (100, 30), 14, (250, 220, 80), -1)
    return pixels


def nearness() -> NDArray[np.uint8]:
    """Grey, 128 x 128: the lower, the nearer."""
    return np.repeat(np.arange(0, 256, 2, np.uint8)[:, None], 128, axis=1)
