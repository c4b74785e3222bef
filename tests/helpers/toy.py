"""The diffusion family's toy backbone of a few hundred numbers, in the bundle format, for tests of pipelines.

toy_masked.py has the masked family's. The UNet is one adapted Linear over the channels, plus the mean of the context,
the timestep, and the ControlNet's residuals (a Linear over the shrunken hint). So every input matters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from impasto_export.plain import without_adapters

Array = NDArray[np.float32]

CHANNELS, WIDTH, LENGTH, VOCABULARY = 4, 8, 6, 32
ARCHITECTURE = "a" * 64
CONTROL: Mapping[str, object] = {"channels": ["edges", "edges", "depth"], "optional": ["depth"]}
TOKENIZER: Mapping[str, object] = {
    "file": "tokenizer.json",
    "max_length": LENGTH,
    "bos_id": 0,
    "eos_id": 1,
    "pad_id": 1,
}
WORDS = "a red blue boat house fish at night in stained glass style sharp blurry".split()

LORA_INPUTS = "int64[lanes,lora_K] lora_rows, float[lanes,lora_K] lora_weights"

UNET = f"""
<ir_version: 10, opset_import: ["" : 18]>
unet (float[lanes,{CHANNELS},h,w] sample, float[lanes] timestep, float[lanes,{LENGTH},{WIDTH}] encoder_hidden_states,
      float[lanes,{CHANNELS},h0,w0] down_residual_0, float[lanes,{CHANNELS},hm,wm] mid_residual,
      {LORA_INPUTS}, float[R,{CHANNELS}] "mix.lora_A", float[R,{CHANNELS}] "mix.lora_B")
  => (float[lanes,{CHANNELS},h,w] model_output)
<float[1] thousand = {{1000.0}}, int64[1] one = {{1}}, int64[2] inner = {{1,2}}, int64[3] last = {{1,2,3}}>
{{
  x = Transpose<perm=[0,2,3,1]>(sample)
  base = MatMul(x, weight)
  a = Gather("mix.lora_A", lora_rows)
  b = Gather("mix.lora_B", lora_rows)
  turned = Transpose<perm=[0,2,1]>(a)
  a4 = Unsqueeze(turned, one)
  b4 = Unsqueeze(b, one)
  w4 = Unsqueeze(lora_weights, inner)
  low = MatMul(x, a4)
  weighted = Mul(low, w4)
  update = MatMul(weighted, b4)
  context = ReduceMean<keepdims=1>(encoder_hidden_states, one)
  shift = MatMul(context, projection)
  shift4 = Unsqueeze(shift, one)
  t = Div(timestep, thousand)
  t4 = Unsqueeze(t, last)
  y1 = Add(base, update)
  y2 = Add(y1, shift4)
  y3 = Add(y2, t4)
  y = Tanh(y3)
  z = Transpose<perm=[0,3,1,2]>(y)
  z1 = Add(z, down_residual_0)
  model_output = Add(z1, mid_residual)
}}
"""
CONTROLNET = f"""
<ir_version: 10, opset_import: ["" : 18]>
controlnet (float[lanes,{CHANNELS},h,w] sample, float[lanes] timestep,
            float[lanes,{LENGTH},{WIDTH}] encoder_hidden_states, float[lanes,3,H,W] hint,
            float[lanes] conditioning_scale)
  => (float[lanes,{CHANNELS},h,w] down_residual_0, float[lanes,{CHANNELS},h,w] mid_residual)
<int64[3] last = {{1,2,3}}>
{{
  small = AveragePool<kernel_shape=[8,8], strides=[8,8]>(hint)
  x = Transpose<perm=[0,2,3,1]>(small)
  y = MatMul(x, hint_weight)
  z = Transpose<perm=[0,3,1,2]>(y)
  scale = Unsqueeze(conditioning_scale, last)
  down_residual_0 = Mul(z, scale)
  mid = Mul(sample, z)
  mid_residual = Mul(mid, scale)
}}
"""


def text_encoder(name: str = "text_encoder", width: int = WIDTH, pooled: int = 0) -> str:
    """A text encoder: an embedding plus an adapted Linear; with `pooled`, also the words' maximum projected to that
    width."""
    output, most = f"float[lanes,{LENGTH},{width}] prompt_embeds", ""
    if pooled:
        output += f", float[lanes,{pooled}] pooled"
        most = "most = ReduceMax<keepdims=0>(prompt_embeds, one)  pooled = MatMul(most, text_projection)"
    return f"""
<ir_version: 10, opset_import: ["" : 18]>
{name} (int64[lanes,{LENGTH}] input_ids, float[lanes,{LENGTH},{width}] learned_embeds, {LORA_INPUTS},
        float[R,{width}] "proj.lora_A", float[R,{width}] "proj.lora_B")
  => ({output})
