"""Random CLIPs of the shipped mini-clip architecture, or variants, saved as transformers does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from impasto_export import architecture, clip

SHIPPED = architecture.SHIPPED / "mini-clip"
TOKENIZER = Path(__file__).parents[2] / "studio" / "mini-diffusion" / "tokenizer"
BOS, EOS = 512, 513


def config(**changes: Any) -> dict[str, Any]:
    """The shipped architecture's config in transformers' form; keys of towers in `changes` begin with `text__` or
    `vision__`."""
    stated = architecture.load(SHIPPED).components[clip.NAME].config
    flat = {**stated, **{key.replace("__", "."): value for key, value in changes.items()}}
    towers = {
        f"{tower}_config": {key.removeprefix(f"{tower}."): flat[key] for key in flat if key.startswith(f"{tower}.")}
        for tower in ("text", "vision")
    }
    towers["text_config"] |= {"bos_token_id": BOS, "pad_token_id": EOS}
    return {"architectures": [clip.CLASS], "projection_dim": flat["projection_dim"], **towers}


def model(seed: int, **changes: Any) -> Any:
    """The model with random weights that fp16 can hold exactly, norms and biases included."""
    torch.manual_seed(seed)
    found: Any = CLIPModel(CLIPConfig(**config(**changes))).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            scale = 0.1 if parameter.ndim < 2 else 0.0
            parameter.copy_((3 * parameter + scale * torch.randn_like(parameter)).half().float())
    return found


def save(folder: Path, seed: int = 1, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Write the CLIP, its image processor and its tokenizer into one folder."""
    model(seed, **changes).to(dtype).save_pretrained(folder)
    processor(config(**changes)["vision_config"]["image_size"]).save_pretrained(folder)
    for file in TOKENIZER.iterdir():
        shutil.copy(file, folder)
    return folder


def processor(size: int) -> CLIPImageProcessorPil:
    """transformers' own image processor, on Pillow and NumPy."""
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
