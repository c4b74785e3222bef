"""open_clip's and OpenAI's state dicts as transformers' CLIPModel, and the hub ids behind open_clip's names."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from impasto_fit.errors import CheckpointError
from impasto_fit.text.hub_clip import HubClip

# ARCHITECTURE/PRETRAINED as open_clip lists them -> the repository that holds the same weights for transformers.
HUB: Mapping[str, str] = {
    "ViT-B-32/openai": "openai/clip-vit-base-patch32",
    "ViT-B-16/openai": "openai/clip-vit-base-patch16",
    "ViT-L-14/openai": "openai/clip-vit-large-patch14",
    "ViT-L-14-336/openai": "openai/clip-vit-large-patch14-336",
    "ViT-B-32/laion2b_s34b_b79k": "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    "ViT-B-16/laion2b_s34b_b88k": "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
    "ViT-L-14/laion2b_s32b_b82k": "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
    "ViT-H-14/laion2b_s32b_b79k": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
}
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # what a folder of open_clip's holds
CONFIG = "open_clip_config.json"
MARK = "visual.conv1.weight"
HEAD = 64  # channels of an attention head, in all of CLIP's transformers
PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "logit_scale": "logit_scale",
    **{f"visual.ln_pre.{end}": f"vision_model.pre_layrnorm.{end}" for end in ("weight", "bias")},
    **{f"visual.ln_post.{end}": f"vision_model.post_layernorm.{end}" for end in ("weight", "bias")},
    **{f"ln_final.{end}": f"text_model.final_layer_norm.{end}" for end in ("weight", "bias")},
}
PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
BLOCK = re.compile(r"^(visual\.)?transformer\.resblocks\.(\d+)\.(.+)$")
BUFFERS = ("attn_mask", "input_resolution", "context_length", "vocab_size")  # older files keep these besides


def state_file(place: Path) -> Path | None:
    """The file of a state dict that `place` is or holds; None where it is something else."""
    if place.is_file() and place.suffix in (".safetensors", ".bin", ".pt", ".pth"):
        return place
    return next((place / name for name in FILES if (place / name).is_file()), None)


def load(file: Path) -> HubClip:
    """
    Raises:
        CheckpointError: it isn't such a state dict, or has no tokenizer beside it.
    """
    state = {name.removeprefix("module."): value.float() for name, value in _read(file).items()}
    if MARK not in state:
        raise CheckpointError(f"clip: {file} has no {MARK}; a ViT's state dict as open_clip saves it is expected")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(file.parent)
    except (OSError, ValueError, TypeError):
        problem = "has no tokenizer beside it"
        raise CheckpointError(f"clip: {file} {problem}; put CLIP's vocab.json and merges.txt there") from None
    model = CLIPModel(config(state, quick_gelu(file)))
    found = dict(renamed(state))
    missing, unused = model.load_state_dict(found, strict=False)
    if missing or unused:
        raise CheckpointError(f"clip: {file}: missing {missing[:3]}, unused {unused[:3]}; get it again")
    return HubClip(model, tokenizer)


def quick_gelu(file: Path) -> bool:
    """Whether the file's MLPs have OpenAI's activation: as its config says, else as its name does."""
    path = file.parent / CONFIG
    if path.is_file():
        return bool(json.loads(path.read_text(encoding="utf-8")).get("model_cfg", {}).get("quick_gelu", False))
    return "openai" in file.name.lower() or "quickgelu" in file.name.lower()


def config(state: Mapping[str, Tensor], quick: bool) -> CLIPConfig:
    """All sizes stand in the shapes."""
    width, _, patch, _ = state[MARK].shape
    patches = state["visual.positional_embedding"].shape[0] - 1
    words, text_width = state["token_embedding.weight"].shape
    joint = state["text_projection"].shape[1]
    act = "quick_gelu" if quick else "gelu"
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        num_hidden_layers=_layers(state, "visual.transformer"),
        num_attention_heads=max(1, width // HEAD),
        image_size=patch * round(patches**0.5),
        patch_size=patch,
        projection_dim=joint,
        hidden_act=act,
    )
    text = CLIPTextConfig(
        vocab_size=words,
        hidden_size=text_width,
        intermediate_size=state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        num_hidden_layers=_layers(state, "transformer"),
        num_attention_heads=max(1, text_width // HEAD),
        max_position_embeddings=state["positional_embedding"].shape[0],
        projection_dim=joint,
        hidden_act=act,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )
    return CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=joint)


def renamed(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors under transformers' names; three in one become three, projections turn."""
    for name, value in state.items():
        block = BLOCK.match(name)
        if name in BUFFERS:
            continue
        if block:
            tower = "vision_model" if block[1] else "text_model"
            yield from _block(f"{tower}.encoder.layers.{block[2]}", block[3], value)
        elif name in PROJECTIONS:
            yield PROJECTIONS[name], value.T.contiguous()
        else:
            yield NAMES.get(name, name), value


def _block(layer: str, part: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    if part.startswith("attn.in_proj_"):
        end = part.removeprefix("attn.in_proj_")
        for third, rows in zip("qkv", value.chunk(3), strict=True):
            yield f"{layer}.self_attn.{third}_proj.{end}", rows
        return
    stem, _, end = part.rpartition(".")
    yield f"{layer}.{PARTS.get(stem, stem)}.{end}", value


def _layers(state: Mapping[str, Tensor], tower: str) -> int:
    return len({name.split(".resblocks.")[1].split(".")[0] for name in state if name.startswith(f"{tower}.resblocks.")})


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
        state: dict[str, Tensor] = found.get("state_dict", found)
        return state
    except (OSError, RuntimeError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"clip: {file} can't be read ({reason}); save its state dict as .safetensors") from None
