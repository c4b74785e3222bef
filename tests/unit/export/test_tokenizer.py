"""The tokenizer built from vocab.json and merges.txt gives transformers' own ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from impasto_export.checkpoints import tokenizer
from impasto_export.errors import CheckpointError

TEXTS = [
    "the red bat",
    "The  RED\tboat,\nbeing there's 3 cats!!! 2024",
    "naïve café — “quoted” … ½ №5",
    "e\u0301 combining, Ⅷ, ﬁ ligature, 你好 世界, привет, 😀👩‍👩‍👧",
    "they'll we've I'm don't 'S 's",
    "",
    "   ",
    "<|startoftext|> the <|endoftext|> red",
    "a" * 90,
]


@pytest.fixture(scope="module")
def pair(checkpoint: Path) -> tuple[Tokenizer, CLIPTokenizer]:
    data = tokenizer.read(checkpoint / "tokenizer").data
    return Tokenizer.from_buffer(data), CLIPTokenizer.from_pretrained(checkpoint / "tokenizer")


@pytest.mark.parametrize("text", TEXTS)
def test_equals_transformers(text: str, pair: tuple[Tokenizer, CLIPTokenizer]) -> None:
    ours, theirs = pair
    assert ours.encode(text).ids == theirs(text).input_ids


def test_special_ids(checkpoint: Path) -> None:
    ids = tokenizer.read(checkpoint / "tokenizer").ids
    theirs = CLIPTokenizer.from_pretrained(checkpoint / "tokenizer")
    assert ids == {"bos_id": theirs.bos_token_id, "eos_id": theirs.eos_token_id, "pad_id": theirs.pad_token_id}


def test_a_saved_tokenizer_json_is_taken_as_it_is(pair: tuple[Tokenizer, CLIPTokenizer], tmp_path: Path) -> None:
    pair[1].save_pretrained(tmp_path)
    data = tokenizer.read(tmp_path).data
    assert data == (tmp_path / "tokenizer.json").read_bytes()
    assert Tokenizer.from_buffer(data).encode(TEXTS[1]).ids == pair[0].encode(TEXTS[1]).ids


@pytest.fixture(scope="module", params=["<|endoftext|>", "!"])
def shipped(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, CLIPTokenizer]:
    """CLIP's own vocabulary, as SD 1.x pads it and as SD 2.x does; with transformers' tokenizer of the same."""
    data = tokenizer.clip(request.param).data
    model = json.loads(data)["model"]
    folder = tmp_path_factory.mktemp("clip")
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]))
    return Tokenizer.from_buffer(data), CLIPTokenizer.from_pretrained(folder, pad_token=request.param)


def test_the_shipped_vocabulary_is_clips(shipped: tuple[Tokenizer, CLIPTokenizer]) -> None:
    ours, _ = shipped
    assert ours.get_vocab_size() == 49408
    assert ours.encode("a photo of a cat").ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert [ours.id_to_token(index) for index in (0, 255, 256, 49405)] == ["!", "Ń", "!</w>", "jekyll</w>"]


@pytest.mark.parametrize("text", TEXTS)
def test_the_shipped_tokenizer_equals_transformers(text: str, shipped: tuple[Tokenizer, CLIPTokenizer]) -> None:
    ours, theirs = shipped
    assert ours.encode(text).ids == theirs(text).input_ids


def test_the_shipped_tokenizers_facts() -> None:
    found = tokenizer.clip("!").facts("tokenizer_2.json", 77)
    ids = {"bos_id": 49406, "eos_id": 49407, "pad_id": 0}
    assert found == {"file": "tokenizer_2.json", "max_length": 77, **ids}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("merges.txt", "one two three\n", "two symbols"),
        ("vocab.json", "[]", "not a JSON object"),
        ("vocab.json", '{"a": 0}', "lacks"),
        ("tokenizer.json", "{}", "not a tokenizer"),
    ],
)
def test_damaged_files_are_named(checkpoint: Path, tmp_path: Path, file: str, text: str, message: str) -> None:
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((checkpoint / "tokenizer" / name).read_bytes())
    (tmp_path / file).write_text(text)
    if file == "vocab.json":
        (tmp_path / "merges.txt").write_text("")
    with pytest.raises(CheckpointError, match=message):
        tokenizer.read(tmp_path)
