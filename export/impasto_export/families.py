"""The backbone families: the components of each, and how to tell which family a checkpoint belongs to."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto_export.architecture import Json, read_json
from impasto_export.checkpoints import others
from impasto_export.errors import CheckpointError

INDEX = "model_index.json"
# The index's value for a part that the checkpoint does not have.
ABSENT = [None, None]
# These pipelines of diffusers correct settings of old configs; its others don't. A folder without model_index.json is
# read as by the first.
CORRECTING = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
# The class of a config that names none.
UNNAMED = "?"
# Files by which an adapter's folder is recognised.
ADAPTERS = {"adapter_config.json", "pytorch_lora_weights.safetensors"}
SERVED = (
    "Stable Diffusion 1.x and 2.x, SDXL, their Turbo and latent consistency models, and aMUSEd, also with Muse's "
    "second stage"
)

# A transformers config has dozens of generation settings, so this lists the keys that the graph depends on.
TEXT_FACTS = {
    "hidden_act", "hidden_size", "intermediate_size", "layer_norm_eps", "max_position_embeddings",
    "num_attention_heads", "num_hidden_layers", "vocab_size",
}  # fmt: skip
# Where a text is pooled, and its width then. Only the encoder with a projection returns the pooled text.
END_OF_TEXT, LEGACY_END = "eos_token_id", 2
POOLING_FACTS = {END_OF_TEXT, "projection_dim"}


@dataclass(frozen=True)
class Part:
    """A component: its class, which config keys its graph depends on, and the stem of its weights file."""

    class_name: str
    in_graph: Callable[[str], bool]
    stem: str = "diffusion_pytorch_model"

    def facts(self, config: Mapping[str, Any]) -> Json:
        """The config's keys that determine the component's graph."""
        return {key: value for key, value in config.items() if not key.startswith("_") and self.in_graph(key)}


@dataclass(frozen=True)
class Family:
    """A family: `parts` by the checkpoint's folders; `pipelines` are the diffusers classes with these parts.

    Two families may share a name: they are served alike, but one has more parts.
    """

    name: str
    parts: Mapping[str, Part]
    pipelines: tuple[str, ...]


def _only(keys: set[str]) -> Callable[[str], bool]:
    return keys.__contains__


def _without(*keys: str) -> Callable[[str], bool]:
    """All keys but these. The graph reads none of them: they are default sizes, and number formats for eager torch."""
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
# Its second text encoder also pools the text. The UNet takes the pooled text beside both encoders' embeddings.
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
# Muse's second stage, in the same folder as an aMUSEd checkpoint's parts; aMUSEd's pipelines do not know it.
CASCADE = Family(
    MASKED.name,
    {**MASKED.parts, "upscaler": Part("MuseUpscaler", _without()), "upscaler_vqvae": VQVAE},
    MASKED.pipelines,
)
# Models beside a checkpoint, each in its own folder. clip.facts reduces a CLIP's config to what its graphs depend on.
COMPANIONS = {"controlnet": Part("ControlNetModel", _without()), "clip": Part("CLIPModel", _without(), "model")}

# A family that has another's folders and more comes before it.
KNOWN = (SDXL, DIFFUSION, CASCADE, MASKED)
# No diffusers layout, and so no parts: `feedforward` reads its files.
FEEDFORWARD = "feedforward"
FAMILIES = {*(family.name for family in KNOWN), FEEDFORWARD}
_NAMED = [pair for parts in (*(family.parts for family in KNOWN), COMPANIONS) for pair in parts.items()]
PARTS = {part.class_name: part for _, part in _NAMED}


def of(checkpoint: Path) -> Family:
    """The family of a checkpoint folder, told by its model_index.json or, without one, by its subfolders.

    Raises CheckpointError that names what the checkpoint is instead.
    """
    if not (checkpoint / INDEX).is_file():
        return _by_folders(checkpoint)
    index = read_json(checkpoint / INDEX)
    family = _by_pipeline(index, checkpoint)
    _check_classes(index, family, checkpoint / INDEX)
    absent = [part for part in family.parts if index.get(part) == ABSENT]
    if absent:
        what = "; that is SDXL's refiner, which takes an aesthetic score" if family is SDXL else ""
        raise CheckpointError(
            f"{checkpoint / INDEX}: {', '.join(absent)} is null{what}; a checkpoint needs {', '.join(family.parts)}"
        )
    return family


def _check_classes(index: Json, family: Family, path: Path) -> None:
    """Raises CheckpointError for a part whose class is not the family's."""
    for name, part in family.parts.items():
        stated = index.get(name)
        kind = stated[-1] if isinstance(stated, list) and stated else None
        if kind not in (None, part.class_name):
            raise CheckpointError(f"{path}: {name} is a {kind}; only a {part.class_name} can be served")


