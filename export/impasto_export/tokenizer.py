"""tokenizer.json for a bundle: the checkpoint's own, or built from vocab.json and merges.txt as CLIP does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from impasto_export.architecture import Json, read_json
from impasto_export.errors import CheckpointError

# CLIP's own tokens, for a checkpoint whose tokenizer_config.json leaves them out.
CLIP_TOKENS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def read(folder: Path) -> tuple[bytes, Json]:
    """tokenizer.json's bytes and the manifest's facts but for `max_length`.

    Raises CheckpointError when the folder has no CLIP tokenizer or lacks a special token.
    """
    config = read_json(folder / "tokenizer_config.json")
    kind = config.get("tokenizer_class", "CLIPTokenizer")
    if kind not in ("CLIPTokenizer", "CLIPTokenizerFast"):
        raise CheckpointError(f"{folder}: tokenizer is a {kind}; only CLIPTokenizer is known")
    tokens = {key: _content(config.get(key, default)) for key, default in CLIP_TOKENS.items()}
    path = folder / "tokenizer.json"
    data = path.read_bytes() if path.is_file() else build(folder, tokens).to_str().encode()
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{path}: not a tokenizer: {error}") from None
    ids = {key: tokenizer.token_to_id(tokens[f"{key}_token"]) for key in ("bos", "eos", "pad")}
    absent = [tokens[f"{key}_token"] for key, value in ids.items() if value is None]
    if absent:
        raise CheckpointError(f"{folder}: special tokens missing from the vocabulary: {', '.join(absent)}")
    return data, {f"{key}_id": value for key, value in ids.items()}


def max_length(folder: Path, positions: int) -> int:
    """Tokens the text encoder reads. Raises CheckpointError when the tokenizer pads to fewer than the graph takes."""
    stated = read_json(folder / "tokenizer_config.json").get("model_max_length", positions)
    if stated < positions:
        raise CheckpointError(f"{folder}: model_max_length {stated} is below the text encoder's {positions} positions")
    return positions


def build(folder: Path, tokens: dict[str, str]) -> Tokenizer:
    """CLIP's pipeline around the folder's vocabulary: NFC, one space, lower case, words, byte-level BPE with </w>."""
    vocabulary, merges = _vocabulary(folder)
    absent = sorted(set(tokens.values()) - vocabulary.keys())
    if absent:
        raise CheckpointError(f"{folder}: vocab.json lacks the special tokens {', '.join(absent)}")
    model = BPE(
        vocab=vocabulary,
        merges=merges,
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        fuse_unk=False,
        unk_token=tokens["unk_token"],
    )
    tokenizer = Tokenizer(model)
    # The stubs of tokenizers declare these as read-only properties of unknown type.
    parts: Any = tokenizer
    parts.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    parts.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    parts.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(dict.fromkeys(tokens.values())))
    start, end = tokens["bos_token"], tokens["eos_token"]
    ends = (end, vocabulary[end]), (start, vocabulary[start])
    parts.post_processor = processors.RobertaProcessing(*ends, trim_offsets=False, add_prefix_space=False)
    return tokenizer


def _vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    vocabulary = read_json(folder / "vocab.json")
    path = folder / "merges.txt"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    # split("\n"), not splitlines(): merges hold characters that Unicode counts as line ends.
    lines = path.read_text(encoding="utf-8").split("\n")
    pairs = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    if len(merges) != len(pairs):
        raise CheckpointError(f"{path}: every line must be two symbols with a space between them")
    return vocabulary, merges


def _content(token: str | Json) -> str:
    """A special token is saved as its text, or as an object around it."""
    return token if isinstance(token, str) else str(token["content"])
