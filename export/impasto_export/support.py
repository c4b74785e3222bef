"""Checks of component configs: refuse networks that need other inputs, and settings that impasto does not serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from impasto_export.architecture import Json
from impasto_export.errors import GraphError
from impasto_export.families import KNOWN, Family, class_of, classes

# Config keys that mean more inputs than the text, or residuals of another form; and what the network then does.
EXTRAS = {
    "class_embed_type": "takes class labels or images (unCLIP, upscalers)",
    "num_class_embeds": "takes class labels or noise levels (upscalers)",
    "encoder_hid_dim_type": "projects images or wider texts (Kandinsky, IF, IP-Adapter)",
}
UNUSUAL = {
    "UNet2DConditionModel": EXTRAS,
    "ControlNetModel": {
        **EXTRAS,
        "addition_embed_type": "is SDXL's",
        "time_cond_proj_dim": "takes a guidance embedding",
        "global_pool_conditions": "hands over pooled residuals",
    },
}
# SDXL's value of addition_embed_type: its UNet also takes the pooled text and sizes.
ADDED = "text_time"
# Config keys of which one value alone is exported: the class's default, that value, and the reason.
TEXT = {"use_attention_mask": (False, False, "the encoder reads the padding, too")}
FIXED: dict[str, dict[str, tuple[Any, Any, str]]] = {
    "CLIPTextModel": TEXT,
    "CLIPTextModelWithProjection": TEXT,
    "ControlNetModel": {"conditioning_channels": (3, 3, "hints have 3 channels")},
    "VQModel": {
        "norm_type": ("group", "group", "a spatial norm reads the codes again in every layer"),
        "lookup_from_codebook": (False, True, "tokens are looked up"),
    },
}
# By number of a UNet's input channels: what it takes beside the latents.
WIDER = {
    5: "a depth map",
    7: "the picture to be enlarged",
    8: "the picture to be edited",
    9: "a mask and the masked picture (inpainting)",
}
# The default of both networks' channels.
CHANNELS = 4
# Defaults of an upscaler's config, for the keys that must agree with one another.
UPSCALER = {
    "hidden_size": 1024, "num_attention_heads": 16, "num_low_layers": 16, "num_layers": 32, "intermediate_size": 2816,
    "embed_dim": 256, "scale": 4, "patch": 1,
}  # fmt: skip
# Half of a head's features encode row and column, in pairs; so a head's size is a multiple of this.
HEAD_PARTS = 8
# How many numbers SDXL's UNet takes: original height and width, crop's top and left, target height and width.
TIME_IDS = 6


def check(configs: Mapping[str, Json]) -> None:
    """Raises GraphError for configs of a checkpoint or a companion that no graph can be exported for."""
    for part, config in configs.items():
        check_component(part, config)
    for family in KNOWN:
        if family.parts.keys() == configs.keys():
            _check_classes(family, configs)
    if configs.keys() >= {"unet", "vae"}:
        _check_unet(configs)
    if "upscaler" in configs:
        _check_upscaler(configs)


def _check_classes(family: Family, configs: Mapping[str, Json]) -> None:
    """Raises GraphError for a component whose class is not this family's."""
    for part, config in configs.items():
        kind, wanted = class_of(config), family.parts[part].class_name
        if kind != wanted:
            raise GraphError(f"{part} is a {kind}; in a {family.name} checkpoint it is a {wanted}")


def check_component(part: str, config: Json) -> None:
    """Raises GraphError for a component that cannot be served in any family."""
    kind, known = class_of(config), classes(part)
    if kind not in known:
        raise GraphError(f"{part} is a {kind}; only {' or '.join(known)} is served")
    for key, what in UNUSUAL.get(kind, {}).items():
        if config.get(key):
            raise GraphError(f"{part}: {key} is {config[key]!r}, so it {what}; only text conditioning is served")
    check_fixed({part: config})


def check_fixed(configs: Mapping[str, Json]) -> None:
    """Raises GraphError for a setting with another value than the one that every graph is exported with."""
    for part, config in configs.items():
        for key, (default, only, why) in FIXED.get(class_of(config), {}).items():
            value = default if config.get(key) is None else config[key]
            if value != only:
                raise GraphError(f"{part}: {key} is {value}; only {only} is exported: {why}")


