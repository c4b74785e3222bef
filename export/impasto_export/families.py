"""The backbone families: which components a checkpoint of each has, and how it is told which one a checkpoint is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto_export.architecture import Json, read_json
from impasto_export.checkpoints import others
from impasto_export.errors import CheckpointError

INDEX = "model_index.json"
# How the index says that a checkpoint goes without a part.
ABSENT = [None, None]
# These pipelines correct settings of old configs, and diffusers' others take them as they are. A folder without
# model_index.json is read as the first would.
CORRECTING = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
# The class of a config that says none.
UNNAMED = "?"
# Files that an adapter's folder has.
ADAPTERS = {"adapter_config.json", "pytorch_lora_weights.safetensors"}
SERVED = (
    "Stable Diffusion 1.x and 2.x, SDXL, their Turbo and latent consistency models, and aMUSEd, also with a second "
    "stage as Muse has it"
)

# A transformers config carries dozens of generation settings, so here it is the graph's own facts that are listed.
TEXT_FACTS = {
    "hidden_act", "hidden_size", "intermediate_size", "layer_norm_eps", "max_position_embeddings",
    "num_attention_heads", "num_hidden_layers", "vocab_size",
}  # fmt: skip
# Where a text is pooled, and to what width: only the encoder with a projection hands the result over.
END_OF_TEXT, LEGACY_END = "eos_token_id", 2
POOLING_FACTS = {END_OF_TEXT, "projection_dim"}


@dataclass(frozen=True)
class Part:
    """One component: its class, which keys of its config its graph depends on, and the stem of its weights file."""

    class_name: str
    in_graph: Callable[[str], bool]
    stem: str = "diffusion_pytorch_model"

    def facts(self, config: Mapping[str, Any]) -> Json:
        """The part of the component's config that determines its graph."""
        return {key: value for key, value in config.items() if not key.startswith("_") and self.in_graph(key)}


@dataclass(frozen=True)
class Family:
    """`parts` by the checkpoint's folders; `pipelines` are the diffusers classes whose checkpoints have them.

    Two may share a name: they are served alike, and one has a part more.
    """

    name: str
    parts: Mapping[str, Part]
    pipelines: tuple[str, ...]


def _only(keys: set[str]) -> Callable[[str], bool]:
    return keys.__contains__


def _without(*keys: str) -> Callable[[str], bool]:
    """What is left out is read by nothing in the graph: default sizes, and numerical-format hints for eager torch."""
    return lambda key: key not in keys


TEXT = Part("CLIPTextModel", _only(TEXT_FACTS), "model")
PROJECTED_TEXT = Part("CLIPTextModelWithProjection", _only(TEXT_FACTS | POOLING_FACTS), "model")
UNET = Part("UNet2DConditionModel", _without("sample_size", "dropout"))
VAE = Part(
    "AutoencoderKL",
    _without("sample_size", "scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast"),
)
DIFFUSION = Family(
    "diffusion",
    {"text_encoder": TEXT, "unet": UNET, "vae": VAE},
    (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionControlNetPipeline",
        "StableDiffusionControlNetImg2ImgPipeline",
        "LatentConsistencyModelPipeline",
        "LatentConsistencyModelImg2ImgPipeline",
    ),
)
# Its second text encoder also pools the text, which the UNet takes beside the embeddings of both.
SDXL = Family(
    DIFFUSION.name,
    {"text_encoder": TEXT, "text_encoder_2": PROJECTED_TEXT, "unet": UNET, "vae": VAE},
    ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"),
)
VQVAE = Part("VQModel", _without("sample_size", "scaling_factor", "force_upcast"))
MASKED = Family(
    "masked",
    {
        "text_encoder": PROJECTED_TEXT,
        "transformer": Part("UVit2DModel", _without("sample_size", "hidden_dropout", "attention_dropout")),
        "vqvae": VQVAE,
    },
    ("AmusedPipeline", "AmusedImg2ImgPipeline", "AmusedInpaintPipeline"),
)
# Muse's second stage stands beside an aMUSEd checkpoint's parts, whose pipelines know nothing of it.
CASCADE = Family(
    MASKED.name,
    {**MASKED.parts, "upscaler": Part("MuseUpscaler", _without()), "upscaler_vqvae": VQVAE},
    MASKED.pipelines,
)
# What stands beside a checkpoint, in a folder of its own; of a CLIP's config, clip.facts leaves what is in its graphs.
COMPANIONS = {"controlnet": Part("ControlNetModel", _without()), "clip": Part("CLIPModel", _without(), "model")}

# What has the folders of another and more comes before it.
KNOWN = (SDXL, DIFFUSION, CASCADE, MASKED)
# Not diffusers', and so without parts: `feedforward` reads its files.
FEEDFORWARD = "feedforward"
FAMILIES = {*(family.name for family in KNOWN), FEEDFORWARD}
_NAMED = [pair for parts in (*(family.parts for family in KNOWN), COMPANIONS) for pair in parts.items()]
PARTS = {part.class_name: part for _, part in _NAMED}


