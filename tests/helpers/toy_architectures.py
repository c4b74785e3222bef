"""Variants of toy.py's backbone: SDXL's inputs and second text encoder; an LCM's guidance; pinned mixes.

Further inputs of the UNet are added before its tanh, so that every input matters here, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from tests.helpers import toy
from tests.helpers.toy import CHANNELS, LENGTH, VOCABULARY, WIDTH, port, weights

WIDTH_2, POOLED, TOLD = 12, 5, 6
PAD_2 = 0  # the second tokenizer pads with another token than the first
TOKENIZER_2: Mapping[str, object] = {**toy.TOKENIZER, "file": "tokenizer_2.json", "pad_id": PAD_2}

_INPUTS = toy.LORA_INPUTS
_BODY = "  y = Tanh(y3)"
_CONSTANTS = "<float[1] thousand"

XL_UNET = (
    toy.UNET.replace(f"{LENGTH},{WIDTH}]", f"{LENGTH},{WIDTH + WIDTH_2}]")
    .replace(_INPUTS, f"float[lanes,{POOLED}] text_embeds, float[lanes,6] time_ids, {_INPUTS}")
    .replace(_CONSTANTS, f"<float large = {{64.0}}, {_CONSTANTS[1:]}")
    .replace(
        _BODY,
        """
  said = MatMul(text_embeds, pooling)
  said4 = Unsqueeze(said, inner)
  sizes = Div(time_ids, large)
  size = MatMul(sizes, sizing)
  size4 = Unsqueeze(size, inner)
  y4 = Sum(y3, said4, size4)
  y = Tanh(y4)""",
    )
)
LCM_UNET = toy.UNET.replace(_INPUTS, f"float[lanes,{TOLD}] timestep_cond, {_INPUTS}").replace(
    _BODY,
    """
  told = MatMul(timestep_cond, telling)
  told4 = Unsqueeze(told, inner)
  y4 = Add(y3, told4)
  y = Tanh(y4)""",
)
MERGED_TEXT_ENCODER = toy.TEXT_ENCODER.replace(
    "  prompt_embeds = Add(x, update)",
    "  merged = MatMul(x, delta)\n  adapted = Add(x, merged)\n  prompt_embeds = Add(adapted, update)",
)


def write_xl(folder: Path, **changed: object) -> Path:
    """Write SDXL's variant: two text encoders, the pooled text, and sizes. `changed` replaces parts of the manifest."""
    toy.write_bundle(folder, control=None)
    rng = np.random.default_rng(2)
    unet = {
        "weight": weights(rng, CHANNELS, CHANNELS),
        "projection": weights(rng, WIDTH + WIDTH_2, CHANNELS),
        "pooling": weights(rng, POOLED, CHANNELS),
        "sizing": weights(rng, 6, CHANNELS),
    }
    toy.write_graph(folder, "unet", XL_UNET, unet)
    words = {"embedding": weights(rng, VOCABULARY, WIDTH_2), "text_projection": weights(rng, WIDTH_2, POOLED)}
    toy.write_graph(folder, "text_encoder_2", toy.text_encoder("text_encoder_2", WIDTH_2, POOLED), words)
    (folder / "tokenizer_2.json").write_bytes((folder / "tokenizer.json").read_bytes())

    manifest: dict[str, Any] = toy.manifest(control=None)
    manifest["graphs"]["unet"]["inputs"] = [
        port("sample", "lanes", CHANNELS, "h", "w"),
        port("timestep", "lanes"),
        port("encoder_hidden_states", "lanes", LENGTH, WIDTH + WIDTH_2),
        port("text_embeds", "lanes", POOLED),
        port("time_ids", "lanes", 6),
        *manifest["graphs"]["unet"]["inputs"][3:],
    ]
    manifest["graphs"]["text_encoder_2"] = toy.text_graph("text_encoder_2", WIDTH_2, POOLED)
    facts = {"name": "toy-xl", "tokenizer_2": TOKENIZER_2, "force_zeros_for_empty_prompt": True, **changed}
    return toy.write_manifest(folder, {**manifest, **facts})


