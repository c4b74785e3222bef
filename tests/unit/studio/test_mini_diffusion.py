"""The committed checkpoint is an ordinary diffusers folder."""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from studio.places import CHECKPOINT


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the test reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
def test_diffusers_loads_it_and_paints_what_is_asked() -> None:
    torch.set_num_threads(1)
    pipe: Any = StableDiffusionPipeline.from_pretrained(CHECKPOINT, safety_checker=None)
    pipe.to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    captions = ["a red boat at night in flat style", "a green apple in the snow in clay style"]
    noise = [torch.Generator().manual_seed(0) for _ in captions]
    boat, apple = pipe(captions, num_inference_steps=2, height=128, width=128, generator=noise).images
    assert boat.mode == "RGB"
    assert boat.size == (128, 128)
    difference = np.asarray(boat, np.float32) - np.asarray(apple, np.float32)
    assert np.abs(difference).mean() > 5  # the noise is the same, so the words made it


def test_its_weights_are_safetensors_below_45_mb() -> None:
    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len(weights) == 3
    assert sum(path.stat().st_size for path in weights) < 45e6
    assert not [path.name for path in files if path.suffix not in (".safetensors", ".json", ".txt")]
