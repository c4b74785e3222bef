"""The two sides that realsize.py compares, each a process of its own: `python children.py SIDE NAME FOLDER`.

reference  the modules of diffusers and transformers, as these load the checkpoint themselves, in float32; the LoRA is
           added to their weights
ours       the bundle's graphs in onnxruntime, float32; the LoRA is in rows of its own, behind those of no adapter

Either writes FOLDER/SIDE.npz: every graph's outputs by "graph/output".
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the benchmarks are scripts, none is installed

from benchmarks.parts.realsize.backbones import BACKBONES, CONTROLNET, STAND_INS, Backbone
from benchmarks.parts.realsize.feeds import LANES, Feeds, banks, deltas, feeds
from benchmarks.parts.realsize.process import THREADS

from impasto_export.adapters.registry import Registry
from impasto_export.architecture import Graph

Outputs = dict[str, NDArray[Any]]

# In the folder of a backbone under measurement.
CHECKPOINT, CONTROL, BUNDLE, REGISTRY, LORA = "checkpoint", "controlnet", "bundle", "registry", "lora.safetensors"
ADAPTER = "random"
PLAIN = "plain"  # the second lane without its adapter, of the reference alone


def reference(backbone: Backbone, folder: Path) -> Outputs:
    """The second lane is the first forward's with the LoRA; "graph/output/plain" has it without."""
    import torch

    torch.set_num_threads(THREADS)
    found: Outputs = {}
    for name, graph in backbone.architecture().graphs.items():
        # In a function of its own, so that one module is gone when the next is loaded.
        found |= {f"{name}/{key}": array for key, array in _asked_all(backbone, folder, name, graph).items()}
    return found


def _asked_all(backbone: Backbone, folder: Path, name: str, graph: Graph) -> Outputs:
    import torch

    module, ask, keys = _module(folder, graph.component), _asked(backbone, name), _names(graph)
    fed = {key: torch.from_numpy(array) for key, array in feeds(backbone, name).items()}
    added = deltas(folder / LORA, name)
    with torch.no_grad():
        outputs = dict(zip(keys, ask(module, fed), strict=True))
        if added:
            _add(module, added)
            last = {key: tensor[LANES - 1 :] for key, tensor in fed.items()}
            for key, changed in zip(keys, ask(module, last), strict=True):
                outputs[f"{key}/{PLAIN}"] = outputs[key][LANES - 1 :]
                outputs[key] = torch.cat([outputs[key][: LANES - 1], changed])
    return {key: tensor.numpy() for key, tensor in outputs.items()}


def _names(graph: Graph) -> list[str]:
    return [port.name for port in graph.outputs]


def _module(folder: Path, part: str) -> Any:
    """As its library loads it. Raises ValueError for a weight that it misses, or doesn't know."""
    import torch

    from impasto_export import families
    from impasto_export.architecture import read_json
    from impasto_export.tracing import graphs

    place = folder / (CONTROL if part == CONTROLNET else f"{CHECKPOINT}/{part}")
    kind = families.class_of(read_json(place / "config.json"))
    known = {**graphs.TEXT_ENCODERS, **graphs.NETWORKS}
    module, told = known[kind].from_pretrained(place, torch_dtype=torch.float32, output_loading_info=True)
    odd = {key: sorted(names) for key, names in told.items() if names and key.endswith("_keys")}
    if odd:
        raise ValueError(f"{kind}.from_pretrained: {odd}")
    return module.eval()


def _asked(backbone: Backbone, name: str) -> Callable[[Any, Mapping[str, Any]], Any]:
    """How a library's module is asked for what our graph `name` puts out."""
    return (
        _penultimate if name == "text_encoder" and "text_encoder_2" in backbone.architecture().graphs else ASKED[name]
    )


def _add(module: Any, added: Mapping[str, NDArray[np.float32]]) -> None:
    import torch

    names = dict(module.named_modules())
    for layer, delta in added.items():
        # transformers' encoder without a projection is what the one with it calls text_model.
        found = names.get(layer) or names[layer.removeprefix("text_model.")]
        found.weight += torch.from_numpy(delta)


