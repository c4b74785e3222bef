"""Which architecture a single file is of, and where in the file each of its tensors lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import dropwhile
from pathlib import Path

from impasto_export import matching, spellings, splice
from impasto_export.architecture import Architecture, Json, read_json
from impasto_export.checkpoints import ldm
from impasto_export.checkpoints.checkpoint import Stored
from impasto_export.checkpoints.ldm import Place
from impasto_export.errors import MisfitCheckpoint, UnknownArchitecture
from impasto_export.splice import Slot
from impasto_export.weights import Header, Tensor

# Beside a skeleton for which there is such a layout, see `original`.
NAME = "original.json"
# Keys without content that SDXL files may carry: what the UNet predicts, and that it was trained to zero SNR.
V_PREDICTION, ZERO_SNR = "v_pred", "ztsnr"
CLIP = "clip"
TABLES: dict[str, ldm.Names] = {
    "unet": ldm.unet,
    "vae": ldm.vae,
    CLIP: ldm.unchanged,
    "open_clip": ldm.open_clip,
    "controlnet": ldm.controlnet,
    "diffusers": ldm.unchanged,
}
# What a training run leaves in the file: averaged copies, the noise schedule's buffers, which the config has, too, and
# what textual inversion put its vectors into.
UNUSED = (
    "model_ema.", "alphas_cumprod", "betas", "sqrt_", "log_one_minus_", "posterior_", "lvlb_weights", "logvar",
    "scale_factor", "global_step", "denoiser.sigmas", "embedding_manager.",
    V_PREDICTION, ZERO_SNR,
)  # fmt: skip
# Buffers that older checkpoints saved beside the weights; the graphs carry them as constants.
BUFFERS = (".position_ids", ".attn_mask", ".logit_scale")


@dataclass(frozen=True)
class Layout:
    """One that a single file may have: the skeleton that it is for, and what its `original.json` says."""

    skeleton: Path
    found: Architecture
    stated: Json


@dataclass(frozen=True)
class Fit:
    """How a file agrees with a layout: each part's tensors, in what the bundle calls the file, and all that is wrong.

    `turned` are those whose bytes are in another order there: `PART.NAME` and what the file calls it.
    """

    layout: Layout
    tensors: Mapping[str, Mapping[str, Stored]]
    turned: Mapping[str, str]
    missing: tuple[str, ...]
    misfit: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def wrong(self) -> int:
        return len(self.missing) + len(self.misfit) + len(self.unused)


def layouts(skeletons: Sequence[Path]) -> list[Layout]:
    """Of every skeleton that has one beside it."""
    known = matching.skeletons(skeletons).items()
    return [Layout(path, found, read_json(path / NAME)) for path, found in known if (path / NAME).is_file()]


def nearest(header: Header, known: Sequence[Layout], file: str, foreign: Mapping[str, str]) -> Fit:
    """The one that fits; the bundle is to call the file `file`. `foreign`: what else it may be, by a part of its keys.

    Raises UnknownArchitecture naming what the file is instead, or MisfitCheckpoint for the nearest architecture.
    """
    fit = min((_fit(header, layout, file) for layout in known), key=lambda fit: fit.wrong, default=None)
    if fit and not fit.wrong:
        return fit
    for part, what in foreign.items():
        if any(part in name for name in header.tensors):
            raise UnknownArchitecture(f"{header.path} is {what}")
    if not fit:
        raise UnknownArchitecture(f"{header.path}: no skeleton of a single file's layout was found")
    if not any(fit.tensors.values()):
        held = ", ".join(sorted(header.tensors)[:3]) or "none"
        raise UnknownArchitecture(f"{header.path} is nothing that can be linked; its tensors: {held}")
    near = f"{fit.layout.found.name}, the nearest architecture of a single file"
    raise MisfitCheckpoint(str(header.path), fit.missing, fit.misfit, fit.unused, near)


def _fit(header: Header, layout: Layout, file: str) -> Fit:
    found, stated = layout.found, layout.stated
    tensors: dict[str, dict[str, Stored]] = {part: {} for part in found.components}
    turned: dict[str, str] = {}
    missing, misfit, used = set(), set(), set()
    known = _spelled(header, stated["parts"])
    for part, name, slot in _slots(layout.skeleton, found):
        place = _place(known, stated["parts"][part], name, found.components[part].config)
        tensor = header.tensors.get(place.name)
        used.add(place.name)
        if tensor is None:
            missing.add(place.name)
        elif tensor.dtype not in splice.ONNX_DTYPE or _stripped(tensor.shape) != _stripped(_wanted(place, slot)):
            wanted = f"the architecture has float {_wanted(place, slot)}"
            misfit.add(f"{place.name}: {tensor.dtype} {list(tensor.shape)}, {wanted}")
        else:
            tensors[part][name] = Stored(file, _cut(place, replace(tensor, shape=slot.shape)))
            turned |= {f"{part}.{name}": place.name} if place.transposed else {}
    left = (*UNUSED, *stated["unused"])
    rest = ((name, spellings.unwrapped(name)) for name in header.tensors.keys() - used)
    unused = [name for name, bare in rest if not bare.startswith(left) and not bare.endswith(BUFFERS)]
    return Fit(layout, tensors, turned, *(tuple(sorted(names)) for names in (missing, misfit, unused)))


def _slots(folder: Path, found: Architecture) -> Iterator[tuple[str, str, Slot]]:
    """Part, name and shape of every tensor that the graphs read."""
    for graph in found.graphs.values():
        for name, slot in splice.placeholders(splice.read(folder / graph.file)).items():
            yield graph.component, name, slot


def _spelled(header: Header, parts: Mapping[str, Json]) -> dict[str, str]:
    """What the layout calls a tensor -> what the file calls it, whose own name counts first."""
    spelled = {_canonical(name, parts): name for name in header.tensors}
    return spelled | {name: name for name in header.tensors}


def _canonical(name: str, parts: Mapping[str, Json]) -> str:
    """The layout's name of a tensor: without wrappers, and of several spellings the one in its table."""
    bare = spellings.unwrapped(name)
    starts: list[str] = [stated["prefix"] for stated in parts.values() if stated["names"] == CLIP]
    start = next((start for start in starts if bare.startswith(start)), None)
    if start:  # as transformers' text models were saved at first, and are again
        return start + spellings.with_text_model(bare.removeprefix(start))
    return spellings.attention(bare, spellings.ORIGINAL)


def _place(known: Mapping[str, str], stated: Json, name: str, config: Json) -> Place:
    """Under the file's own name of it; a ControlNet that was cut out of a checkpoint has no prefix."""
    place = TABLES[stated["names"]](name, config)
    whole = stated["prefix"] + place.name
    return replace(place, name=known.get(whole) or known.get(place.name, whole))


def _wanted(place: Place, slot: Slot) -> list[int]:
    """The shape in the file, up to trailing ones."""
    rows, *rest = slot.shape
    if place.third is not None:
        return [3 * rows, *rest]
    return list(reversed(slot.shape)) if place.transposed else list(slot.shape)


def _stripped(shape: Sequence[int]) -> list[int]:
    return list(dropwhile(lambda size: size == 1, reversed(shape)))


def _cut(place: Place, tensor: Tensor) -> Tensor:
    """The third of the rows that is meant, where it is not all; `tensor` has the wanted shape already."""
    if place.third is None:
        return tensor
    length = tensor.length // 3
    return replace(tensor, offset=tensor.offset + place.third * length, length=length)
