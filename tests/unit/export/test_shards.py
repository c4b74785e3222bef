"""Weights in shards and in variants, as diffusers and transformers write them; and what may be wrong with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto

from impasto_export import manifest
from impasto_export.checkpoints.checkpoint import Said
from impasto_export.errors import CheckpointError, ExportError, MisfitCheckpoint
from impasto_export.link import link
from tests.helpers import checkpoints
from tests.helpers.stored import values

SHARD = "unet/diffusion_pytorch_model-00002-of-00003.safetensors"
INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"


def save(checkpoint: Path, folder: Path, **options: Any) -> Path:
    """`checkpoint` again, saved by the libraries themselves with these options."""
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for part in checkpoints.FROM_CHECKPOINT:
        checkpoints.model(part, seed=1).half().save_pretrained(folder / part, **options)
    return folder


@pytest.fixture(scope="module")
def sharded(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(checkpoint, tmp_path_factory.mktemp("sharded") / "checkpoint", max_shard_size="9MB")


@pytest.fixture
def own(sharded: Path, tmp_path: Path) -> Path:
    """A private copy, to be spoilt."""
    return shutil.copytree(sharded, tmp_path / "checkpoint")


def test_graphs_read_the_same_bytes_from_shards(sharded: Path, bundle: Path, tmp_path: Path) -> None:
    made = link(sharded, tmp_path / "bundle").folder
    assert values(made) == values(bundle)
    weights = manifest.load(made)["weights"]
    assert [name for name in weights if name.startswith("unet")] == [
        f"unet-0000{number}-of-00003.safetensors" for number in (1, 2, 3)
    ]
    assert (made / "unet-00002-of-00003.safetensors").samefile(sharded / SHARD)
    assert link(sharded, tmp_path / "bundle").reused


@pytest.mark.parametrize("size", ["9MB", "1GB"])
def test_a_variant_is_told_from_what_lies_beside_it(size: str, checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    folder = save(checkpoint, tmp_path / "checkpoint", variant="fp16", max_shard_size=size)
    for part in checkpoints.FROM_CHECKPOINT:  # saving beside other shards would take these away
        checkpoints.model(part, seed=2).save_pretrained(tmp_path / "plain" / part, max_shard_size=size)
    shutil.copytree(tmp_path / "plain", folder, dirs_exist_ok=True)
    assert values(link(folder, tmp_path / "bundle", said=Said("fp16")).folder) == values(bundle)
    plain = values(link(folder, tmp_path / "bundle").folder)
    assert plain.keys() == values(bundle).keys()
    assert {dtype for dtype, _, _ in plain.values()} == {TensorProto.FLOAT}


def test_the_older_spelling_of_a_variants_shards(own: Path, bundle: Path, tmp_path: Path) -> None:
    index = json.loads((own / INDEX).read_text())
    older = {name: file.replace(".safetensors", ".fp16.safetensors") for name, file in index["weight_map"].items()}
    for file in set(index["weight_map"].values()):
        (own / "unet" / file).rename(own / "unet" / file.replace(".safetensors", ".fp16.safetensors"))
    (own / INDEX).unlink()
    path = own / "unet" / "diffusion_pytorch_model.safetensors.fp16.index.json"
    path.write_text(json.dumps({**index, "weight_map": older}))
    made = link(own, tmp_path / "bundle", said=Said("fp16"))
    assert values(made.folder) == values(bundle)
    assert made.notes[0].startswith("text_encoder has no fp16 files")


def test_a_missing_shard_is_named(own: Path, tmp_path: Path) -> None:
    (own / SHARD).unlink()
    with pytest.raises(
        CheckpointError, match=r"index\.json: its shard diffusion_pytorch_model-00002-of-00003\S+ is mis"
    ):
        link(own, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_shard_that_was_cut_short(own: Path, tmp_path: Path) -> None:
    with (own / SHARD).open("r+b") as file:
        file.truncate((own / SHARD).stat().st_size - 1)
    with pytest.raises(ExportError, match=r"00002-of-00003\.safetensors is cut short"):
        link(own, tmp_path / "bundle")


def test_a_shard_of_another_checkpoint(own: Path, tmp_path: Path) -> None:
    shutil.copy(own / SHARD.replace("00002", "00001"), own / "twice")
    (own / "twice").replace(own / SHARD)
    with pytest.raises(CheckpointError, match="is also in another shard"):
        link(own, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"conv_in.bias": "../vae/diffusion_pytorch_model.safetensors"}, "is not the name of a safetensors file"),
        ({"conv_in.bias": "pytorch_model.bin"}, "is not the name of a safetensors file"),
        ({}, r"weight_map is \{\}; it must name"),
        (None, "weight_map is None; it must name"),
    ],
)
def test_an_index_that_says_nothing_or_something_else(
    own: Path, tmp_path: Path, places: dict[str, str] | None, message: str
) -> None:
    (own / INDEX).write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match=message):
        link(own, tmp_path / "bundle")


def test_an_index_that_leaves_a_shard_out(own: Path, tmp_path: Path) -> None:
    index = json.loads((own / INDEX).read_text())
    kept = {name: file for name, file in index["weight_map"].items() if file != Path(SHARD).name}
    (own / INDEX).write_text(json.dumps({"weight_map": kept}))
    with pytest.raises(MisfitCheckpoint) as raised:
        link(own, tmp_path / "bundle")
    assert raised.value.missing == tuple(sorted(index["weight_map"].keys() - kept.keys()))
    assert str(own / "unet") in str(raised.value)
