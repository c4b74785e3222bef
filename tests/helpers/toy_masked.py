"""The masked family's toy backbone, in the bundle format: what toy.py is for diffusion.

A token is a vector; the transformer adds an adapted Linear of it, the mean of all of them, the mean of the context, the
pooled text and the micro-conditions, and a bottleneck stands behind their tanh: every input matters. There are more
tokens than codes, as aMUSEd has it, and the codes are no multiple of anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

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
ARCHITECTURE = "c" * 64
TEMPLATE = "{context} in glass"  # the text encoder reads four words

TRANSFORMER = f"""
<ir_version: 10, opset_import: ["" : 18]>
transformer (int64[lanes,h,w] input_ids, float[lanes,{LENGTH},{WIDTH}] encoder_hidden_states,
             float[lanes,{POOLED}] pooled_text_emb, float[lanes,5] micro_conds,
             {LORA_INPUTS}, int64[lanes,bottleneck_K] bottleneck_rows, float[lanes,bottleneck_K] bottleneck_weights,
             float[R,{WIDTH}] "mix.lora_A", float[R,{WIDTH}] "mix.lora_B",
             float[H,{WIDTH}] "block.down", float[H,{WIDTH}] "block.up", float[H,1] "block.tanh")
  => (float[lanes,{CODES},h,w] logits)
<int64[1] one = {{1}}, int64[2] inner = {{1,2}}, float large = {{64.0}}, float half = {{0.5}}, float unit = {{1.0}},
 float root = {{1.41421356}}, float slope = {{0.79788456}}, float cubic = {{0.044715}}>
{{
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
  pooled = MatMul(pooled_text_emb, pooling)
  pooled4 = Unsqueeze(pooled, inner)
  sizes = Div(micro_conds, large)
  size = MatMul(sizes, sizing)
  size4 = Unsqueeze(size, inner)
  changed = Add(base, update)
  y = Sum(changed, around, said4, pooled4, size4)
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
}}
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


def write_bundle(folder: Path) -> Path:
    """A whole toy bundle in `folder`, its weights inline; the VQ encoder is the decoder's inverse."""
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
    return write_manifest(folder, manifest())


def manifest() -> dict[str, object]:
    return {
        "format": 1,
        "family": "masked",
        "name": "toy-masked",
        "architecture": ARCHITECTURE,
        "digest": "e" * 64,
        "tokens": {"factor": 8, "codes": CODES, "mask_id": MASK_ID},
        "masking": {"schedule": "cosine"},
        "image": {"width": 64, "height": 64, "multiple_of": 16, "max_pixels": 128 * 128},
        "tokenizer": TOKENIZER,
        "graphs": {
            "text_encoder": text_graph(pooled=POOLED),
            "transformer": {
                "file": "transformer.onnx",
                "inputs": [
                    port("input_ids", "lanes", "h", "w", dtype="int64"),
                    port("encoder_hidden_states", "lanes", LENGTH, WIDTH),
                    port("pooled_text_emb", "lanes", POOLED),
                    port("micro_conds", "lanes", 5),
                    *adapter_ports("lora"),
                    *adapter_ports("bottleneck"),
                ],
                "outputs": [port("logits", "lanes", CODES, "h", "w")],
                "plain": "transformer.plain.onnx",
                "sites": [site("mix", WIDTH), site("block", WIDTH, "bottleneck")],
            },
            "vq_decoder": {
                "file": "vq_decoder.onnx",
                "inputs": [port("tokens", "n", "h", "w", dtype="int64")],
                "outputs": [port("image", "n", 3, "H", "W")],
            },
            "vq_encoder": {
                "file": "vq_encoder.onnx",
                "inputs": [port("image", "n", 3, "H", "W")],
                "outputs": [port("tokens", "n", "h", "w", dtype="int64")],
            },
        },
    }


def lora_bytes(
    seed: int = 0,
    rank: int = 2,
    *,
    text_encoder: bool = False,
    header: Mapping[str, object] = MappingProxyType({}),
    **changed: NDArray[np.generic],
) -> bytes:
    """A random LoRA for this backbone; as toy.adapter_bytes."""
    sites = {"transformer.mix": WIDTH, **({"text_encoder.proj": WIDTH} if text_encoder else {})}
    usual = {"kind": "lora", "family": "masked", "architecture": ARCHITECTURE}
    return save_adapter(seed, rank, sites, {**usual, **header}, changed)


def bottleneck_bytes(
    seed: int = 0,
    rank: int = 2,
    *,
    gelu: Literal["exact", "tanh"] = "exact",
    header: Mapping[str, object] = MappingProxyType({}),
    **changed: NDArray[np.generic],
) -> bytes:
    """A random bottleneck adapter for this backbone; as toy.adapter_bytes."""
    usual = {"kind": "bottleneck", "family": "masked", "architecture": ARCHITECTURE, "gelu": gelu}
    return save_adapter(seed, rank, {"transformer.block": WIDTH}, {**usual, **header}, changed)