<int64 zero = {{0}}, int64[1] one = {{1}}, int64[1] last = {{2}}>
{{
  known = Max(input_ids, zero)
  is_learned = Less(input_ids, zero)
  is_learned3 = Unsqueeze(is_learned, last)
  word = Gather(embedding, known)
  x = Where(is_learned3, learned_embeds, word)
  a = Gather("proj.lora_A", lora_rows)
  b = Gather("proj.lora_B", lora_rows)
  turned = Transpose<perm=[0,2,1]>(a)
  w3 = Unsqueeze(lora_weights, one)
  low = MatMul(x, turned)
  weighted = Mul(low, w3)
  update = MatMul(weighted, b)
  prompt_embeds = Add(x, update)
  {most}
}}
"""


TEXT_ENCODER = text_encoder()
VAE_DECODER = f"""
<ir_version: 10, opset_import: ["" : 18]>
vae_decoder (float[n,{CHANNELS},h,w] latents) => (float[n,3,H,W] image)
<float[4] scales = {{1.0, 1.0, 8.0, 8.0}}>
{{
  x = Transpose<perm=[0,2,3,1]>(latents)
  y = MatMul(x, colours)
  z = Transpose<perm=[0,3,1,2]>(y)
  image = Resize<mode="nearest">(z, , scales)
}}
"""
VAE_ENCODER = f"""
<ir_version: 10, opset_import: ["" : 18]>
vae_encoder (float[n,3,H,W] image) => (float[n,{CHANNELS},h,w] mean, float[n,{CHANNELS},h,w] logvar)
{{
  small = AveragePool<kernel_shape=[8,8], strides=[8,8]>(image)
  x = Transpose<perm=[0,2,3,1]>(small)
  y = MatMul(x, channels)
  mean = Transpose<perm=[0,3,1,2]>(y)
  logvar = Neg(mean)
}}
"""


def write_bundle(folder: Path, control: Mapping[str, object] | None = CONTROL) -> Path:
    """Write a whole toy bundle, with its weights in the graphs; `control` None leaves the ControlNet out."""
    rng = np.random.default_rng(0)
    unet = {"weight": weights(rng, CHANNELS, CHANNELS), "projection": weights(rng, WIDTH, CHANNELS)}
    write_graph(folder, "unet", UNET, unet)
    write_graph(folder, "text_encoder", TEXT_ENCODER, {"embedding": weights(rng, VOCABULARY, WIDTH)})
    write_graph(folder, "vae_decoder", VAE_DECODER, {"colours": weights(rng, CHANNELS, 3)})
    write_graph(folder, "vae_encoder", VAE_ENCODER, {"channels": weights(rng, 3, CHANNELS)})
    write_graph(folder, "controlnet", CONTROLNET, {"hint_weight": weights(rng, 3, CHANNELS)})
    write_tokenizer(folder)
    return write_manifest(folder, manifest(control))


def manifest(control: Mapping[str, object] | None = CONTROL) -> dict[str, object]:
    controlnet = {
        "file": "controlnet.onnx",
        "inputs": [
            port("sample", "lanes", CHANNELS, "h", "w"),
            port("timestep", "lanes"),
            port("encoder_hidden_states", "lanes", LENGTH, WIDTH),
            port("hint", "lanes", 3, "H", "W"),
            port("conditioning_scale", "lanes"),
        ],
        "outputs": [
            port("down_residual_0", "lanes", CHANNELS, "h", "w"),
            port("mid_residual", "lanes", CHANNELS, "h", "w"),
        ],
    }
    return {
        "format": 1,
        "family": "diffusion",
        "name": "toy",
        "architecture": ARCHITECTURE,
        "digest": "d" * 64,
        "latents": {"channels": CHANNELS, "factor": 8, "scaling_factor": 0.5, "shift_factor": 0.0},
        "image": {"width": 64, "height": 64, "multiple_of": 16, "max_pixels": 128 * 128},
        "scheduler": {
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "prediction_type": "v_prediction",
            "steps_offset": 1,
            "timestep_spacing": "leading",
            "set_alpha_to_one": False,
        },
        "tokenizer": TOKENIZER,
        "graphs": {
            "text_encoder": text_graph(),
            "unet": {
                "file": "unet.onnx",
                "inputs": [
                    port("sample", "lanes", CHANNELS, "h", "w"),
                    port("timestep", "lanes"),
                    port("encoder_hidden_states", "lanes", LENGTH, WIDTH),
                    port("down_residual_0", "lanes", CHANNELS, "h0", "w0"),
                    port("mid_residual", "lanes", CHANNELS, "hm", "wm"),
                    *adapter_ports("lora"),
                ],
                "outputs": [port("model_output", "lanes", CHANNELS, "h", "w")],
                "plain": "unet.plain.onnx",
                "sites": [site("mix", CHANNELS)],
            },
            "vae_decoder": {
                "file": "vae_decoder.onnx",
                "inputs": [port("latents", "n", CHANNELS, "h", "w")],
                "outputs": [port("image", "n", 3, "H", "W")],
            },
            "vae_encoder": {
                "file": "vae_encoder.onnx",
                "inputs": [port("image", "n", 3, "H", "W")],
                "outputs": [port("mean", "n", CHANNELS, "h", "w"), port("logvar", "n", CHANNELS, "h", "w")],
            },
            **({} if control is None else {"controlnet": controlnet}),
        },
        "control": control,
    }


def adapter_bytes(
    seed: int = 0,
    rank: int = 2,
    *,
    text_encoder: bool = False,
    header: Mapping[str, object] = MappingProxyType({}),
    **changed: NDArray[np.generic],
) -> bytes:
    """A random adapter for the toy backbone, with `header` beside the usual fields; `changed` as in `save_adapter`."""
    sites = {"unet.mix": CHANNELS, **({"text_encoder.proj": WIDTH} if text_encoder else {})}
    usual = {"kind": "lora", "family": "diffusion", "architecture": ARCHITECTURE}
    return save_adapter(seed, rank, sites, {**usual, **header}, changed)


def save_adapter(
    seed: int,
    rank: int,
    sites: Mapping[str, int],
    header: Mapping[str, object],
    changed: Mapping[str, NDArray[np.generic]],
) -> bytes:
    """An adapter of `sites` (name -> width); `changed` replaces tensors, with double underscores for dots."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, NDArray[np.generic]] = {}
    for name, features in sites.items():
        tensors[f"{name}.A"] = rng.standard_normal((features, rank)).astype(np.float32)
        tensors[f"{name}.B"] = rng.standard_normal((rank, features)).astype(np.float32)
        tensors[f"{name}.scale"] = np.array(0.5, np.float32)
    tensors.update({key.replace("__", "."): tensor for key, tensor in changed.items()})
    return save(tensors, {"impasto": json.dumps({"format": 1, "rank": rank, **header})})


