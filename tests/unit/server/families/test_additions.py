"""What a family can be given more of, by an entry each."""

from __future__ import annotations

import numpy as np
import pytest

from impasto_server.families.diffusion.samplers import SAMPLERS, Start
from impasto_server.families.diffusion.schedule import Schedule
from impasto_server.families.masked.maskgit import ANNEALS
from impasto_server.families.offers import FIELDS
from impasto_server.offer import parse
from impasto_server.steps import Ask, Steps

from ..conftest import Open


def straight(start: Start, steps: int, schedule: Schedule) -> Steps:
    """A step of one length after another."""
    sample = start.noise
    for step in range(steps):
        sample = sample - (yield Ask(sample, 500, step, steps)) / np.float32(steps)
    return sample


def halving(step: int, steps: int) -> float:
    """Half as much noise in "least sure" at every step."""
    return 0.5**step


def asked(scheduler: str) -> dict[str, np.ndarray[tuple[int], np.dtype[np.object_]]]:
    return {"PROMPT": np.array(["a boat"], np.object_), "SCHEDULER": np.array([scheduler], np.object_)}


def test_a_sampler_is_an_entry(open_pipeline: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMPLERS, "straight", straight)
    pipeline = open_pipeline()
    result = pipeline.generate(parse(asked("straight"), pipeline.offer, FIELDS))
    assert (result.meta["scheduler"], result.meta["steps"]) == ("straight", 25)


def test_a_way_to_anneal_is_an_entry(open_masked: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ANNEALS, "halving", halving)
    pipeline = open_masked()
    assert pipeline.generate(parse(asked("halving"), pipeline.offer, FIELDS)).meta["scheduler"] == "halving"
