"""The masked family's toy backbone, in the bundle format, as toy.py is for diffusion.

A token is a vector. The transformer adds an adapted Linear of it, the mean of all tokens, the mean of the context, the
pooled text and the micro-conditions; a bottleneck follows their tanh. So every input matters. As in aMUSEd, there are
more tokens than codes; the number of codes is not a power of two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import load

from tests.helpers.toy import (
    LENGTH,
    LORA_INPUTS,
    TOKENIZER,
    VOCABULARY,
    WIDTH,
    adapter_ports,
    port,
    save_adapter,
    site,
    text_encoder,
    text_graph,
    weights,
    write_graph,
    write_manifest,
    write_tokenizer,
)

CODES, MASK_ID, POOLED = 21, 24, 5
FINE_CODES, FINE_MASK_ID = 45, 50
ARCHITECTURE = "c" * 64
TEMPLATE = "{context} in glass"  # the text encoder reads four words

ADAPTED = f"""{LORA_INPUTS}, int64[lanes,bottleneck_K] bottleneck_rows, float[lanes,bottleneck_K] bottleneck_weights,
             float[R,{WIDTH}] "mix.lora_A", float[R,{WIDTH}] "mix.lora_B",
             float[H,{WIDTH}] "block.down", float[H,{WIDTH}] "block.up", float[H,1] "block.tanh\""""
CONSTANTS = """int64[1] one = {1}, int64[2] inner = {1,2}, float half = {0.5}, float unit = {1.0},
 float root = {1.41421356}, float slope = {0.79788456}, float cubic = {0.044715}"""
# From input_ids to `base`, the LoRA's `update`, the mean `around`, and the context's part `said4`.
LOOKS = """
  x = Gather(table, input_ids)
  around = ReduceMean<keepdims=1>(x, inner)
  base = MatMul(x, weight)
  lora_a = Gather("mix.lora_A", lora_rows)
  lora_b = Gather("mix.lora_B", lora_rows)
  lora_turned = Transpose<perm=[0,2,1]>(lora_a)
  lora_a4 = Unsqueeze(lora_turned, one)
  lora_b4 = Unsqueeze(lora_b, one)
  lora_w4 = Unsqueeze(lora_weights, inner)
  low = MatMul(x, lora_a4)
  weighted = Mul(low, lora_w4)
  update = MatMul(weighted, lora_b4)
  context = ReduceMean<keepdims=1>(encoder_hidden_states, one)
  said = MatMul(context, projection)
  said4 = Unsqueeze(said, one)
  changed = Add(base, update)
"""
# From the sum y to logits, with a bottleneck after its tanh.
TELLS = """
  z = Tanh(y)
  down = Gather("block.down", bottleneck_rows)
  up = Gather("block.up", bottleneck_rows)
  tanh = Gather("block.tanh", bottleneck_rows)
  down_turned = Transpose<perm=[0,2,1]>(down)
  tanh_turned = Transpose<perm=[0,2,1]>(tanh)
  down4 = Unsqueeze(down_turned, one)
  up4 = Unsqueeze(up, one)
  tanh4 = Unsqueeze(tanh_turned, one)
  hidden_w4 = Unsqueeze(bottleneck_weights, inner)
  hidden = MatMul(z, down4)
  halved = Mul(hidden, half)
  scaled = Div(hidden, root)
  erf = Erf(scaled)
  sure = Add(erf, unit)
  exact = Mul(halved, sure)
  squared = Mul(hidden, hidden)
  cubed = Mul(squared, hidden)
  bent = Mul(cubed, cubic)
  summed = Add(hidden, bent)
  steep = Mul(summed, slope)
  curve = Tanh(steep)
  lifted = Add(curve, unit)
  near = Mul(halved, lifted)
  off = Sub(near, exact)
  chosen = Mul(off, tanh4)
  gelu = Add(exact, chosen)
  weighted_gelu = Mul(gelu, hidden_w4)
  added = MatMul(weighted_gelu, up4)
  adapted = Add(z, added)
  scores = MatMul(adapted, codes)
  logits = Transpose<perm=[0,3,1,2]>(scores)
"""
TRANSFORMER = f"""
<ir_version: 10, opset_import: ["" : 18]>
transformer (int64[lanes,h,w] input_ids, float[lanes,{LENGTH},{WIDTH}] encoder_hidden_states,
             float[lanes,{POOLED}] pooled_text_emb, float[lanes,5] micro_conds,
             {ADAPTED})
  => (float[lanes,{CODES},h,w] logits)
<{CONSTANTS}, float large = {{64.0}}>
{{{LOOKS}
  pooled = MatMul(pooled_text_emb, pooling)
  pooled4 = Unsqueeze(pooled, inner)
  sizes = Div(micro_conds, large)
  size = MatMul(sizes, sizing)
  size4 = Unsqueeze(size, inner)
  y = Sum(changed, around, said4, pooled4, size4)
{TELLS}}}
"""
# Every token sees the small picture's token below it, and the mean of all of those.
UPSCALER = f"""
<ir_version: 10, opset_import: ["" : 18]>
upscaler (int64[lanes,fine_h,fine_w] input_ids, int64[lanes,h,w] low_ids,
          float[lanes,{LENGTH},{WIDTH}] encoder_hidden_states,
          {ADAPTED})
  => (float[lanes,{FINE_CODES},fine_h,fine_w] logits)
<{CONSTANTS}, float[4] scales = {{1.0, 1.0, 2.0, 2.0}}>
{{{LOOKS}
  small = Gather(low_table, low_ids)
  beneath = ReduceMean<keepdims=1>(small, inner)
  small_first = Transpose<perm=[0,3,1,2]>(small)
  spread = Resize<mode="nearest">(small_first, , scales)
  below = Transpose<perm=[0,2,3,1]>(spread)
  y = Sum(changed, around, said4, below, beneath)
{TELLS}}}
"""
VQ_DECODER = """
<ir_version: 10, opset_import: ["" : 18]>
vq_decoder (int64[n,h,w] tokens) => (float[n,3,H,W] image)
<float[4] scales = {1.0, 1.0, 8.0, 8.0}>
{
  x = Gather(codebook, tokens)
  y = Transpose<perm=[0,3,1,2]>(x)
  image = Resize<mode="nearest">(y, , scales)
}
"""
# The nearest code: of |x - c|² only -2x·c + |c|² differs between codes.
VQ_ENCODER = """
<ir_version: 10, opset_import: ["" : 18]>
vq_encoder (float[n,3,H,W] image) => (int64[n,h,w] tokens)
{
  small = AveragePool<kernel_shape=[8,8], strides=[8,8]>(image)
  x = Transpose<perm=[0,2,3,1]>(small)
  product = MatMul(x, doubled)
  distance = Sub(square, product)
  tokens = ArgMin<axis=3, keepdims=0>(distance)
}
"""