def _text(module: Any, fed: Mapping[str, Any]) -> Iterator[Any]:
    """Stable Diffusion's: the last state. With a projection (SDXL's second, aMUSEd's): the last but one, and pooled."""
    output = module(fed["input_ids"], output_hidden_states=True)
    yield output.hidden_states[-2] if "text_embeds" in output else output.last_hidden_state
    if "text_embeds" in output:
        yield output.text_embeds


def _penultimate(module: Any, fed: Mapping[str, Any]) -> Sequence[Any]:
    """SDXL's first."""
    return [module(fed["input_ids"], output_hidden_states=True).hidden_states[-2]]


def _unet(module: Any, fed: Mapping[str, Any]) -> Sequence[Any]:
    added = {key: fed[key] for key in ("text_embeds", "time_ids") if key in fed}
    output = module(
        fed["sample"],
        fed["timestep"],
        fed["encoder_hidden_states"],
        timestep_cond=fed.get("timestep_cond"),
        added_cond_kwargs=added or None,
        down_block_additional_residuals=[fed[key] for key in fed if key.startswith("down_residual")],
        mid_block_additional_residual=fed["mid_residual"],
    )
    return [output.sample]


def _controlnet(module: Any, fed: Mapping[str, Any]) -> Sequence[Any]:
    output = module(fed["sample"], fed["timestep"], fed["encoder_hidden_states"], fed["hint"])
    scale = fed["conditioning_scale"].reshape(-1, 1, 1, 1)
    return [scale * tensor for tensor in (*output.down_block_res_samples, output.mid_block_res_sample)]


def _vae_encoder(module: Any, fed: Mapping[str, Any]) -> Sequence[Any]:
    found = module.encode(fed["image"]).latent_dist
    return found.mean, found.logvar


def _transformer(module: Any, fed: Mapping[str, Any]) -> Sequence[Any]:
    keys = ("input_ids", "encoder_hidden_states", "pooled_text_emb", "micro_conds")
    return [module(*(fed[key] for key in keys))]


def _upscaler(module: Any, fed: Mapping[str, Any]) -> Sequence[Any]:
    return [module(*(fed[key] for key in ("input_ids", "low_ids", "encoder_hidden_states")))]


def _vq_encoder(module: Any, fed: Mapping[str, Any]) -> Sequence[Any]:
    latents = module.encode(fed["image"]).latents
    number, _, high, wide = latents.shape
    return [module.quantize(latents)[2][2].reshape(number, high, wide)]


def _vq_decoder(module: Any, fed: Mapping[str, Any]) -> Sequence[Any]:
    tokens = fed["tokens"]
    shape = (*tokens.shape, module.config.latent_channels)
    return [module.decode(tokens, force_not_quantize=True, shape=shape).sample]


# By graph; but see _asked.
ASKED: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "text_encoder": _text,
    "text_encoder_2": _text,
    "unet": _unet,
    "controlnet": _controlnet,
    "vae_decoder": lambda module, fed: [module.decode(fed["latents"]).sample],
    "vae_encoder": _vae_encoder,
    "transformer": _transformer,
    "vq_decoder": _vq_decoder,
    "vq_encoder": _vq_encoder,
    "upscaler": _upscaler,
    "upscaler_vq_decoder": _vq_decoder,
    "upscaler_vq_encoder": _vq_encoder,
}


def ours(backbone: Backbone, folder: Path) -> Outputs:
    found: Outputs = {}
    registry = Registry(folder / REGISTRY)
    for name, graph in backbone.architecture().graphs.items():
        adapter = registry.file(registry.show(ADAPTER).digest) if graph.sites else None
        file = folder / BUNDLE / graph.file
        outputs = _run(file, {**feeds(backbone, name), **banks(file, graph, name, adapter)})
        found |= {f"{name}/{key}": array for key, array in zip(_names(graph), outputs, strict=True)}
    return found


def _run(path: Path, fed: Feeds) -> list[NDArray[Any]]:
    """In float32 on the CPU, once. Weights are widened when they are read: all of them at once would take the memory
    of two models."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.enable_cpu_mem_arena = False
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
    )
    outputs: list[NDArray[Any]] = session.run(None, fed)
    return outputs


SIDES = {"reference": reference, "ours": ours}


def main(side: str, name: str, folder: Path) -> None:
    np.savez(folder / f"{side}.npz", **SIDES[side]({**BACKBONES, **STAND_INS}[name], folder))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
