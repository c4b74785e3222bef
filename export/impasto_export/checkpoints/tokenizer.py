"""Make a bundle's tokenizer.json: the checkpoint's own, or built as CLIP's from vocab.json and merges.txt, or from the
merges that ship with impasto."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from impasto_export.architecture import Json, read_json
from impasto_export.checkpoints import added
from impasto_export.errors import CheckpointError
from impasto_export.families import end_of_text

MERGES = Path(__file__).parent / "vocabulary" / "clip_merges.txt.gz"
# Settings that change a text's tokens, with the one value that the server knows.
FIXED: Json = {"padding_side": "right", "truncation_side": "right", "split_special_tokens": False}
SHOWN = 3
# A word that names an embedding in a request's prompt: see the server's prompt.py.
TRIGGER = re.compile(r"<[^<>\s]+>")
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer. `data` is tokenizer.json; `ids` are the special tokens' ids, as in the manifest. Texts are padded to
    `longest` if that is stated. Errors name the `origin`; `own` are the tokens that the checkpoint added."""

    origin: Path
    data: bytes
    ids: Json
    longest: float | None
    own: tuple[str, ...] = ()

    def facts(self, file: str, positions: int) -> Json:
        """The manifest's entry, for a text encoder with so many `positions`.

        Raises CheckpointError when the tokenizer pads to fewer.
        """
        if self.longest is not None and self.longest < positions:
            problem = f"model_max_length {self.longest} is below the text encoder's {positions} positions"
            raise CheckpointError(f"{self.origin}: {problem}")
        return {"file": file, "max_length": positions, **self.ids}

    def check_size(self, size: int) -> None:
        """Raises CheckpointError for a token whose id is not below `size`, the text encoder's vocabulary."""
        ids = Tokenizer.from_buffer(self.data).get_vocab(with_added_tokens=True)
        beyond = sorted((id, token) for token, id in ids.items() if id >= size)
        if beyond:
            held = ", ".join(f"{token!r} ({id})" for id, token in beyond[:SHOWN])
            more = f" and {len(beyond) - SHOWN} more" if len(beyond) > SHOWN else ""
            problem = f"{held}{more} lie beyond the text encoder's vocabulary of {size}"
            raise CheckpointError(f"{self.origin}: {problem}; use the tokenizer that it was trained with")

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on tokens that no request can name."""
        taken = [token for token in self.own if TRIGGER.fullmatch(token)]
        problem = "names an embedding in a prompt, not the tokenizer's token; import the token's vector under that name"
        return tuple(f"{self.origin.name}: {token} {problem}" for token in taken)

    def check_end(self, stated: int, size: int, what: str) -> None:
        """Raises CheckpointError when the tokenizer ends texts with another id than the one at which the text encoder
        pools: `stated` in its config under the name `what`. `size` is its vocabulary's."""
        end, wanted = self.ids["eos_id"], end_of_text(stated, size)
        if end != wanted:
            problem = f"the tokenizer ends texts with id {end}, but {what} {stated} means {wanted}"
            raise CheckpointError(f"{self.origin}: {problem}; correct that config, or the tokenizer")


def read(folder: Path) -> Vocabulary:
    """The folder's tokenizer. Raises CheckpointError when it is not CLIP's or lacks a special token."""
    config = added.config_of(folder)
    kind = config.get("tokenizer_class") or "CLIPTokenizer"
    if kind not in ("CLIPTokenizer", "CLIPTokenizerFast"):
        raise CheckpointError(f"{folder}: tokenizer_class is {kind}; only CLIPTokenizer is served")
    for key, only in FIXED.items():
        if config.get(key, only) not in (None, only):
            raise CheckpointError(f"{folder}: {key} is {config[key]!r}; only {only!r} is served")
    tokens = {key: added.content(config.get(key) or default) for key, default in added.CLIP_TOKENS.items()}
    path, brought = folder / "tokenizer.json", added.tokens(folder, config)
    if path.is_file():
        data = path.read_bytes()
    else:  # the padding token may be one that the checkpoint added
        late = {token.content for _, token in brought} & {tokens["pad_token"]}
        first = {key: token for key, token in tokens.items() if token not in late or key != "pad_token"}
        data = build(folder, *_vocabulary(folder), first).to_str().encode()
    data, own = added.extended(folder, data, brought, tokens.values())
    longest = config.get("model_max_length")
    if longest is not None and not isinstance(longest, (int, float)):
        raise CheckpointError(f"{folder}: model_max_length is {longest!r}; a number of tokens is expected")
    return Vocabulary(folder, data, _ids(folder, data, tokens), longest, own)


def _ids(folder: Path, data: bytes, tokens: Mapping[str, str]) -> Json:
    tokenizer = added.opened(folder, data)
    ids = {key: tokenizer.token_to_id(tokens[f"{key}_token"]) for key in ("bos", "eos", "pad")}
    absent = [tokens[f"{key}_token"] for key, value in ids.items() if value is None]
    if absent:
        raise CheckpointError(f"{folder}: special tokens missing from the vocabulary: {', '.join(absent)}")
    return {f"{key}_id": value for key, value in ids.items()}


def clip(pad: str) -> Vocabulary:
    """CLIP's own vocabulary, which every Stable Diffusion uses; `pad` is the padding token."""
    lines = gzip.decompress(MERGES.read_bytes()).decode().split("\n")
    merges = [(first, second) for first, second in (line.split() for line in lines if line)]
    letters = _letters()
    ends = added.CLIP_TOKENS["bos_token"], added.CLIP_TOKENS["eos_token"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), *ends]
    tokens = {**added.CLIP_TOKENS, "pad_token": pad}
    data = build(MERGES, {word: index for index, word in enumerate(words)}, merges, tokens).to_str().encode()
    return Vocabulary(MERGES, data, _ids(MERGES, data, tokens), None)


def _letters() -> list[str]:
    """A character for each byte, in the order of CLIP's vocabulary: printable bytes come first, as themselves."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, printed), *(chr(256 + index) for index in range(256 - len(printed)))]


def build(folder: Path, vocabulary: dict[str, int], merges: list[tuple[str, str]], tokens: dict[str, str]) -> Tokenizer:
    """CLIP's tokenizer of a vocabulary: NFC, single spaces, lower case, words, byte-level BPE with </w>."""
    absent = sorted(set(tokens.values()) - vocabulary.keys())
    if absent:
        raise CheckpointError(f"{folder}: vocab.json lacks the special tokens {', '.join(absent)}")
    try:
        model = BPE(
            vocab=vocabulary,
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
            unk_token=tokens["unk_token"],
        )
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{folder}: vocab.json and merges.txt do not fit each other: {error}") from None
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
    # split("\n"), not splitlines(): merges contain characters that Unicode counts as line ends.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    pairs = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    if len(merges) != len(pairs):
        raise CheckpointError(f"{path}: every line must be two symbols with a space between them")
    return vocabulary, merges