def write_lcm(folder: Path) -> Path:
    """Write an LCM's variant: the guidance is an input of the UNet."""
    toy.write_bundle(folder, control=None)
    rng = np.random.default_rng(3)
    unet = {
        "weight": weights(rng, CHANNELS, CHANNELS),
        "projection": weights(rng, WIDTH, CHANNELS),
        "telling": weights(rng, TOLD, CHANNELS),
    }
    toy.write_graph(folder, "unet", LCM_UNET, unet)
    manifest: dict[str, Any] = toy.manifest(control=None)
    inputs = manifest["graphs"]["unet"]["inputs"]
    manifest["graphs"]["unet"]["inputs"] = [*inputs[:3], port("timestep_cond", "lanes", TOLD), *inputs[3:]]
    manifest["scheduler"] |= {"original_inference_steps": 20, "timestep_scaling": 5.0}
    return toy.write_manifest(
        folder,
        {**manifest, "name": "toy-lcm", "defaults": {"scheduler": "lcm", "steps": 4, "guidance_scale": 8.5}},
    )


def write_pinned(folder: Path, mixes: Sequence[Mapping[str, tuple[bytes, str, float]]]) -> Path:
    """Write toy.py's bundle with pinned `mixes`, each of name -> adapter's file, digest and weight."""
    toy.write_bundle(folder)
    rng = np.random.default_rng(0)
    unet = {"weight": weights(rng, CHANNELS, CHANNELS), "projection": weights(rng, WIDTH, CHANNELS)}
    embedding = {"embedding": weights(rng, VOCABULARY, WIDTH)}
    pinned = []
    for number, mix in enumerate(mixes):
        deltas = [(load(data), weight) for data, _, weight in mix.values()]
        update = _merged(deltas, "unet.mix")
        toy.write_graph(folder, f"pinned-{number}.unet", toy.UNET, {**unet, "weight": unet["weight"] + update})
        graphs = {"unet": {"file": f"pinned-{number}.unet.plain.onnx"}}
        if any("text_encoder.proj.A" in tensors for tensors, _ in deltas):
            said = {**embedding, "delta": _merged(deltas, "text_encoder.proj")}
            toy.write_graph(folder, f"pinned-{number}.text_encoder", MERGED_TEXT_ENCODER, said)
            graphs["text_encoder"] = {"file": f"pinned-{number}.text_encoder.plain.onnx"}
        named = [{"name": name, "digest": digest, "weight": weight} for name, (_, digest, weight) in mix.items()]
        pinned.append({"adapters": named, "graphs": graphs})
    return toy.write_manifest(folder, {**toy.manifest(), "pinned": pinned})


def delta_bytes(header: Mapping[str, object], tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """An adapter that only merging can use, with `header` beside the usual fields."""
    usual = {"format": 1, "kind": "delta", "family": "diffusion", "architecture": toy.ARCHITECTURE}
    facts = {**usual, "forms": ["locon", "loha"], "rank": 2, "sites": 1, **header}
    return save(dict(tensors), {"impasto": json.dumps(facts)})


def embedding_bytes(seed: int = 0, stages: int = 1, places: int = 1) -> bytes:
    """An embedding for both text encoders of SDXL's variant."""
    rng = np.random.default_rng(seed)
    widths = {"text_encoder": WIDTH, "text_encoder_2": WIDTH_2}
    return toy.save_embedding(
        {name: rng.standard_normal((stages, places, width)).astype(np.float32) for name, width in widths.items()}
    )


def _merged(deltas: Sequence[tuple[Mapping[str, NDArray[Any]], float]], where: str) -> NDArray[np.float32]:
    """Σ w · scale · A @ B at a site, over the adapters that have it."""
    parts = [
        np.float32(weight) * tensors[f"{where}.scale"] * tensors[f"{where}.A"] @ tensors[f"{where}.B"]
        for tensors, weight in deltas
        if f"{where}.A" in tensors
    ]
    found: NDArray[np.float32] = np.sum(parts, axis=0, dtype=np.float32)
    return found
