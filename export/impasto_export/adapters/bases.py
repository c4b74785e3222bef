"""Guess the base model of a LoRA from its layers' names and widths, and from its header."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from impasto_export.architecture import parse_json

SD1, SD2, SDXL, AMUSED = "Stable Diffusion 1.x", "Stable Diffusion 2.x", "SDXL", "aMUSEd"
# Parts of names that only one family has, the served ones last.
NAMED = {
    "double_blocks": "FLUX, a family that is not served",
    "single_transformer_blocks": "FLUX, a family that is not served",
    "joint_blocks": "Stable Diffusion 3, a family that is not served",
    "add_q_proj": "Stable Diffusion 3 or FLUX, families that are not served",
    "lora_te3_": "Stable Diffusion 3, a family that is not served",
    "transformer_layers": AMUSED,
    "text_encoder_2.": SDXL,
}
# Layers of cross-attention that read the text, and layers of a text encoder; their input widths tell the model.
CONTEXT = ("attn2.to_k", "attn2.to_v", "attn2_to_k", "attn2_to_v")
CONTEXT_WIDTHS = {768: SD1, 1024: SD2, 2048: SDXL}
TEXT = ("self_attn.q_proj", "self_attn_q_proj", "mlp.fc1", "mlp_fc1")
TEXT_WIDTHS = {768: f"{SD1}, or SDXL's first text encoder", 1024: SD2, 1280: SDXL}
# Header entries that name the base model, and how their values begin.
SAYING = ("ss_base_model_version", "modelspec.architecture")
SAID = {
    "sdxl": SDXL,
    "stable-diffusion-xl": SDXL,
    "sd_v2": SD2,
    "stable-diffusion-v2": SD2,
    "sd_v1": SD1,
    "stable-diffusion-v1": SD1,
}
UNKNOWN = "unknown"
# Header entries with words that may trigger the style; and how many of the captions' tags are shown.
TRIGGER, TITLE = "modelspec.trigger_phrase", "modelspec.title"
WORDS = {TRIGGER: "trigger phrase", "modelspec.usage_hint": "usage hint"}
TAGS, SHOWN = "ss_tag_frequency", 8


@dataclass(frozen=True)
class Guess:
    """A base model's name, and the reason for the guess."""

    base: str
    because: str


def guess(names: Collection[str], widths: Mapping[str, int], metadata: Mapping[str, str]) -> Guess:
    """The base model, by the file's names of layers, then by their input `widths`, then by its header."""
    for part, base in NAMED.items():
        named = next((name for name in names if part in name), None)
        if named is not None:
            return Guess(base, f"it names {named}")
    for places, known, what in ((CONTEXT, CONTEXT_WIDTHS, "cross-attention"), (TEXT, TEXT_WIDTHS, "text encoder")):
        told = next((name for name in widths if name.endswith(places) and widths[name] in known), None)
        if told is not None:
            return Guess(known[widths[told]], f"its {what} takes {widths[told]} features")
    for key, text in said(metadata).items():
        told = next((start for start in SAID if text.startswith(start)), None)
        if told is not None:
            return Guess(SAID[told], f"its header's {key} is {text}")
    strange = sorted({width for name, width in widths.items() if name.endswith(CONTEXT)})
    if strange:
        return Guess(UNKNOWN, f"its widths ({', '.join(map(str, strange))}) are those of no known base model")
    return Guess(UNKNOWN, "it names neither cross-attention nor a text encoder of a known width")


def said(metadata: Mapping[str, str]) -> dict[str, str]:
    """The header's entries on its base model."""
    return {key: metadata[key] for key in SAYING if metadata.get(key)}


def words(metadata: Mapping[str, str]) -> dict[str, str]:
    """Words that may trigger the style: its author's, and the most frequent tags of its captions."""
    found = {name: metadata[key] for key, name in WORDS.items() if metadata.get(key)}
    counts = _tags(metadata.get(TAGS, ""))
    return {**found, **({"frequent tags": ", ".join(tag for tag, _ in counts.most_common(SHOWN))} if counts else {})}


def _tags(text: str) -> Counter[str]:
    """Counts from kohya's {folder: {tag: count}}; empty for anything else, since nothing depends on them."""
    counts: Counter[str] = Counter()
    try:
        for folder in parse_json(text).values():
            counts.update({str(tag).strip(): int(count) for tag, count in folder.items()})
    except (ValueError, TypeError, AttributeError):
        return Counter()
    return counts