def embedding_bytes(
    seed: int = 0,
    stages: int = 6,
    places: int = 1,
    width: int = WIDTH,
    vectors: Array | None = None,
    **changed: object,
) -> bytes:
    """An embedding for the toy text encoder, random unless given; `changed` replaces fields of its header."""
    drawn = np.random.default_rng(seed).standard_normal((stages, places, width)).astype(np.float32)
    return save_embedding({"text_encoder": drawn if vectors is None else vectors}, **changed)


def save_embedding(vectors: Mapping[str, Array], **changed: object) -> bytes:
    """An embedding with `vectors` [stages, places, width] for each text encoder."""
    header = {
        "format": 1,
        "kind": "embedding",
        "family": "diffusion",
        "prompt": "{context} in {style} style",
        "style_prompt": "sharp {style} style",
        **changed,
    }
    return save({f"{graph}.vectors": array for graph, array in vectors.items()}, {"impasto": json.dumps(header)})


def register(registry: Path, name: str, data: bytes) -> str:
    """Put an adapter file into a registry folder; returns its digest."""
    digest = hashlib.sha256(data).hexdigest()
    for folder in ("objects", "names"):
        (registry / folder).mkdir(parents=True, exist_ok=True)
    (registry / "objects" / f"{digest}.safetensors").write_bytes(data)
    (registry / "names" / f"{name}.json").write_text(json.dumps({"digest": digest}))
    return digest


def port(name: str, *shape: int | str, dtype: str = "float32") -> dict[str, object]:
    return {"name": name, "dtype": dtype, "shape": shape}


def adapter_ports(form: str) -> tuple[dict[str, object], dict[str, object]]:
    """The two ports by which each lane picks its adapters of a form."""
    lanes = ("lanes", f"{form}_K")
    return port(f"{form}_rows", *lanes, dtype="int64"), port(f"{form}_weights", *lanes)


def site(name: str, features: int, kind: str = "lora") -> dict[str, object]:
    return {"name": name, "in_features": features, "out_features": features, "kind": kind}


def text_graph(name: str = "text_encoder", width: int = WIDTH, pooled: int = 0) -> dict[str, object]:
    """The manifest's entry of `text_encoder`."""
    return {
        "file": f"{name}.onnx",
        "inputs": [
            port("input_ids", "lanes", LENGTH, dtype="int64"),
            port("learned_embeds", "lanes", LENGTH, width),
            *adapter_ports("lora"),
        ],
        "outputs": [
            port("prompt_embeds", "lanes", LENGTH, width),
            *([port("pooled", "lanes", pooled)] if pooled else []),
        ],
        "plain": f"{name}.plain.onnx",
        "sites": [site("proj", width)],
    }


def weights(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[-2]))


def write_tokenizer(folder: Path) -> None:
    vocabulary = {word: index for index, word in enumerate(["<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def write_manifest(folder: Path, manifest: Mapping[str, object]) -> Path:
    """Write the manifest; returns the folder, which is then a bundle."""
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def write_graph(folder: Path, name: str, text: str, weights: Mapping[str, Array]) -> None:
    """Write NAME.onnx, and NAME.plain.onnx if the graph has adapter sites."""
    folder.mkdir(parents=True, exist_ok=True)
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in weights.items())
    onnx.checker.check_model(model)
    onnx.save(model, folder / f"{name}.onnx")
    inputs = [value.name for value in model.graph.input]
    own = [name for name in inputs if "." not in name and not name.endswith(("_rows", "_weights"))]
    if own != inputs:
        onnx.save(without_adapters(model, own), folder / f"{name}.plain.onnx")
