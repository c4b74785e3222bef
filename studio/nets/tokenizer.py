"""A CLIP-format byte-pair tokenizer learnt from captions.

Ids are stable whatever the captions are: 0-255 bytes, 256-511 bytes that end a word, 512 and 513 the two special
tokens, merges from 514 on. Any text has tokens; a word of the captions usually has one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTokenizer


def tokenise(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """int64 [N, 32]."""
    batch = tokenizer(captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    tokens: Tensor = batch.input_ids
    return tokens


TOKENS = 32
VOCABULARY = 1024
START, END = "<|startoftext|>", "<|endoftext|>"
SUFFIX = "</w>"


def learn_merges(captions: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges in the order learnt."""
    learner = Tokenizer(models.BPE(end_of_word_suffix=SUFFIX))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, end_of_word_suffix=SUFFIX, show_progress=False)
    learner.train_from_iterator(captions, trainer)
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]


def vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + SUFFIX for letter in alphabet), START, END]
    tokens += [left + right for left, right in merges]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def learn_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    merges: Any = learn_merges(captions)[: VOCABULARY - 514]  # its signature asks for strings, its code for pairs
    return CLIPTokenizer(
        vocab=vocabulary(merges),
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=TOKENS,
    )


def write_classic_files(folder: Path) -> None:
    """Write vocab.json, merges.txt and special_tokens_map.json beside the tokenizer.json that transformers 5 saves."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