def _check_unet(configs: Mapping[str, Json]) -> None:
    unet, second = configs["unet"], configs.get("text_encoder_2")
    channels, latents = unet.get("in_channels", CHANNELS), configs["vae"].get("latent_channels", CHANNELS)
    if channels != latents:
        what = WIDER.get(channels, "something else") if latents == CHANNELS else "something else"
        raise GraphError(
            f"unet: in_channels is {channels}, but the vae's latent_channels is {latents}, so it takes {what} beside "
            "the sample; only UNets that take the sample alone are served"
        )
    added = unet.get("addition_embed_type")
    if added != (None if second is None else ADDED):
        held = "no text_encoder_2" if second is None else "a text_encoder_2"
        raise GraphError(
            f"unet: addition_embed_type is {added!r}, and there is {held}; SDXL has {ADDED!r} and a text_encoder_2, "
            "the other families have neither"
        )
    if second is not None:
        _check_sizes(unet, second)


def _check_upscaler(configs: Mapping[str, Json]) -> None:
    """Raises GraphError for a second stage that doesn't fit the first, naming every mismatch."""
    upscaler, other = configs["upscaler"], {part: configs[part] for part in configs if part != "upscaler"}
    needed = ("codebook_size", "vocab_size", "low_vocab_size", "encoder_hidden_size")
    counts = {**UPSCALER, **upscaler}
    odd = [key for key in (*needed, *UPSCALER) if type(counts.get(key)) is not int or counts[key] < 1]
    if odd:
        stated = ", ".join(f"{key} is {counts.get(key)!r}" for key in odd)
        raise GraphError(f"upscaler: {stated}; whole numbers of at least 1 are expected")
    pairs = {
        "codebook_size": ("upscaler_vqvae", "num_vq_embeddings"),
        "low_vocab_size": ("transformer", "vocab_size"),
        "encoder_hidden_size": ("text_encoder", "hidden_size"),
    }
    apart = [
        f"{key} is {counts[key]}, {part}.{name} {other[part].get(name)}"
        for key, (part, name) in pairs.items()
        if counts[key] != other[part].get(name)
    ]
    if apart:
        raise GraphError(f"upscaler: {'; '.join(apart)}; they must be equal")
    _check_shape(counts)
    _check_zoom(counts["scale"], *(_pixels_a_token(configs[part]) for part in ("vqvae", "upscaler_vqvae")))


def _check_shape(counts: Mapping[str, int]) -> None:
    """Raises GraphError for a second stage that can't be built, or whose vocabulary has no room for the mask."""
    if counts["vocab_size"] <= counts["codebook_size"]:
        problem = f"vocab_size is {counts['vocab_size']} and codebook_size {counts['codebook_size']}"
        raise GraphError(f"upscaler: {problem}; the mask needs an id after the codes")
    if counts["scale"] % counts["patch"]:
        problem = f"scale is {counts['scale']} and patch {counts['patch']}"
        raise GraphError(f"upscaler: {problem}; the patch must divide the scale, for pictures of any size")
    if counts["hidden_size"] % (HEAD_PARTS * counts["num_attention_heads"]):
        problem = f"hidden_size is {counts['hidden_size']} and num_attention_heads {counts['num_attention_heads']}"
        raise GraphError(f"upscaler: {problem}; every head needs a multiple of {HEAD_PARTS} features")


def _check_zoom(scale: int, coarse: int, fine: int) -> None:
    """Raises GraphError unless the finished picture is a whole number of times as wide as the first stage's."""
    if scale * fine % coarse:
        what = f"scale is {scale}, a token of upscaler_vqvae {fine} pixels and one of vqvae {coarse}"
        raise GraphError(
            f"upscaler: {what}, so the finished picture is {scale * fine / coarse:g} times as wide as the "
            "first stage's; it must be a whole number"
        )


def _pixels_a_token(vqvae: Json) -> int:
    return int(2 ** (len(vqvae.get("block_out_channels", (1,))) - 1))


def _check_sizes(unet: Json, text: Json) -> None:
    """Raises GraphError for a UNet that takes other numbers than a size, a crop and a target size."""
    pooled, each = text.get("projection_dim", 0), unet.get("addition_time_embed_dim") or 0
    width = unet.get("projection_class_embeddings_input_dim") or 0
    if not all(type(number) is int for number in (width, pooled, each)) or width != pooled + TIME_IDS * each:
        raise GraphError(
            f"unet: projection_class_embeddings_input_dim is {width}; a pooled text of {pooled} and {TIME_IDS} numbers "
            f"of {each} each are served. SDXL's refiner, which takes an aesthetic score, is not served"
        )
