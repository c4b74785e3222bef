"""The tokenizer built from vocab.json and merges.txt gives transformers' own ids."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from impasto_export.checkpoints import tokenizer
from impasto_export.errors import CheckpointError
from tests.helpers.folders import edit_json

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


# What a checkpoint brings beside the vocabulary


@pytest.fixture
def own(checkpoint: Path, tmp_path: Path) -> Path:
    """A private copy of the tokenizer's folder, to be changed."""
    return shutil.copytree(checkpoint / "tokenizer", tmp_path / "tokenizer")


def both(folder: Path) -> tuple[Tokenizer, CLIPTokenizer]:
    return Tokenizer.from_buffer(tokenizer.read(folder).data), CLIPTokenizer.from_pretrained(folder)


BROUGHT = [
    "a boat, toystyle, at night",
    "ToyStyle toystyles  toystyle,",
    "a <cat-toy>x of <CAT-TOY>",
    "the sks<|endoftext|> thing <|startoftext|>",
]
PLAIN = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False, "special": False}


def added_tokens(folder: Path, size: int) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({"<cat-toy>": size + 1, "toystyle": size}))


def added_tokens_decoder(folder: Path, size: int) -> None:
    listed = {
        str(size - 1): {**PLAIN, "content": "<|endoftext|>", "special": True},
        str(size + 1): {**PLAIN, "content": "toystyle", "single_word": True},
        str(size): {**PLAIN, "content": "<cat-toy>", "normalized": False, "rstrip": True},
    }
    edit_json(folder / "tokenizer_config.json", added_tokens_decoder=listed)


def both_lists(folder: Path, size: int) -> None:
    """The newer one counts alone."""
    added_tokens_decoder(folder, size)
    (folder / "added_tokens.json").write_text(json.dumps({"never": size + 2}))


def padding(folder: Path, size: int) -> None:
    """What fills up a text may be one of them."""
    added_tokens(folder, size)
    edit_json(folder / "tokenizer_config.json", pad_token="<cat-toy>")


def special_token(folder: Path, size: int) -> None:
    special = ["toystyle", {"__type": "AddedToken", "content": "<cat-toy>", **PLAIN, "special": True}]
    edit_json(folder / "tokenizer_config.json", extra_special_tokens=special)


@pytest.mark.parametrize("saved", [False, True], ids=["vocab.json", "tokenizer.json"])
@pytest.mark.parametrize("bring", [added_tokens, added_tokens_decoder, both_lists, padding, special_token])
def test_tokens_of_its_own_are_read_as_transformers_reads_them(
    bring: Callable[[Path, int], None], saved: bool, own: Path
) -> None:
    size = len(json.loads((own / "vocab.json").read_text()))
    if saved:
        CLIPTokenizer.from_pretrained(own).save_pretrained(own)
    bring(own, size)
    ours, theirs = both(own)
    assert {ours.token_to_id("toystyle"), ours.token_to_id("<cat-toy>")} == {size, size + 1}
    assert {"toystyle"} <= {*tokenizer.read(own).own} <= {"toystyle", "<cat-toy>"}
    for text in (*BROUGHT, *TEXTS):
        assert ours.encode(text).ids == theirs(text).input_ids, text


@pytest.mark.parametrize("saved", [False, True], ids=["vocab.json", "tokenizer.json"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_special_tokens_map_counts_before_the_config(wrapped: bool, saved: bool, own: Path) -> None:
    """Stable Diffusion 2's pads with "!" by the map alone."""
    if saved:
        CLIPTokenizer.from_pretrained(own).save_pretrained(own)
    pad = {"content": "!", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    (own / "special_tokens_map.json").write_text(json.dumps({"pad_token": pad if wrapped else "!"}))
    edit_json(own / "tokenizer_config.json", pad_token="<|endoftext|>")
    ours, theirs = both(own)
    assert tokenizer.read(own).ids["pad_id"] == theirs.pad_token_id == 0
    for text in ("! !! !!!", "a red bat! the !thing", *TEXTS):
        assert ours.encode(text).ids == theirs(text).input_ids, text
    edit_json(own / "tokenizer_config.json", added_tokens_decoder={})
    assert tokenizer.read(own).ids["pad_id"] == both(own)[1].pad_token_id == tokenizer.read(own).ids["eos_id"]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"toystyle": 9}, r"the token 'toystyle' has the id 5\d\d in its vocabulary, but 9 is stated; get all tokeniz"),
        ({"toystyle": 9999}, "in its vocabulary, but 9999 is stated"),
        ({"toystyle": "many"}, r"the ids of its added tokens are \['many'\]; numbers are expected"),
    ],
)
def test_an_id_that_is_not_the_vocabularys_is_refused(stated: dict[str, object], message: str, own: Path) -> None:
    (own / "added_tokens.json").write_text(json.dumps(stated))
    with pytest.raises(CheckpointError, match=message):
        tokenizer.read(own)


@pytest.mark.parametrize("token", [3, {"content": "a", "lstrip": "yes"}])
def test_a_malformed_token_is_named(token: object, own: Path) -> None:
    edit_json(own / "tokenizer_config.json", added_tokens_decoder={"9": token})
    with pytest.raises(CheckpointError, match=r"an added token is .*; its text and flags are expected"):
        tokenizer.read(own)


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