def _by_pipeline(index: Json, checkpoint: Path) -> Family:
    pipeline = str(index.get("_class_name"))
    families = [family for family in KNOWN if pipeline in family.pipelines]
    if families:
        return CASCADE if CASCADE in families and _upscales(checkpoint, index) else families[-1]
    known = ", ".join(dict.fromkeys(name for family in KNOWN for name in family.pipelines))
    what = others.called(pipeline)
    named = f"{pipeline!r}, {what}" if what else repr(pipeline)
    raise CheckpointError(f"{checkpoint / INDEX}: _class_name is {named}; impasto serves {SERVED}: {known}")


def _upscales(checkpoint: Path, index: Json) -> bool:
    """Whether the checkpoint has a second stage. Raises CheckpointError where it has half of one, or only names it."""
    stage = CASCADE.parts.keys() - MASKED.parts.keys()
    held = {part for part in stage if (checkpoint / part).is_dir()}
    named = {part for part in stage if index.get(part, ABSENT) not in (None, ABSENT)}
    flat = {part for part in stage - held if os.path.lexists(checkpoint / part)}
    if held | named | flat and held != stage:
        missing, there = _both(stage - held), _both(held | named | flat)
        what = f"has {_both(held)} but no {missing}" if held else f"names {there} but has no such folder"
        strange = f" ({_both(flat)}: not a folder)" if flat else ""
        beside = f", also from {INDEX}," if named else ""
        fix = f"add {missing}, or remove {there}{beside} to serve the first stage alone"
        raise CheckpointError(f"{checkpoint}: it {what}{strange}, and a second stage needs both; {fix}")
    return bool(held)


def _both(parts: Collection[str]) -> str:
    return " and ".join(sorted(parts))


def _by_folders(checkpoint: Path) -> Family:
    _upscales(checkpoint, {})
    for family in KNOWN:
        if all((checkpoint / part).is_dir() for part in family.parts):
            return family
    what = _instead(checkpoint)
    if what:
        raise CheckpointError(f"{checkpoint} is not a checkpoint: it holds {what}")
    configs = {path.parent.name: class_of(read_json(path)) for path in sorted(checkpoint.glob("*/config.json"))}
    held = ", ".join(f"{folder} ({kind})" for folder, kind in configs.items()) or "no component"
    wanted = "; ".join(f"{family.pipelines[0]} has {', '.join(family.parts)}" for family in KNOWN)
    raise CheckpointError(f"{checkpoint}: it has no {INDEX}, and its folders fit no family: it holds {held}; {wanted}")


def _instead(folder: Path) -> str:
    """What the folder holds if it is a bundle, an adapter, one component or loose files, with the fix; else ""."""
    held = {path.name for path in folder.iterdir()}
    files = sorted(name for name in held if name.endswith(".safetensors"))
    if "manifest.json" in held:
        return "a bundle, which is linked already; give its checkpoint"
    if ADAPTERS & held:
        return "an adapter; import it with `impasto adapters import`"
    if "config.json" in held:
        kind = class_of(read_json(folder / "config.json"))
        beside = (
            "; give it with --controlnet, beside one" if kind == "ControlNetModel" else "; give the folder around it"
        )
        return f"a {kind} alone{beside}"
    return f"{', '.join(files[:3])}; give the file itself" if files else ""


def end_of_text(stated: Any, vocabulary: int) -> Any:
    """The token id that a config's END_OF_TEXT means. Older configs state 2 by mistake; transformers then takes the
    vocabulary's highest id."""
    return vocabulary - 1 if stated == LEGACY_END else stated


def classes(name: str) -> list[str]:
    """The classes that a component of this name has, over all families."""
    return list(dict.fromkeys(part.class_name for folder, part in _NAMED if folder == name))


def corrected(index: Json) -> bool:
    """Whether the pipeline that model_index.json names corrects settings of old configs."""
    return index.get("_class_name", CORRECTING[0]) in CORRECTING


def class_of(config: Mapping[str, Any]) -> str:
    """The class that a component's config names, UNNAMED where it names none."""
    return str(config.get("_class_name") or (config.get("architectures") or [UNNAMED])[0])
