"""SDXL's two text encoders: each has its tokenizer and its weights, in a folder and in a single file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from impasto_export import manifest
from impasto_export.checkpoints import original
from impasto_export.checkpoints.checkpoint import Said
from impasto_export.errors import CheckpointError
from impasto_export.link import link
from tests.helpers import originals, twins
from tests.helpers.folders import edit_json
from tests.helpers.stored import values

LAYOUT = {
    **originals.LAYOUT,
    "parts": {
        **originals.LAYOUT["parts"],
        "text_encoder": {"prefix": "conditioner.embedders.0.transformer.", "names": "clip"},
        "text_encoder_2": {"prefix": "conditioner.embedders.1.model.", "names": "open_clip"},
    },
    "index": {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True},
    "pads": {"text_encoder": "<|endoftext|>", "text_encoder_2": "!"},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return twins.save(tmp_path_factory.mktemp("xl") / "xl", "sdxl")


@pytest.fixture(scope="module")
def skeleton(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return originals.hollow(tmp_path_factory.mktemp("skeletons") / "xl", checkpoint, LAYOUT)


@pytest.fixture
def own(checkpoint: Path, tmp_path: Path) -> Path:
    """A private copy, to be spoilt."""
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


def test_each_text_encoder_has_its_own_tokenizer(checkpoint: Path, skeleton: Path, tmp_path: Path) -> None:
    made = link(checkpoint, tmp_path / "bundle", [skeleton]).folder
    record = manifest.load(made)
    assert "text_encoder_2.safetensors" in record["weights"]
    assert (record["tokenizer"]["file"], record["tokenizer_2"]["file"]) == ("tokenizer.json", "tokenizer_2.json")
    assert record["tokenizer"]["pad_id"] == record["tokenizer"]["eos_id"]
    assert record["tokenizer_2"]["pad_id"] == 0
    assert {"tokenizer.json", "tokenizer_2.json"} < set(record["files"])
    assert record["force_zeros_for_empty_prompt"] is True


def test_the_index_decides_on_empty_prompts(own: Path, skeleton: Path, tmp_path: Path) -> None:
    edit_json(own / "model_index.json", force_zeros_for_empty_prompt=False)
    record = manifest.load(link(own, tmp_path / "bundle", [skeleton]).folder)
    assert record["force_zeros_for_empty_prompt"] is False


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "model_index.json",
            {"requires_aesthetics_score": True},
            "requires_aesthetics_score is set, so it is a refiner",
        ),
        (
            "model_index.json",
            {"force_zeros_for_empty_prompt": []},
            r"force_zeros_for_empty_prompt is \[\]; true or fal",
        ),
        (
            "tokenizer_2/tokenizer_config.json",
            {"eos_token": "<|startoftext|>"},
            "tokenizer_2: the tokenizer ends texts with id 520, but text_encoder_2's eos_token_id 2 means 521; correct",
        ),
        ("tokenizer_2/tokenizer_config.json", {"model_max_length": 16}, "tokenizer_2: model_max_length 16 is below"),
    ],
)
def test_what_is_refused(
    file: str, changes: dict[str, object], message: str, own: Path, skeleton: Path, tmp_path: Path
) -> None:
    edit_json(own / file, **changes)
    with pytest.raises(CheckpointError, match=message):
        link(own, tmp_path / "bundle", [skeleton])


@pytest.mark.parametrize("name", ["text_encoder_2/config.json", "tokenizer_2/tokenizer_config.json"])
def test_a_second_encoder_that_is_not_there(name: str, own: Path, skeleton: Path, tmp_path: Path) -> None:
    (own / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        link(own, tmp_path / "bundle", [skeleton])


def test_a_single_file_but_for_what_must_be_turned(checkpoint: Path, skeleton: Path, tmp_path: Path) -> None:
    file = originals.write(tmp_path / "xl.safetensors", originals.tensors(checkpoint, skeleton))
    made = link(file, tmp_path / "bundle", [skeleton], Said(tokenizer=checkpoint)).folder
    record = manifest.load(made)
    assert values(made) == values(link(checkpoint, tmp_path / "folder", [skeleton]).folder)
    assert set(record["weights"]) == {original.FILE, original.CONVERTED}
    assert (made / original.FILE).samefile(file)
    text = json.loads((checkpoint / "text_encoder_2" / "config.json").read_text())
    projection = 4 * text["hidden_size"] * text["projection_dim"]
    assert projection < record["weights"][original.CONVERTED]["bytes"] < projection + 500
    assert record["force_zeros_for_empty_prompt"] is True
    assert link(file, tmp_path / "bundle", [skeleton], Said(tokenizer=checkpoint)).reused


def test_a_single_file_gets_clips_vocabulary_padded_for_each(checkpoint: Path, skeleton: Path, tmp_path: Path) -> None:
    file = originals.write(tmp_path / "xl.safetensors", originals.tensors(checkpoint, skeleton))
    read = original.read(file, [skeleton], Said())
    assert [vocabulary.ids["pad_id"] for vocabulary in read.tokenizers.values()] == [49407, 0]


def test_two_tokenizers_cannot_come_from_one_folder(checkpoint: Path, skeleton: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer/tokenizer/tokenizer_config\.json is missing"):
        link(checkpoint, tmp_path / "bundle", [skeleton], Said(tokenizer=checkpoint / "tokenizer"))
