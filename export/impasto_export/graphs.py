"""`impasto export`: the architecture of a checkpoint or a ControlNet, exported once with torch into graph skeletons."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from impasto_export import atomic, recipes, skeleton
from impasto_export.architecture import Architecture, Component, Graph, Json, facts, read_json
from impasto_export.errors import GraphError
from impasto_export.recipes import Recipe

CHECKPOINT = ("text_encoder", "unet", "vae")
CONTROLNET = "controlnet"
CLASSES = {
    "text_encoder": "CLIPTextModel",
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    CONTROLNET: "ControlNetModel",
}
OPSET = 18
# The wrapping module's attribute in front of every exported parameter name.
WRAPPER = "model."
# Config keys that ask for inputs beside the text, or for residuals of another form.
EXTRAS = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim")
UNUSUAL = {"unet": EXTRAS, CONTROLNET: (*EXTRAS, "global_pool_conditions")}
HINT_CHANNELS = 3


def export(
    checkpoint: Path, out: Path, name: str | None = None, progress: Callable[[str], object] = str
) -> Architecture:
    """Write the skeleton of `checkpoint`'s architecture to the folder `out`; of the checkpoint only configs are read.

    Raises GraphError for a component that cannot be exported, CheckpointError for unreadable configs.
    """
    configs = {part: read_json(checkpoint / part / "config.json") for part in CHECKPOINT}
    models = {part: build(part, config) for part, config in configs.items()}
    latents = {"channels": models["vae"].config.latent_channels, "factor": _downsampling(models["vae"])}
    stride, tokens = _downsampling(models["unet"]), models["text_encoder"].config.max_position_embeddings
    plan = [
        recipes.text_encoder(models["text_encoder"]),
        recipes.unet(models["unet"], tokens, stride),
        *recipes.vae(models["vae"], latents),
    ]
    architecture = Architecture(
        name or checkpoint.resolve().name,
        {part: _component(part, model) for part, model in models.items()},
        {recipe.name: _graph(recipe) for recipe in plan},
        latents,
        {"multiple_of": latents["factor"] * stride},
    )
    _write(out, architecture, plan, progress)
    return architecture


def export_controlnet(
    folder: Path, out: Path, name: str | None = None, progress: Callable[[str], object] = str
) -> Architecture:
    """Write the skeleton of the ControlNet in `folder` to the folder `out`; of `folder` only its config is read.

    Raises GraphError for a ControlNet that cannot be exported, CheckpointError for an unreadable config.
    """
    model = build(CONTROLNET, read_json(folder / "config.json"))
    stride, factor = _downsampling(model), int(2 ** (len(model.config.conditioning_embedding_out_channels) - 1))
    latents = {"channels": model.config.in_channels, "factor": factor}
    recipe = recipes.controlnet(model, latents, stride)
    architecture = Architecture(
        name or folder.resolve().name,
        {CONTROLNET: _component(CONTROLNET, model)},
        {CONTROLNET: _graph(recipe)},
        latents,
        {"multiple_of": factor * stride},
    )
    _write(out, architecture, [recipe], progress)
    return architecture


def _write(out: Path, architecture: Architecture, plan: list[Recipe], progress: Callable[[str], object]) -> None:
    with atomic.folder(out) as draft:
        for recipe in plan:
            progress(f"exporting {recipe.name}")
            (draft / f"{recipe.name}.onnx").write_bytes(trace(recipe))
        text = json.dumps(json.loads(architecture.canonical()), indent=1, sort_keys=True, ensure_ascii=False)
        (draft / "architecture.json").write_text(text + "\n", encoding="utf-8")


def trace(recipe: Recipe) -> bytes:
    """The recipe's skeleton. Raises GraphError when torch cannot export the module."""
    try:
        # The exporter warns about its own internals on every run; what it cannot do it raises.
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                recipe.module,
                recipe.args,
                dynamo=True,
                optimize=False,
                opset_version=OPSET,
                dynamic_shapes=recipe.dynamic,
                input_names=recipe.input_names,
                output_names=[port.name for port in recipe.outputs],
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise GraphError(f"{recipe.name}: torch could not export it: {error}") from error
    assert program is not None, "dynamo=True returns a program"
    parameters = {name for name, _ in recipe.module.named_parameters()}
    location = f"{recipe.component}.safetensors"
    return skeleton.make(
        program.model,
        parameters,
        lambda name: recipe.prefix + name.removeprefix(WRAPPER),
        location,
        recipe.inputs,
        recipe.outputs,
    )


def build(part: str, config: Json) -> Any:
    """The component's module in float32, eval mode, random weights. Raises GraphError for a class not exported."""
    kind = config.get("_class_name") or (config.get("architectures") or ["?"])[0]
    if kind != CLASSES[part]:
        raise GraphError(f"{part} is a {kind}; only {CLASSES[part]} is exported so far")
    if part == "text_encoder":
        # Straight from the class: its from_config would follow the dtype that the checkpoint was saved in.
        text: Any = CLIPTextModel(CLIPTextConfig(**{**config, "dtype": "float32"}))
        return text.eval()
    unusual = [key for key in UNUSUAL.get(part, ()) if config.get(key)]
    if unusual:
        raise GraphError(f"{part} uses {', '.join(unusual)}; only plain text conditioning is exported so far")
    channels = config.get("conditioning_channels", HINT_CHANNELS)
    if part == CONTROLNET and channels != HINT_CHANNELS:
        raise GraphError(f"{part}: conditioning_channels is {channels}; hints have {HINT_CHANNELS} channels")
    factories: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, CONTROLNET: ControlNetModel}
    return factories[part].from_config(config).eval()


def _downsampling(model: Any) -> int:
    return int(2 ** (len(model.config.block_out_channels) - 1))


def _component(part: str, model: Any) -> Component:
    if part == "text_encoder":
        return Component(CLASSES[part], facts(part, model.config.to_dict()), facts(part, CLIPTextConfig().to_dict()))
    parameters = inspect.signature(type(model).__init__).parameters.values()
    defaults = {item.name: item.default for item in parameters if item.default is not inspect.Parameter.empty}
    return Component(CLASSES[part], _plain(facts(part, dict(model.config))), _plain(facts(part, defaults)))


def _plain(value: Json) -> Json:
    """As JSON has it: tuples become lists."""
    plain: Json = json.loads(json.dumps(value))
    return plain


def _graph(recipe: Recipe) -> Graph:
    return Graph(recipe.component, f"{recipe.name}.onnx", recipe.inputs, recipe.outputs, recipe.sites)
