"""A ControlNet by its folder, a file of either layout, or its repository's name: the same weights, linked in place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import numpy as np
import pytest

from impasto_export import architecture, manifest
from impasto_export.architecture import SHIPPED, read_json
from impasto_export.checkpoints import fitting, ldm
from impasto_export.checkpoints.checkpoint import Said
from impasto_export.checkpoints.control import Control
from impasto_export.errors import CheckpointError, MisfitCheckpoint, UnknownArchitecture
from impasto_export.link import link
from impasto_export.weights import encode, read_header, read_tensor
from tests.helpers import checkpoints
from tests.helpers.stored import values

WEIGHTS = "diffusion_pytorch_model.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Values = dict[str, tuple[str, Any]]


def steering(place: str | Path) -> Control:
    return Control(place, ("edges", "edges", "depth"), ("depth",))


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """mini-controlnet's, with the layout of single files that the public one has beside it."""
    folder = shutil.copytree(checkpoints.CONTROL, tmp_path / "skeleton")
    shutil.copy(SHIPPED / "controlnet-sd1" / fitting.NAME, folder)
    return folder


@pytest.fixture
def tensors(controlnet: Path) -> Values:
    header = read_header(controlnet / WEIGHTS)
    return {name: (item.dtype, read_tensor(header, name)) for name, item in header.tensors.items()}


def original(tensors: Values, prefix: str = "control_model.") -> Values:
    """As lllyasviel's files have them: attention's ends are 1x1 convolutions."""
    config = architecture.load(checkpoints.CONTROL).components["controlnet"].config
    return {prefix + ldm.controlnet(name, config).name: value for name, value in tensors.items()}


