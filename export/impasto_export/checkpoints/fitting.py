"""Which architecture a single file in the original layout is of, and where in the file each of its tensors lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import dropwhile
from pathlib import Path

from impasto_export import matching, splice
from impasto_export.architecture import Architecture, Json, read_json
from impasto_export.checkpoints import ldm
from impasto_export.checkpoints.checkpoint import Stored
from impasto_export.checkpoints.ldm import Place
from impasto_export.errors import MisfitCheckpoint, UnknownArchitecture
from impasto_export.splice import Slot
from impasto_export.weights import Header, Tensor

# Beside a skeleton for which there is such a layout, see `original`; and what the bundle calls the file.
NAME, FILE = "original.json", "checkpoint.safetensors"
# Keys without content that SDXL files may carry: what the UNet predicts, and that it was trained to zero SNR.
V_PREDICTION, ZERO_SNR = "v_pred", "ztsnr"
TABLES: dict[str, ldm.Names] = {
    "unet": ldm.unet,
    "vae": ldm.vae,
    "clip": ldm.clip,
    "open_clip": ldm.open_clip,
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
# A part of the keys of what is something else, and what that is.
FOREIGN = {
    "lora": "an adapter; bring it in with `impasto adapters import`",
    "double_blocks.": "a FLUX checkpoint, a family that is not served",
    "joint_blocks.": "a Stable Diffusion 3 checkpoint, a family that is not served",
    "edm_mean": "a Playground v2.5 checkpoint, whose noise schedule is not served",
    "edm_vpred.": "a CosXL checkpoint, whose noise schedule is not served",
    "conditioner.embedders.0.model.": "an SDXL refiner; only base checkpoints are served",
    "control_model.": "a ControlNet; give its diffusers folder with --controlnet, beside a checkpoint",
    "down_blocks.": "one part of a checkpoint in the diffusers layout; give the folder of all its parts",
}


@dataclass(frozen=True)
class Fit:
    """How a file agrees with an architecture: each part's tensors, and all that is wrong.

    `turned` are those whose bytes are in another order there: `PART.NAME` and what the file calls it.
    """

    found: Architecture
    layout: Json
    tensors: Mapping[str, Mapping[str, Stored]]
    turned: Mapping[str, str]
    missing: tuple[str, ...]
    misfit: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def wrong(self) -> int:
        return len(self.missing) + len(self.misfit) + len(self.unused)


def nearest(header: Header, skeletons: Sequence[Path]) -> Fit:
    """Raises UnknownArchitecture naming what the file is instead, or MisfitCheckpoint for the nearest architecture."""
    known = {folder: found for folder, found in matching.skeletons(skeletons).items() if (folder / NAME).is_file()}
    fits = [_fit(header, folder, found) for folder, found in known.items()]
    fit = min(fits, key=lambda fit: fit.wrong, default=None)
    if fit and not fit.wrong:
        return fit
    for part, what in FOREIGN.items():
        if any(part in name for name in header.tensors):
            raise UnknownArchitecture(f"{header.path} is {what}")
    if not fit:
        raise UnknownArchitecture(f"{header.path}: no skeleton of a single file's layout was found")
    problems = fit.missing, fit.misfit, fit.unused
    raise MisfitCheckpoint(str(header.path), *problems, f"{fit.found.name}, the nearest architecture of a single file")


def _fit(header: Header, folder: Path, found: Architecture) -> Fit:
    stated = read_json(folder / NAME)
    tensors: dict[str, dict[str, Stored]] = {part: {} for part in found.components}
    turned: dict[str, str] = {}
    missing, misfit, used = set(), set(), set()
    for part, name, slot in _slots(folder, found):
        place = _place(header, stated["parts"][part], name, found.components[part].config)
        tensor = header.tensors.get(place.name)
        used.add(place.name)
        if tensor is None:
            missing.add(place.name)
        elif tensor.dtype not in splice.ONNX_DTYPE or _stripped(tensor.shape) != _stripped(_wanted(place, slot)):
            wanted = f"the architecture has float {_wanted(place, slot)}"
            misfit.add(f"{place.name}: {tensor.dtype} {list(tensor.shape)}, {wanted}")
        else:
            tensors[part][name] = Stored(FILE, _cut(place, replace(tensor, shape=slot.shape)))
            turned |= {f"{part}.{name}": place.name} if place.transposed else {}
    known = (*UNUSED, *stated["unused"])
    unused = [
        name for name in header.tensors.keys() - used if not name.startswith(known) and not name.endswith(BUFFERS)
    ]
    return Fit(found, stated, tensors, turned, *(tuple(sorted(names)) for names in (missing, misfit, unused)))


def _slots(folder: Path, found: Architecture) -> Iterator[tuple[str, str, Slot]]:
    """Part, name and shape of every tensor that the graphs read."""
    for graph in found.graphs.values():
        for name, slot in splice.placeholders(splice.read(folder / graph.file)).items():
            yield graph.component, name, slot


def _place(header: Header, stated: Json, name: str, config: Json) -> Place:
    place = TABLES[stated["names"]](name, config)
    whole = stated["prefix"] + place.name
    older = whole.replace(".text_model.", ".", 1)  # as transformers' text models were saved at first
    return replace(place, name=older if older in header.tensors else whole)


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