def write_bundle(folder: Path, stages: int = 1) -> Path:
    """Write a whole toy bundle, with its weights in the graphs; the VQ encoder is the decoder's inverse."""
    rng = np.random.default_rng(1)
    codebook = rng.random((CODES, 3), np.float32)
    transformer = {
        "table": weights(rng, MASK_ID + 1, WIDTH) * np.float32(4),
        "weight": weights(rng, WIDTH, WIDTH),
        "projection": weights(rng, WIDTH, WIDTH) * np.float32(2),
        "pooling": weights(rng, POOLED, WIDTH),
        "sizing": weights(rng, 5, WIDTH) * np.float32(0.2),
        "codes": weights(rng, WIDTH, CODES),
    }
    words = {"embedding": weights(rng, VOCABULARY, WIDTH), "text_projection": weights(rng, WIDTH, POOLED)}
    write_graph(folder, "transformer", TRANSFORMER, transformer)
    write_graph(folder, "text_encoder", text_encoder(pooled=POOLED), words)
    write_graph(folder, "vq_decoder", VQ_DECODER, {"codebook": codebook})
    write_graph(folder, "vq_encoder", VQ_ENCODER, {"doubled": 2 * codebook.T, "square": (codebook**2).sum(axis=1)})
    write_tokenizer(folder)
    if stages == 2:
        _write_second_stage(folder, rng)
    return write_manifest(folder, manifest(stages))


def _write_second_stage(folder: Path, rng: np.random.Generator) -> None:
    upscaler = {
        "table": weights(rng, FINE_MASK_ID + 1, WIDTH) * np.float32(4),
        "low_table": weights(rng, MASK_ID + 1, WIDTH) * np.float32(4),
        "weight": weights(rng, WIDTH, WIDTH),
        "projection": weights(rng, WIDTH, WIDTH) * np.float32(2),
        "codes": weights(rng, WIDTH, FINE_CODES),
    }
    write_graph(folder, "upscaler", UPSCALER, upscaler)
    write_graph(folder, "upscaler_vq_decoder", VQ_DECODER, {"codebook": rng.random((FINE_CODES, 3), np.float32)})


def manifest(stages: int = 1) -> dict[str, object]:
    """The manifest; pictures have 64 x 64 pixels with one stage, twice as many each way with two."""
    side = 64 * stages
    found: dict[str, object] = {
        "format": 1,
        "family": "masked",
        "name": "toy-masked",
        "architecture": ARCHITECTURE,
        "digest": "e" * 64,
        "tokens": {"factor": 8, "codes": CODES, "mask_id": MASK_ID},
        "masking": {"schedule": "cosine"},
        "image": {"width": side, "height": side, "multiple_of": 16 * stages, "max_pixels": 4 * side * side},
        "tokenizer": TOKENIZER,
        "graphs": _graphs(stages),
    }
    fine = {"tokens": {"factor": 8, "codes": FINE_CODES, "mask_id": FINE_MASK_ID}, "scale": 2, "patch": 2}
    return found if stages == 1 else found | {"upscale": fine}


