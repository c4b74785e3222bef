"""`impasto export graphs` and `controlnet`: export an architecture as graph skeletons, with torch."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel, UVit2DModel, VQModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from impasto_export import atomic, families, support
from impasto_export.architecture import Architecture, Component, Graph, Json, read_json
from impasto_export.errors import GraphError
from impasto_export.families import DIFFUSION, MASKED, PARTS
from impasto_export.tracing import masked, recipes, skeleton, texts, weightless
from impasto_export.tracing.recipes import Recipe
from impasto_export.tracing.upscaler import MuseUpscaler

CONTROLNET = "controlnet"
TEXT_ENCODERS: dict[str, Any] = {
    "CLIPTextModel": CLIPTextModel,
    "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
}
NETWORKS: dict[str, Any] = {
    "UNet2DConditionModel": UNet2DConditionModel,
    "AutoencoderKL": AutoencoderKL,
    "ControlNetModel": ControlNetModel,
    "UVit2DModel": UVit2DModel,
    "VQModel": VQModel,
    "MuseUpscaler": MuseUpscaler,
}
OPSET = 18
# Every exported parameter name begins with this: the wrapping module's attribute.
WRAPPER = "model."
Models = Mapping[str, Any]
# The architecture's `sizes`, and the recipes to export.
Planned = tuple[dict[str, Json], list[Recipe]]


def export(
    checkpoint: Path, out: Path, name: str | None = None, progress: Callable[[str], object] = str
) -> Architecture:
    """Write the skeleton of `checkpoint`'s architecture to the folder `out`; only configs are read.

    Raises GraphError for a component that cannot be exported, CheckpointError for unreadable configs.
    """
    family = families.of(checkpoint)
    configs = {part: read_json(checkpoint / part / "config.json") for part in family.parts}
    support.check(configs)
    models, (sizes, plan) = _planned(configs, PLANS[family.name])
    architecture = Architecture(
        name or checkpoint.resolve().name,
        family.name,
        {part: _component(model) for part, model in models.items()},
        {recipe.name: described(recipe) for recipe in plan},
        sizes,
    )
    write(out, architecture, plan, progress)
    return architecture


def _planned(configs: Mapping[str, Json], planner: Callable[[Models], Planned]) -> tuple[Models, Planned]:
    """The components' modules and the plan for them, built without weights."""
    faking = weightless.mode()
    with weightless.parameters(faking):
        models = {part: build(part, config) for part, config in configs.items()}
    with faking:
        return models, planner(models)


def _diffusion(models: Models) -> Planned:
    text, unet, vae = (models[part] for part in DIFFUSION.parts)
    second = models.get("text_encoder_2")
    _check_width(unet.config, [model.config.hidden_size for model in (text, second) if model])
    latents = {"channels": vae.config.latent_channels, "factor": _downsampling(vae)}
    stride = _downsampling(unet)
    plan = [
        *(_two_texts(text, second) if second else [texts.text_encoder(text)]),
        recipes.unet(unet, text.config.max_position_embeddings, stride),
        *recipes.vae(vae, latents),
    ]
    return {"latents": latents, "image": {"multiple_of": latents["factor"] * stride}}, plan


def _two_texts(text: Any, second: Any) -> list[Recipe]:
    return [texts.penultimate_text_encoder(text), texts.projected_text_encoder(second, "text_encoder_2")]


def _masked(models: Models) -> Planned:
    text, transformer, vqvae = (models[part] for part in MASKED.parts)
    _check_agreement(text.config, transformer.config, vqvae.config)
    factor, stride = _downsampling(vqvae), 2 if transformer.config.downsample else 1
    plan = [
        texts.projected_text_encoder(text),
        masked.transformer(transformer, text.config.max_position_embeddings, stride),
        *masked.vqvae(vqvae, factor),
    ]
    tokens = {"factor": factor, "codes": transformer.config.codebook_size}
    if "upscaler" not in models:
        return {"tokens": tokens, "image": {"multiple_of": factor * stride}}, plan
    upscale, more = _upscaling(models)
    multiple = stride * models["upscaler"].config.scale * _downsampling(models["upscaler_vqvae"])
    return {"tokens": tokens, "upscale": upscale, "image": {"multiple_of": multiple}}, [*plan, *more]


def _upscaling(models: Models) -> tuple[Json, list[Recipe]]:
    """The second stage's sizes (its tokens, `scale`, `patch`) and its recipes."""
    text, upscaler, vqvae = (models[part] for part in ("text_encoder", "upscaler", "upscaler_vqvae"))
    factor, config = _downsampling(vqvae), upscaler.config
    plan = [
        masked.upscaler(upscaler, text.config.max_position_embeddings),
        *masked.upscaler_vqvae(vqvae, factor),
    ]
    tokens = {"factor": factor, "codes": config.codebook_size, "mask_id": config.vocab_size - 1}
    return {"tokens": tokens, "scale": config.scale, "patch": config.patch}, plan


PLANS = {DIFFUSION.name: _diffusion, MASKED.name: _masked}


