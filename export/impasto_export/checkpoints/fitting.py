"""Find the architecture of a single file, and where in the file each tensor lies."""

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

# The file beside a skeleton that describes its single-file layout, see `original`.
NAME = "original.json"
# Marker keys of SDXL files: the UNet predicts v; it was trained to zero SNR.
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
# What training leaves in the file: averaged copies, the noise schedule's buffers, which the config has, too, and the
# vectors of textual inversion.
UNUSED = (
    "model_ema.", "alphas_cumprod", "betas", "sqrt_", "log_one_minus_", "posterior_", "lvlb_weights", "logvar",
    "scale_factor", "global_step", "denoiser.sigmas", "embedding_manager.",
    V_PREDICTION, ZERO_SNR,
)  # fmt: skip
# Buffers that older checkpoints saved among the weights; the graphs carry them as constants.
BUFFERS = (".position_ids", ".attn_mask", ".logit_scale")


@dataclass(frozen=True)
class Layout:
    """A layout of single files: its skeleton, and what its `original.json` says."""

    skeleton: Path
    found: Architecture
    stated: Json


@dataclass(frozen=True)
class Fit:
    """How a file fits a layout: each part's tensors, and all mismatches.

    `turned`: `PART.NAME` -> the file's name, for tensors that are transposed in the file.
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
    """The single-file layouts of all skeletons that have one."""
    known = matching.skeletons(skeletons).items()
    return [Layout(path, found, read_json(path / NAME)) for path, found in known if (path / NAME).is_file()]


def nearest(header: Header, known: Sequence[Layout], file: str, foreign: Mapping[str, str]) -> Fit:
    """The layout that fits. `file` is the file's name in the bundle; `foreign`: part of a key -> what the file is then.

    Raises UnknownArchitecture that names what the file is instead, or MisfitCheckpoint for the nearest architecture.
    """
    fit = min((_fit(header, layout, file) for layout in known), key=lambda fit: fit.wrong, default=None)
    if fit and not fit.wrong:
        return fit
    for part, what in foreign.items():
        if any(part in name for name in header.tensors):
            raise UnknownArchitecture(f"{header.path} is {what}")
    if not fit:
        raise UnknownArchitecture(f"{header.path}: no skeleton with a single file's layout was found")
    if not any(fit.tensors.values()):
        held = ", ".join(sorted(header.tensors)[:3]) or "none"
        raise UnknownArchitecture(f"{header.path} is not a file that can be linked; its tensors: {held}")
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
    """The layout's name of a tensor -> the file's; the file's own names come first."""
    spelled = {_canonical(name, parts): name for name in header.tensors}
    return spelled | {name: name for name in header.tensors}


def _canonical(name: str, parts: Mapping[str, Json]) -> str:
    """The layout's name of a tensor: without wrappers, in the spelling of its table."""
    bare = spellings.unwrapped(name)
    starts: list[str] = [stated["prefix"] for stated in parts.values() if stated["names"] == CLIP]
    start = next((start for start in starts if bare.startswith(start)), None)
    if start:  # transformers saved its text models with or without their prefix, depending on the version
        return start + spellings.with_text_model(bare.removeprefix(start))
    return spellings.attention(bare, spellings.ORIGINAL)


def _place(known: Mapping[str, str], stated: Json, name: str, config: Json) -> Place:
    """The tensor's place under the file's own name. A ControlNet that was cut out of a checkpoint has no prefix."""
    place = TABLES[stated["names"]](name, config)
    whole = stated["prefix"] + place.name
    return replace(place, name=known.get(whole) or known.get(place.name, whole))


def _wanted(place: Place, slot: Slot) -> list[int]:
    """The expected shape in the file, up to trailing ones."""
    rows, *rest = slot.shape
    if place.third is not None:
        return [3 * rows, *rest]
    return list(reversed(slot.shape)) if place.transposed else list(slot.shape)


def _stripped(shape: Sequence[int]) -> list[int]:
    return list(dropwhile(lambda size: size == 1, reversed(shape)))


def _cut(place: Place, tensor: Tensor) -> Tensor:
    """The tensor, or the third of its rows that `place` means; `tensor` already has the wanted shape."""
    if place.third is None:
        return tensor
    length = tensor.length // 3
    return replace(tensor, offset=tensor.offset + place.third * length, length=length)
