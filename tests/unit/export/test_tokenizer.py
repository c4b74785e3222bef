"""The tokenizer built from vocab.json and merges.txt gives transformers' own ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from impasto_export import tokenizer
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
    data, _ = tokenizer.read(checkpoint / "tokenizer")
    return Tokenizer.from_buffer(data), CLIPTokenizer.from_pretrained(checkpoint / "tokenizer")


@pytest.mark.parametrize("text", TEXTS)
def test_equals_transformers(text: str, pair: tuple[Tokenizer, CLIPTokenizer]) -> None:
    ours, theirs = pair
    assert ours.encode(text).ids == theirs(text).input_ids


def test_special_ids(checkpoint: Path) -> None:
    _, ids = tokenizer.read(checkpoint / "tokenizer")
    theirs = CLIPTokenizer.from_pretrained(checkpoint / "tokenizer")
    assert ids == {"bos_id": theirs.bos_token_id, "eos_id": theirs.eos_token_id, "pad_id": theirs.pad_token_id}


def test_a_saved_tokenizer_json_is_taken_as_it_is(pair: tuple[Tokenizer, CLIPTokenizer], tmp_path: Path) -> None:
    pair[1].save_pretrained(tmp_path)
    data, _ = tokenizer.read(tmp_path)
    assert data == (tmp_path / "tokenizer.json").read_bytes()
    assert Tokenizer.from_buffer(data).encode(TEXTS[1]).ids == pair[0].encode(TEXTS[1]).ids


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
