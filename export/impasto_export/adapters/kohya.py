"""kohya's names: a module's path with every dot an underscore. The path is diffusers' (SD 1.x, 2.x) or that of the
original UNet (SDXL), so both are flattened and looked up: taking names apart at underscores would be guessing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from impasto_export.checkpoints import ldm

UNET, WEIGHT = "unet", ".weight"
# Prefix of a name -> the graph it speaks of; LyCORIS's own wrapper leaves the component out.
PREFIXES = {
    "lora_unet_": UNET,
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lycoris_": UNET,
}


def split(key: str) -> tuple[str, str] | None:
    """(graph, flattened path) of a key in kohya's layout, else None."""
    name = key.partition(".")[0]
    start = next((start for start in PREFIXES if name.startswith(start)), None)
    return (PREFIXES[start], name.removeprefix(start)) if start else None


def flattened(graph: str, modules: Collection[str]) -> dict[str, str]:
    """Flattened path -> module, of every spelling of the graph's modules."""
    spellings = {name: name for name in modules}
    if graph == UNET:
        original = originals(modules)
        spellings |= {original(name): name for name in modules}
    return {path.replace(".", "_"): name for path, name in spellings.items()}


def originals(modules: Collection[str]) -> Callable[[str], str]:
    """What a module of a diffusers UNet is called in the original one, whose blocks are numbered through.

    `modules` are the UNet's: they tell how many layers a block has, and which blocks attend.
    """
    found = [match for name in modules if (match := ldm.UNET_BLOCK.fullmatch(f"{name}{WEIGHT}"))]
    deepest = max((int(match["layer"]) for match in found if match["way"] == "down"), default=0)
    ups = [match for match in found if match["way"] == "up"]
    attending = {match["block"] for match in ups if match["kind"] == "attentions"}
    types = {int(match["block"]): "CrossAttn" if match["block"] in attending else "" for match in ups}
    config = {"layers_per_block": deepest + 1, "up_block_types": types}
    return lambda name: ldm.unet(f"{name}{WEIGHT}", config).name.removesuffix(WEIGHT)
