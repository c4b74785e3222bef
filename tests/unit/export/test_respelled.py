"""Checkpoints whose tensors have other names than today's, in folders and single files: graphs read the same bytes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from impasto_export.checkpoints.checkpoint import Said
from impasto_export.errors import CheckpointError, MisfitCheckpoint
from impasto_export.link import link
from tests.helpers import originals, twins
from tests.helpers.originals import Value
from tests.helpers.stored import values
from tests.unit.export.test_sdxl import LAYOUT

Rules = tuple[tuple[str, str], ...]
Stored = dict[Any, Any]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a topology that has all: two text encoders, of either kind in a single file, and attention in the VAE."""
    return twins.save(tmp_path_factory.mktemp("xl") / "xl", "sdxl")


@pytest.fixture(scope="module")
def skeleton(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return originals.hollow(tmp_path_factory.mktemp("skeletons") / "xl", checkpoint, LAYOUT)


@pytest.fixture(scope="module")
def expected(checkpoint: Path, skeleton: Path, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return values(link(checkpoint, tmp_path_factory.mktemp("bundles") / "bundle", [skeleton]).folder)


@pytest.fixture(scope="module")
def tensors(checkpoint: Path, skeleton: Path) -> dict[str, Value]:
    return originals.tensors(checkpoint, skeleton)


def renamed(held: dict[str, Any], rules: Rules) -> dict[str, Any]:
    """With every pattern replaced, each of which must be there."""
    for pattern, put in rules:
        assert any(re.search(pattern, name) for name in held), pattern
        held = {re.sub(pattern, put, name): value for name, value in held.items()}
    return held


FILES: dict[str, Rules] = {
    # convert_diffusers_to_original_stable_diffusion.py and EveryDream2, of 2023.
    "attention as in diffusers": (
        (r"\.attn_1\.([qkv])\.", r".attn_1.to_\1."),
        (r"\.attn_1\.proj_out\.", ".attn_1.to_out.0."),
    ),
    "attention as once in diffusers": (
        (r"\.attn_1\.q\.", ".attn_1.query."),
        (r"\.attn_1\.k\.", ".attn_1.key."),
        (r"\.attn_1\.v\.", ".attn_1.value."),
        (r"\.attn_1\.proj_out\.", ".attn_1.proj_attn."),
    ),
    "a text model without its own name": ((r"embedders\.0\.transformer\.text_model\.", "embedders.0.transformer."),),
    # sd-scripts, of a UNet that was compiled.
    "torch.compile": ((r"^model\.diffusion_model\.", "model.diffusion_model._orig_mod."),),
    "DDP": (("^", "module."),),
    "PEFT": ((r"\.to_q\.weight", ".to_q.base_layer.weight"), ("^", "base_model.model.")),
    "several": ((r"\.attn_1\.([qkv])\.", r".attn_1.to_\1."), (r"\.text_model\.", "."), ("^", "module._orig_mod.")),
}


@pytest.mark.parametrize("rules", FILES.values(), ids=FILES)
def test_a_single_file(
    rules: Rules, tensors: dict[str, Value], checkpoint: Path, skeleton: Path, expected: Stored, tmp_path: Path
) -> None:
    file = originals.write(tmp_path / "x.safetensors", renamed(tensors, rules))
    assert values(link(file, tmp_path / "bundle", [skeleton], Said(tokenizer=checkpoint)).folder) == expected


def test_what_is_left_out_may_be_wrapped_too(
    tensors: dict[str, Value], checkpoint: Path, skeleton: Path, expected: Stored, tmp_path: Path
) -> None:
    more = {**tensors, "model_ema.decay": ("F32", np.ones(1, np.float32))}
    file = originals.write(tmp_path / "x.safetensors", renamed(more, FILES["DDP"]))
    assert values(link(file, tmp_path / "bundle", [skeleton], Said(tokenizer=checkpoint)).folder) == expected


def test_a_second_spelling_in_a_single_file_is_not_dropped(
    tensors: dict[str, Value], skeleton: Path, tmp_path: Path
) -> None:
    known, other = (f"first_stage_model.decoder.mid.attn_1.{name}.weight" for name in ("q", "to_q"))
    file = originals.write(tmp_path / "x.safetensors", {**tensors, other: tensors[known]})
    with pytest.raises(MisfitCheckpoint) as raised:
        link(file, tmp_path / "bundle", [skeleton])
    assert (raised.value.missing, raised.value.misfit, raised.value.unused) == ((), (), (other,))


def respelled(checkpoint: Path, folder: Path, part: str, rules: Rules) -> Path:
    shutil.copytree(checkpoint, folder)
    (file,) = (folder / part).glob("*.safetensors")
    save_file(renamed(load_file(file), rules), file)
    return folder


FOLDERS: dict[str, tuple[str, Rules]] = {
    "torch.compile": ("unet", (("^", "_orig_mod."),)),
    "torch.compile of blocks": ("unet", ((r"\.attn1\.", ".attn1._orig_mod."),)),
    "DDP of what is compiled": ("unet", (("^", "module._orig_mod."),)),
    "PEFT": ("unet", ((r"\.to_q\.", ".to_q.base_layer."), ("^", "base_model.model."))),
    "DDP around a text model": ("text_encoder", (("^", "module."),)),
    "attention as once in diffusers": (
        "vae",
        ((r"\.to_q\.", ".query."), (r"\.to_k\.", ".key."), (r"\.to_v\.", ".value."), (r"\.to_out\.0\.", ".proj_attn.")),
    ),
    "attention as in the original": ("vae", ((r"\.to_([qkv])\.", r".\1."), (r"\.to_out\.0\.", ".proj_out."))),
}


@pytest.mark.parametrize(("part", "rules"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder(part: str, rules: Rules, checkpoint: Path, skeleton: Path, expected: Stored, tmp_path: Path) -> None:
    folder = respelled(checkpoint, tmp_path / "checkpoint", part, rules)
    assert values(link(folder, tmp_path / "bundle", [skeleton]).folder) == expected


def test_two_spellings_in_a_folder_are_refused(checkpoint: Path, skeleton: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    (file,) = (folder / "vae").glob("*.safetensors")
    held, old, new = load_file(file), *(f"decoder.mid_block.attentions.0.{name}.bias" for name in ("key", "to_k"))
    save_file({**held, old: held[new]}, file)
    with pytest.raises(CheckpointError, match=f"{old} and {new} are two names of one tensor; remove one of them"):
        link(folder, tmp_path / "bundle", [skeleton])