def _graphs(stages: int) -> dict[str, object]:
    tokens, image = port("tokens", "n", "h", "w", dtype="int64"), port("image", "n", 3, "H", "W")
    hidden = port("encoder_hidden_states", "lanes", LENGTH, WIDTH)
    graphs: dict[str, object] = {
        "text_encoder": text_graph(pooled=POOLED),
        "transformer": _adapted(
            "transformer",
            port("input_ids", "lanes", "h", "w", dtype="int64"),
            hidden,
            port("pooled_text_emb", "lanes", POOLED),
            port("micro_conds", "lanes", 5),
        ),
        "vq_decoder": {"file": "vq_decoder.onnx", "inputs": [tokens], "outputs": [image]},
        "vq_encoder": {"file": "vq_encoder.onnx", "inputs": [image], "outputs": [tokens]},
    }
    if stages == 1:
        return graphs
    fine = port("tokens", "n", "fine_h", "fine_w", dtype="int64")
    low = port("low_ids", "lanes", "h", "w", dtype="int64")
    graphs["upscaler"] = _adapted(
        "upscaler", port("input_ids", "lanes", "fine_h", "fine_w", dtype="int64"), low, hidden
    )
    graphs["upscaler_vq_decoder"] = {"file": "upscaler_vq_decoder.onnx", "inputs": [fine], "outputs": [image]}
    return graphs


def _adapted(name: str, *inputs: dict[str, object]) -> dict[str, object]:
    codes, rows, columns = (CODES, "h", "w") if name == "transformer" else (FINE_CODES, "fine_h", "fine_w")
    return {
        "file": f"{name}.onnx",
        "inputs": [*inputs, *adapter_ports("lora"), *adapter_ports("bottleneck")],
        "outputs": [port("logits", "lanes", codes, rows, columns)],
        "plain": f"{name}.plain.onnx",
        "sites": [site("mix", WIDTH), site("block", WIDTH, "bottleneck")],
    }


def lora_bytes(
    seed: int = 0,
    rank: int = 2,
    *,
    text_encoder: bool = False,
    stages: Sequence[str] = ("transformer",),
    header: Mapping[str, object] = MappingProxyType({}),
    **changed: NDArray[np.generic],
) -> bytes:
    """A random LoRA for this backbone, as toy.adapter_bytes; `stages` are the graphs that it has factors for."""
    sites = {f"{graph}.mix": WIDTH for graph in stages} | ({"text_encoder.proj": WIDTH} if text_encoder else {})
    usual = {"kind": "lora", "family": "masked", "architecture": ARCHITECTURE, **_paired(stages)}
    return save_adapter(seed, rank, sites, {**usual, **header}, changed)


def bottleneck_bytes(
    seed: int = 0,
    rank: int = 2,
    *,
    gelu: Literal["exact", "tanh"] = "exact",
    stages: Sequence[str] = ("transformer",),
    header: Mapping[str, object] = MappingProxyType({}),
    **changed: NDArray[np.generic],
) -> bytes:
    """A random bottleneck adapter for this backbone; as lora_bytes."""
    usual = {"kind": "bottleneck", "family": "masked", "architecture": ARCHITECTURE, "gelu": gelu}
    sites = {f"{graph}.block": WIDTH for graph in stages}
    return save_adapter(seed, rank, sites, {**usual, **_paired(stages), **header}, changed)


def _paired(graphs: Sequence[str]) -> dict[str, object]:
    """The header's entry of a pair."""
    return {"stages": ["base", "upscale"]} if "upscaler" in graphs else {}


def pin(folder: Path, name: str, digest: str, data: bytes, weight: float) -> Path:
    """Add a pinned mix to the bundle: a LoRA of both stages, merged into further graphs."""
    factors, graphs = load(data), {}
    for graph in ("transformer", "upscaler"):
        model = onnx.load(folder / f"{graph}.plain.onnx")
        held = next(one for one in model.graph.initializer if one.name == "weight")
        a, b, scale = (factors[f"{graph}.mix.{part}"] for part in ("A", "B", "scale"))
        merged = numpy_helper.to_array(held) + np.float32(weight) * scale * (a @ b)
        held.CopyFrom(numpy_helper.from_array(merged.astype(np.float32), "weight"))
        onnx.save(model, folder / f"{graph}.pinned.onnx")
        graphs[graph] = {"file": f"{graph}.pinned.onnx"}
    adapters = [{"name": name, "digest": digest, "weight": weight}]
    return write_manifest(folder, {**manifest(2), "pinned": [{"adapters": adapters, "graphs": graphs}]})
