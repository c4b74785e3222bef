"""The many spellings of a layer's name, as trainers, libraries and programs write it.

Every reader of checkpoints and adapters reads a name in three steps: it takes wrappers off; the prefix tells the
component; the rest is the layer's path, in one of its network's spellings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping

from impasto_export.checkpoints import ldm

UNET, TRANSFORMER, TEXT, TEXT_2 = "unet", "transformer", "text_encoder", "text_encoder_2"
UPSCALER = "upscaler"  # the second stage, after a transformer
ENCODERS, AUTOENCODERS = (TEXT, TEXT_2), ("vae", "vqvae", "upscaler_vqvae")
# What wrappers of a module leave in a path: torch.compile, DDP and accelerate, FSDP, activation checkpointing, PEFT.
WRAPPERS = (
    "_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_model.model", "base_layer",
)  # fmt: skip
# By writer: the prefixes of names, and the component that each means; None where the prefix does not tell.
PREFIXES: Mapping[str, Mapping[str, str | None]] = {
    "diffusers": {f"{graph}.": graph for graph in (UNET, TRANSFORMER, UPSCALER, TEXT, TEXT_2)},
    # Parts of an original checkpoint, under its own names and those of ComfyUI's models in memory.
    "original": {
        "model.diffusion_model.": UNET,
        "diffusion_model.": UNET,
        "cond_stage_model.transformer.": TEXT,
        "conditioner.embedders.0.transformer.": TEXT,
        "text_encoders.clip_l.transformer.": TEXT,
        "text_encoders.clip_h.transformer.": TEXT,
        "text_encoders.clip_g.transformer.": TEXT_2,
        "clip_l.transformer.": TEXT,
        "clip_h.transformer.": TEXT,
        "clip_g.transformer.": TEXT_2,
    },
    "onetrainer": {
        "clip_l.": TEXT,
        "clip_g.": TEXT_2,
        "lora_unet.": UNET,
        "lora_te.": TEXT,
        "lora_te1.": TEXT,
        "lora_te2.": TEXT_2,
    },
    # Every dot is an underscore, here and in all that follows the prefix.
    "kohya": {
        "lora_unet_": UNET,
        "diffusion_model_": UNET,
        "lora_transformer_": TRANSFORMER,
        "lora_upscaler_": UPSCALER,
        "lora_te_": TEXT,
        "lora_te1_": TEXT,
        "lora_te2_": TEXT_2,
    },
    "lycoris": {"lycoris_": None},
}
# Names of an autoencoder's attention layers: diffusers today, older diffusers, original checkpoints.
ATTENTION = (
    ("to_q", "query", "q"),
    ("to_k", "key", "k"),
    ("to_v", "value", "v"),
    ("to_out.0", "proj_attn", "proj_out"),
)
MODERN, ORIGINAL = 0, 2
# Libraries disagree on whether the path begins with the text model's name. Layers beside the text model lack it.
TEXT_PREFIX, TEXT_HEADS = "text_model.", ("text_projection",)

_WRAPPED = re.compile(rf"(?:^|(?<=\.))(?:(?:{'|'.join(map(re.escape, WRAPPERS))})(?:\.|$))+")
_FLAT_WRAPPED = re.compile(rf"(?:^|(?<=_))(?:(?:{'|'.join(name.replace('.', '_') for name in WRAPPERS)})(?:_|$))+")
# The longest first, since one prefix may begin another.
_STARTS = sorted(
    ((start, graph) for part in PREFIXES.values() for start, graph in part.items()),
    key=lambda pair: len(pair[0]),
    reverse=True,
)
_ATTENDING = re.compile(r"(?P<owner>.*\.(?:attentions\.\d+|attn_\d+)\.)(?P<layer>to_out\.0|[a-z_]+)(?P<end>\.[a-z]+)")


def unwrapped(name: str) -> str:
    """A dotted name without the parts that wrappers left in it."""
    return _joined(_WRAPPED, name, ".")


def component(name: str) -> tuple[str | None, str]:
    """The component that a name's prefix tells, and the rest: the layer's path, in any spelling."""
    bare = unwrapped(name)
    found = next(((start, graph) for start, graph in _STARTS if bare.startswith(start)), None)
    if found is None:
        return None, bare
    start, graph = found
    rest = bare.removeprefix(start)
    again = component(rest)  # some savers put a prefix before names that had one
    return again if graph is not None and again[0] == graph else (graph, rest)


def writer(names: Iterable[str]) -> str:
    """Who writes names like these: the last of PREFIXES that any of them has, since later ones are more specific."""
    bare = [unwrapped(name) for name in names]
    known = [who for who, starts in PREFIXES.items() if any(name.startswith(tuple(starts)) for name in bare)]
    return known[-1] if known else "diffusers"


def flat(path: str) -> str:
    """The path with underscores for dots and without wrappers; spellings that differ only in these become equal."""
    return _joined(_FLAT_WRAPPED, path.replace(".", "_"), "_")


def spelled(graph: str, modules: Collection[str]) -> dict[str, str]:
    """Flattened path -> module, for every spelling of a component's `modules`.

    Whole paths are looked up: to split one at its underscores would be a guess.
    """
    others: Callable[[str], str] = str
    if graph == UNET:
        others = originals(modules)
    elif graph in ENCODERS:
        others = without_text_model
    return {flat(spell(name)): name for spell in (others, str) for name in modules}


def originals(modules: Collection[str]) -> Callable[[str], str]:
    """A function from a module's name in a diffusers UNet to its original name, where blocks are numbered in a row.

    `modules` are the UNet's: they tell how many layers a block has, and which blocks have attention.
    """
    found = [match for name in modules if (match := ldm.UNET_BLOCK.fullmatch(f"{name}.weight"))]
    deepest = max((int(match["layer"]) for match in found if match["way"] == "down"), default=0)
    ups = [match for match in found if match["way"] == "up"]
    attending = {match["block"] for match in ups if match["kind"] == "attentions"}
    types = {int(match["block"]): "CrossAttn" if match["block"] in attending else "" for match in ups}
    config = {"layers_per_block": deepest + 1, "up_block_types": types}
    return lambda name: ldm.unet(f"{name}.weight", config).name.removesuffix(".weight")


def nearest(path: str, known: Mapping[str, str]) -> str | None:
    """The module of `known` (from `spelled`) whose spelling begins and ends most like `path`; None if none is near.

    Near means that at least half of the path's words are shared.
    """
    words = flat(path).split("_")
    shared = {spelling: _shared(words, spelling.split("_")) for spelling in known}
    best = max(shared, key=lambda spelling: shared[spelling], default="")
    return known[best] if best and 2 * shared[best] >= len(words) else None


def canonical(part: str, name: str) -> str:
    """The name that graphs use for a tensor of a diffusers folder, whichever library version saved it."""
    bare = unwrapped(name)
    if part in ENCODERS:
        return with_text_model(bare)
    return attention(bare, MODERN) if part in AUTOENCODERS else bare


def with_text_model(path: str) -> str:
    return path if path.startswith((TEXT_PREFIX, *TEXT_HEADS)) else TEXT_PREFIX + path


def without_text_model(path: str) -> str:
    return path.removeprefix(TEXT_PREFIX)


def attention(name: str, style: int) -> str:
    """The name of an autoencoder's tensor with its attention layers spelled in the `style` of ATTENTION."""
    match = _ATTENDING.fullmatch(name)
    names = next((names for names in ATTENTION if match and match["layer"] in names), None)
    return f"{match['owner']}{names[style]}{match['end']}" if match and names else name


def _joined(wrapped: re.Pattern[str], name: str, mark: str) -> str:
    return wrapped.sub("", name).strip(mark) if wrapped.search(name) else name


def _shared(words: list[str], others: list[str]) -> int:
    """How many words two names share at their beginnings, plus those at their ends."""
    least = min(len(words), len(others))
    start = next((at for at in range(least) if words[at] != others[at]), least)
    return start + next((at for at in range(least - start) if words[-1 - at] != others[-1 - at]), least - start)