def _check_width(unet: Any, texts: list[int]) -> None:
    """Raises GraphError unless the UNet's context is as wide as the text encoders' embeddings together."""
    if unet.cross_attention_dim != sum(texts):
        have = " + ".join(map(str, texts))
        raise GraphError(
            f"unet: cross_attention_dim is {unet.cross_attention_dim}, the texts' width {have}; they must be equal"
        )


def _check_agreement(text: Any, transformer: Any, vqvae: Any) -> None:
    """Raises GraphError naming every size on which a masked checkpoint's components disagree."""
    pairs = {
        "codebook_size is": (transformer.codebook_size, vqvae.num_vq_embeddings, "vqvae.num_vq_embeddings"),
        "encoder_hidden_size is": (transformer.encoder_hidden_size, text.hidden_size, "text_encoder.hidden_size"),
        "cond_embed_dim is": (transformer.cond_embed_dim, text.projection_dim, "text_encoder.projection_dim"),
        "upsample is": (transformer.upsample, transformer.downsample, "transformer.downsample"),
    }
    apart = [f"{key} {have}, {name} {want}" for key, (have, want, name) in pairs.items() if have != want]
    if apart:
        raise GraphError(f"transformer: {'; '.join(apart)}; they must be equal")


def export_controlnet(
    folder: Path, out: Path, name: str | None = None, progress: Callable[[str], object] = str
) -> Architecture:
    """Write the skeleton of the ControlNet in `folder` to the folder `out`; only the config is read.

    Raises GraphError for a ControlNet that cannot be exported, CheckpointError for an unreadable config.
    """
    models, (sizes, plan) = _planned({CONTROLNET: read_json(folder / "config.json")}, _controlnet)
    architecture = Architecture(
        name or folder.resolve().name,
        DIFFUSION.name,
        {CONTROLNET: _component(models[CONTROLNET])},
        {recipe.name: described(recipe) for recipe in plan},
        sizes,
    )
    write(out, architecture, plan, progress)
    return architecture


def _controlnet(models: Models) -> Planned:
    model = models[CONTROLNET]
    stride, factor = _downsampling(model), int(2 ** (len(model.config.conditioning_embedding_out_channels) - 1))
    latents = {"channels": model.config.in_channels, "factor": factor}
    plan = [recipes.controlnet(model, latents, stride)]
    return {"latents": latents, "image": {"multiple_of": factor * stride}}, plan


def write(out: Path, architecture: Architecture, plan: list[Recipe], progress: Callable[[str], object]) -> None:
    with atomic.folder(out) as draft:
        for recipe in plan:
            progress(f"exporting {recipe.name}")
            (draft / f"{recipe.name}.onnx").write_bytes(trace(recipe))
        text = json.dumps(json.loads(architecture.canonical()), indent=1, sort_keys=True, ensure_ascii=False)
        (draft / "architecture.json").write_text(text + "\n", encoding="utf-8")


def trace(recipe: Recipe) -> bytes:
    """The recipe's skeleton. Raises GraphError when torch cannot export the module."""
    try:
        # The exporter warns about its own internals on every run; real problems are exceptions.
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
    shapes = {name: tuple(value.shape) for name, value in recipe.module.named_parameters()}
    names = {name: recipe.prefix + name.removeprefix(WRAPPER) for name in shapes}
    whole = {names[name]: shape for name, shape in shapes.items() if recipe.whole}
    return skeleton.make(program.model, names, whole, f"{recipe.component}.safetensors", recipe.inputs, recipe.outputs)


def build(part: str, config: Json) -> Any:
    """The component's module in float32, eval mode, random weights. Raises GraphError if it cannot be served."""
    support.check_component(part, config)
    kind = families.class_of(config)
    if kind in TEXT_ENCODERS:
        # Built by its class: from_config would take the dtype that the checkpoint was saved in.
        return TEXT_ENCODERS[kind](CLIPTextConfig(**{**config, "dtype": "float32"})).eval()
    return NETWORKS[kind].from_config(config).eval()


def _downsampling(model: Any) -> int:
    return int(2 ** (len(model.config.block_out_channels) - 1))


def _component(model: Any) -> Component:
    kind = type(model).__name__
    facts = PARTS[kind].facts
    if kind in TEXT_ENCODERS:
        return Component(kind, facts(model.config.to_dict()), facts(CLIPTextConfig().to_dict()))
    parameters = inspect.signature(type(model).__init__).parameters
    defaults = {key: item.default for key, item in parameters.items() if item.default is not inspect.Parameter.empty}
    # diffusers also keeps keys that it does not know: a training run's settings would make every checkpoint unique.
    config = {key: value for key, value in model.config.items() if key in parameters}
    return Component(kind, _plain(facts(config)), _plain(facts(defaults)))


def _plain(value: Json) -> Json:
    """The value as JSON: tuples become lists."""
    plain: Json = json.loads(json.dumps(value))
    return plain


def described(recipe: Recipe) -> Graph:
    return Graph(recipe.component, f"{recipe.name}.onnx", recipe.inputs, recipe.outputs, recipe.sites)