def of(checkpoint: Path) -> Family:
    """The family of a checkpoint folder, by its model_index.json, or by its folders where it has none.

    Raises CheckpointError naming what the checkpoint is instead.
    """
    if not (checkpoint / INDEX).is_file():
        return _by_folders(checkpoint)
    index = read_json(checkpoint / INDEX)
    family = _by_pipeline(str(index.get("_class_name")), checkpoint)
    _check_classes(index, family, checkpoint / INDEX)
    absent = [part for part in family.parts if index.get(part) == ABSENT]
    if absent:
        what = "; that is SDXL's refiner, which takes an aesthetic score" if family is SDXL else ""
        raise CheckpointError(
            f"{checkpoint / INDEX}: {', '.join(absent)} is null{what}; what can be served has {', '.join(family.parts)}"
        )
    return family


def _check_classes(index: Json, family: Family, path: Path) -> None:
    """Raises CheckpointError for a part that diffusers would make of another class than the family's."""
    for name, part in family.parts.items():
        stated = index.get(name)
        kind = stated[-1] if isinstance(stated, list) and stated else None
        if kind not in (None, part.class_name):
            raise CheckpointError(f"{path}: {name} is a {kind}; in what can be served it is a {part.class_name}")


def _by_pipeline(pipeline: str, checkpoint: Path) -> Family:
    families = [family for family in KNOWN if pipeline in family.pipelines]
    if families:
        return CASCADE if CASCADE in families and _upscales(checkpoint) else families[-1]
    known = ", ".join(dict.fromkeys(name for family in KNOWN for name in family.pipelines))
    what = others.called(pipeline)
    named = f"{pipeline!r}, {what}" if what else repr(pipeline)
    raise CheckpointError(f"{checkpoint / INDEX}: _class_name is {named}; what can be served is {SERVED}: {known}")


def _upscales(checkpoint: Path) -> bool:
    """Whether there is a second stage. Raises CheckpointError for half of one."""
    stage = CASCADE.parts.keys() - MASKED.parts.keys()
    held = {part for part in stage if (checkpoint / part).is_dir()}
    if held and held != stage:
        (there,), (missing,) = held, stage - held
        fix = f"add {missing}, or take {there} away to have the first stage alone"
        raise CheckpointError(f"{checkpoint}: {there} is there without {missing}, and a second stage is both; {fix}")
    return bool(held)


def _by_folders(checkpoint: Path) -> Family:
    _upscales(checkpoint)
    for family in KNOWN:
        if all((checkpoint / part).is_dir() for part in family.parts):
            return family
    what = _instead(checkpoint)
    if what:
        raise CheckpointError(f"{checkpoint} is no checkpoint that paints: it holds {what}")
    configs = {path.parent.name: class_of(read_json(path)) for path in sorted(checkpoint.glob("*/config.json"))}
    held = ", ".join(f"{folder} ({kind})" for folder, kind in configs.items()) or "no component"
    wanted = "; ".join(f"{family.pipelines[0]} has {', '.join(family.parts)}" for family in KNOWN)
    raise CheckpointError(f"{checkpoint}: without {INDEX} its folders tell the family, and it holds {held}; {wanted}")


def _instead(folder: Path) -> str:
    """What it holds where that is one thing of another kind, and what to do with it."""
    held = {path.name for path in folder.iterdir()}
    files = sorted(name for name in held if name.endswith(".safetensors"))
    if "manifest.json" in held:
        return "a bundle, which is linked already; give its checkpoint"
    if ADAPTERS & held:
        return "an adapter; bring it in with `impasto adapters import`"
    if "config.json" in held:
        kind = class_of(read_json(folder / "config.json"))
        beside = (
            "; give it with --controlnet, beside one" if kind == "ControlNetModel" else "; give the folder around it"
        )
        return f"a {kind} alone{beside}"
    return f"{', '.join(files[:3])}; give the file itself" if files else ""


def end_of_text(stated: Any, vocabulary: int) -> Any:
    """The id that a config's END_OF_TEXT means: transformers takes the 2 of older ones, an error of theirs, for the
    vocabulary's highest."""
    return vocabulary - 1 if stated == LEGACY_END else stated


def classes(name: str) -> list[str]:
    """The classes that the component of this name has in any family."""
    return list(dict.fromkeys(part.class_name for folder, part in _NAMED if folder == name))


def corrected(index: Json) -> bool:
    """Whether the pipeline that model_index.json names corrects settings of old configs."""
    return index.get("_class_name", CORRECTING[0]) in CORRECTING


def class_of(config: Mapping[str, Any]) -> str:
    """The class that a component's config names, UNNAMED where it names none."""
    return str(config.get("_class_name") or (config.get("architectures") or [UNNAMED])[0])
