"""A ControlNet beside the checkpoint: linked and described when it fits, refused by name when it does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from impasto_export import cli, manifest
from impasto_export.architecture import Json
from impasto_export.checkpoints.control import Control
from impasto_export.errors import CheckpointError, ControlError, MisfitCheckpoint, UnknownArchitecture
from impasto_export.link import link
from impasto_export.weights import encode, read_header, read_tensor
from tests.helpers import checkpoints

WEIGHTS = "diffusion_pytorch_model.safetensors"


def steering(folder: Path, *optional: str) -> Control:
    return Control(folder, ("edges", "edges", "depth"), optional)


@pytest.fixture
def own(controlnet: Path, tmp_path: Path) -> Path:
    """A private copy of the ControlNet, to be spoilt."""
    return shutil.copytree(controlnet, tmp_path / "controlnet")


def edited(path: Path, *keys: str, value: object) -> None:
    """Replace one value of a JSON file."""
    document = part = json.loads(path.read_text())
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(document))


def test_it_is_linked_and_described(controlled_bundle: Path, controlnet: Path, bundle: Path) -> None:
    record, plain = manifest.load(controlled_bundle), manifest.load(bundle)
    assert (controlled_bundle / "controlnet.safetensors").samefile(controlnet / WEIGHTS)
    assert record["control"] == {"channels": ["edges", "edges", "depth"], "optional": ["depth"]}
    assert set(record["graphs"]) - set(plain["graphs"]) == {"controlnet"}
    assert set(record["weights"]) - set(plain["weights"]) == {"controlnet.safetensors"}
    assert record["files"]["controlnet.onnx"]
    assert record["architecture"] == plain["architecture"], "adapters of the one bundle fit the other"
    assert "control" not in plain


def test_its_outputs_are_the_inputs_that_the_unet_adds(controlled_bundle: Path) -> None:
    graphs = manifest.load(controlled_bundle)["graphs"]
    taken = [port for port in graphs["unet"]["inputs"] if "residual" in port["name"]]
    assert taken == graphs["controlnet"]["outputs"]
    assert [port["name"] for port in taken][::6] == ["down_residual_0", "mid_residual"]


def test_another_description_is_another_bundle(checkpoint: Path, controlnet: Path, tmp_path: Path) -> None:
    first = link(checkpoint, tmp_path / "bundle", steering=steering(controlnet))
    assert manifest.load(tmp_path / "bundle")["control"] == {"channels": ["edges", "edges", "depth"]}
    assert link(checkpoint, tmp_path / "bundle", steering=steering(controlnet)).reused
    second = link(checkpoint, tmp_path / "bundle", steering=steering(controlnet, "depth"))
    assert (second.reused, second.digest != first.digest) == (False, True)
    assert not link(checkpoint, tmp_path / "bundle").reused, "without the ControlNet it is another one, too"


def test_an_unknown_one_says_how_to_export_it(checkpoint: Path, own: Path, tmp_path: Path) -> None:
    edited(own / "config.json", "layers_per_block", value=2)
    with pytest.raises(UnknownArchitecture, match=r"impasto export controlnet FOLDER") as raised:
        link(checkpoint, tmp_path / "bundle", steering=steering(own))
    assert "controlnet.layers_per_block: checkpoint 2, architecture 1" in str(raised.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("cross_attention_dim", 64, "cross_attention_dim: ControlNet 64, checkpoint 128"),
        ("in_channels", 4, "in_channels: ControlNet 4, checkpoint 16"),
    ],
)
def test_one_of_another_backbone(
    key: str, value: int, message: str, checkpoint: Path, own: Path, tmp_path: Path
) -> None:
    skeleton = shutil.copytree(checkpoints.CONTROL, tmp_path / "skeleton")
    edited(skeleton / "architecture.json", "components", "controlnet", "config", key, value=value)
    edited(own / "config.json", key, value=value)
    with pytest.raises(ControlError, match=message):
        link(checkpoint, tmp_path / "bundle", [skeleton], steering=steering(own))
    assert not (tmp_path / "bundle").exists()


def test_a_hint_of_another_scale(checkpoint: Path, own: Path, tmp_path: Path) -> None:
    skeleton = shutil.copytree(checkpoints.CONTROL, tmp_path / "skeleton")
    edited(skeleton / "architecture.json", "latents", "factor", value=4)
    with pytest.raises(ControlError, match="hint pixels per latent: ControlNet 4, checkpoint 8"):
        link(checkpoint, tmp_path / "bundle", [skeleton], steering=steering(own))


def test_a_masked_base_takes_none(masked_checkpoint: Path, controlnet: Path, tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="mini-muse is a masked backbone; only diffusion takes a ControlNet"):
        link(masked_checkpoint, tmp_path / "bundle", steering=steering(controlnet))
    assert not (tmp_path / "bundle").exists()


def test_a_base_skeleton_that_takes_no_residuals(checkpoint: Path, own: Path, tmp_path: Path) -> None:
    skeleton = shutil.copytree(checkpoints.MINI, tmp_path / "skeleton")
    graphs: Json = json.loads((skeleton / "architecture.json").read_text())["graphs"]
    ports = [port for port in graphs["unet"]["inputs"] if "residual" not in port["name"]]
    edited(skeleton / "architecture.json", "graphs", "unet", "inputs", value=ports)
    with pytest.raises(
        ControlError, match=r"export the checkpoint's graphs again(.|\n)*residual channels: .* checkpoint \[\]"
    ):
        link(checkpoint, tmp_path / "bundle", [skeleton], steering=steering(own))


def test_tensors_that_do_not_fit_are_named(checkpoint: Path, own: Path, tmp_path: Path) -> None:
    header = read_header(own / WEIGHTS)
    tensors: Any = {name: (item.dtype, read_tensor(header, name)) for name, item in header.tensors.items()}
    del tensors["controlnet_mid_block.bias"]
    (own / WEIGHTS).write_bytes(encode(tensors, {}))
    with pytest.raises(MisfitCheckpoint, match="controlnet_mid_block.bias"):
        link(checkpoint, tmp_path / "bundle", steering=steering(own))
    (own / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} is missing"):
        link(checkpoint, tmp_path / "bundle", steering=steering(own))


@pytest.mark.parametrize(
    ("channels", "optional", "message"),
    [
        ("", "", "--control: got ''; give 3 names, one for each channel of the hint"),
        ("edges,depth", "", "--control: got 'edges,depth'"),
        ("edges,edges,pose", "", "edges or depth"),
        ("edges,edges,edges", "depth", "--control-optional: got 'depth'; choose among edges"),
    ],
)
def test_channels_that_are_not_described(
    channels: str, optional: str, message: str, checkpoint: Path, controlnet: Path, tmp_path: Path
) -> None:
    failed = command(
        checkpoint, tmp_path, "--controlnet", controlnet, "--control", channels, "--control-optional", optional
    )
    assert message in failed


def test_the_command(checkpoint: Path, controlnet: Path, tmp_path: Path) -> None:
    options = "--controlnet", controlnet, "--control", "edges, edges, depth", "--control-optional", "depth"
    assert "weights hard-linked" in command(checkpoint, tmp_path, *options)
    assert manifest.load(tmp_path / "bundle")["control"]["optional"] == ["depth"]


def test_channels_without_a_controlnet(checkpoint: Path, tmp_path: Path) -> None:
    assert "name its folder, file or repository with --controlnet" in command(
        checkpoint, tmp_path, "--control", "edges,edges,depth"
    )


def command(checkpoint: Path, folder: Path, *options: object) -> str:
    """What `impasto link` prints."""
    app = typer.Typer()
    app.command()(cli.link)
    words = [checkpoint, "--out", folder / "bundle", *options]
    return CliRunner().invoke(app, [str(word) for word in words]).output
