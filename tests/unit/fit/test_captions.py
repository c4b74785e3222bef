"""Captions come from a captioner that the user has; without one there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
)

from impasto_fit.captions import Captioner
from impasto_fit.errors import CheckpointError
from tests.helpers.fits import striped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP of a few thousand random numbers, as a folder."""
    home = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *"abcdefgh"]
    (home / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(vocab_file=str(home / "vocab.txt"))
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {
        **sizes,
        "vocab_size": len(words),
        "bos_token_id": 5,
        "sep_token_id": 3,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }
    config = BlipConfig(text_config={**text, "encoder_hidden_size": 16}, vision_config={**sizes, "image_size": 32})
    torch.manual_seed(0)
    BlipForConditionalGeneration(config).save_pretrained(home)
    side = {"height": 32, "width": 32}
    BlipProcessor(BlipImageProcessorPil(size=side), tokenizer).save_pretrained(home)
    return home


def test_each_picture_gets_a_caption_and_always_the_same(folder: Path) -> None:
    captioner = Captioner.open(folder)
    found = captioner.captions([striped(), striped(1)])
    assert len(found) == 2
    assert all(isinstance(one, str) for one in found)
    assert captioner.captions([striped(), striped(1)]) == found


def test_what_is_no_captioner(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"captioner: .* can't be opened .*; give a BLIP's folder or hub id"):
        Captioner.open(tmp_path)