def write(path: Path, tensors: Mapping[str, tuple[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode(tensors, {}))
    return path


def stranger(name: str) -> Values:
    return {name: ("F16", np.zeros(4, np.float16))}


@pytest.mark.parametrize("prefix", ["control_model.", ""])
def test_a_file_of_the_original_layout(
    prefix: str, tensors: Values, skeleton: Path, checkpoint: Path, controlled_bundle: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "canny.safetensors", original(tensors, prefix))
    made = link(checkpoint, tmp_path / "bundle", [skeleton], steering=steering(file)).folder
    assert values(made) == values(controlled_bundle)
    assert (made / "controlnet.safetensors").samefile(file)
    assert manifest.load(made)["source"] == {"checkpoint": "random", "controlnet": {"checkpoint": "canny.safetensors"}}


@pytest.mark.parametrize(
    "params", ["{global_average_pooling: True}", "{control_stage_config: {params: {global_average_pooling: True}}}"]
)
def test_what_a_yaml_beside_it_says_of_its_residuals(
    params: str, tensors: Values, skeleton: Path, checkpoint: Path, controlled_bundle: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "shuffle.safetensors", original(tensors))
    beside = tmp_path / "shuffle.yaml"
    beside.write_text(f"model: {{params: {params}}}")
    with pytest.raises(
        CheckpointError, match="shuffle.yaml: global_average_pooling is set, so its residuals are pooled"
    ):
        link(checkpoint, tmp_path / "bundle", [skeleton], steering=steering(file))
    beside.write_text(f"model: {{params: {params.replace('True', 'False')}}}")
    made = link(checkpoint, tmp_path / "bundle", [skeleton], steering=steering(file)).folder
    assert values(made) == values(controlled_bundle)


def test_one_within_a_whole_checkpoint(
    tensors: Values, skeleton: Path, checkpoint: Path, controlled_bundle: Path, tmp_path: Path
) -> None:
    others = stranger("model.diffusion_model.out.2.bias") | stranger("first_stage_model.quant_conv.bias")
    file = write(tmp_path / "control_sd15_canny.safetensors", {**original(tensors), **others})
    made = link(checkpoint, tmp_path / "bundle", [skeleton], steering=steering(file)).folder
    assert values(made) == values(controlled_bundle)


@pytest.mark.parametrize("beside", [True, False], ids=["with its config", "alone"])
def test_a_file_of_the_diffusers_layout(
    beside: bool, tensors: Values, checkpoint: Path, controlnet: Path, controlled_bundle: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "own" / WEIGHTS, tensors)
    if beside:
        shutil.copy(controlnet / "config.json", file.parent)
    made = link(checkpoint, tmp_path / "bundle", steering=steering(str(file))).folder
    assert values(made) == values(controlled_bundle)


def test_the_config_beside_a_file_counts(tensors: Values, checkpoint: Path, controlnet: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "own" / WEIGHTS, tensors)
    config = {**read_json(controlnet / "config.json"), "attention_head_dim": 2}
    (file.parent / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnknownArchitecture, match="controlnet.attention_head_dim: checkpoint 2, architecture"):
        link(checkpoint, tmp_path / "bundle", steering=steering(file))


def test_the_variant_is_the_checkpoints(
    tensors: Values, checkpoint: Path, controlnet: Path, controlled_bundle: Path, tmp_path: Path
) -> None:
    """A ControlNet that lacks it gives what it has: it has no --variant of its own."""
    varied = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    for file in varied.glob("*/*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    made = link(varied, tmp_path / "bundle", said=Said("fp16"), steering=steering(controlnet))
    assert made.notes == ("controlnet has no fp16 files; its plain ones are linked, as diffusers does",)
    single = write(tmp_path / "canny.safetensors", tensors)
    assert link(varied, tmp_path / "single", said=Said("fp16"), steering=steering(single)).notes == ()
    assert values(tmp_path / "single") == values(made.folder) == values(controlled_bundle)


def test_what_is_missing_is_named_as_the_file_names_it(
    tensors: Values, skeleton: Path, checkpoint: Path, tmp_path: Path
) -> None:
    spoilt = original(tensors) | stranger("control_model.intruder.bias")
    del spoilt["control_model.zero_convs.2.0.bias"]
    file = write(tmp_path / "canny.safetensors", spoilt)
    with pytest.raises(MisfitCheckpoint, match="canny.safetensors does not fit mini-controlnet") as raised:
        link(checkpoint, tmp_path / "bundle", [skeleton], steering=steering(file))
    assert raised.value.missing == ("control_model.zero_convs.2.0.bias",)
    assert raised.value.unused == ("control_model.intruder.bias",)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("add_embedding.linear_1.weight", "an SDXL ControlNet; only Stable Diffusion 1.x's are served"),
        ("control_model.label_emb.0.0.weight", "an SDXL ControlNet; only Stable Diffusion 1.x's are served"),
        ("difference", "a ControlNet's difference from a checkpoint's weights; get the whole ControlNet"),
        ("lora_controlnet", "a Control-LoRA"),
        ("lora_unet_mid_block.lora_up.weight", "an adapter; import it with `impasto adapters import`"),
        ("adapter.body.0.resnets.0.block1.weight", "a T2I-Adapter"),
        ("model.diffusion_model.label_emb.0.0.weight", "a checkpoint, not a ControlNet"),
        ("up_blocks.0.resnets.0.conv1.weight", "a part of a checkpoint, not a ControlNet"),
        ("model.diffusion_model.out.2.bias", "a checkpoint, not a ControlNet"),
    ],
)
def test_something_else_is_called_by_its_name(key: str, message: str, checkpoint: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "x.safetensors", stranger(key))
    with pytest.raises(UnknownArchitecture, match=f"x.safetensors is {message}"):
        link(checkpoint, tmp_path / "bundle", steering=steering(file))


def test_a_pickle_is_refused_with_the_way_out(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "control_v11p_sd15_canny.pth"
    file.write_bytes(b"\x80\x02}.")
    with pytest.raises(CheckpointError, match="a pickle, .*; if you trust it, save it as .safetensors"):
        link(checkpoint, tmp_path / "bundle", steering=steering(file))


def test_a_mistyped_pickle_is_told_to_be_missing(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"contrl.pth: there is no such file or folder"):
        link(checkpoint, tmp_path / "bundle", steering=steering(tmp_path / "contrl.pth"))


@pytest.fixture
def repository(controlnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[list[str]]]:
    """someone/canny, as the hub's client brings it; and which files it was asked for."""
    snapshot, asked = shutil.copytree(controlnet, tmp_path / COMMIT), list[list[str]]()

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert (name, revision) == ("someone/canny", COMMIT if asked else "v1")
        asked.append(allow_patterns)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return snapshot, asked


def test_a_repository(
    repository: tuple[Path, list[list[str]]], checkpoint: Path, controlled_bundle: Path, tmp_path: Path
) -> None:
    made = link(checkpoint, tmp_path / "bundle", steering=steering("someone/canny@v1")).folder
    assert values(made) == values(controlled_bundle)
    where = {"checkpoint": "someone/canny", "repo": "someone/canny", "revision": COMMIT}
    assert manifest.load(made)["source"] == {"checkpoint": "random", "controlnet": where}
    _, (small, weights) = repository
    assert "config.json" in small
    assert WEIGHTS in weights


def test_a_repository_of_something_else(
    repository: tuple[Path, list[list[str]]], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, asked = repository
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", Mock(return_value=["canny.pth", "config.json"]))
    (snapshot / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="no such safetensors are in the repository, which holds canny.pth, conf"):
        link(checkpoint, tmp_path / "bundle", steering=steering("someone/canny@v1"))
    asked.clear()
    (snapshot / "config.json").unlink()
    with pytest.raises(CheckpointError, match="has no config.json, so it is not a ControlNetModel in the diffusers"):
        link(checkpoint, tmp_path / "bundle", steering=steering("someone/canny@v1"))


def test_the_shipped_layout_names_every_tensor() -> None:
    (shipped,) = (layout for layout in fitting.layouts([SHIPPED]) if layout.skeleton.name == "controlnet-sd1")
    assert shipped.stated["parts"] == {"controlnet": {"names": "controlnet", "prefix": "control_model."}}
