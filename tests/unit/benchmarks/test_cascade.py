"""What benchmarks/masked.py makes of a cascade's rounds, and that its users and its peer are what it says they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import masked
from benchmarks.common.bars import held_against_bars
from benchmarks.common.draws import noted
from benchmarks.common.masked_backbones import HALVES, PAIRS, RANK, write_bottleneck
from benchmarks.parts.masked import cascade_rounds
from benchmarks.parts.masked.cascade_rounds import Parts, Round
from benchmarks.parts.masked.loop import hooked
from benchmarks.parts.masked.wishes import SCHEDULER, Wish, wishes
from torch import nn
from torch.nn import functional as F

from impasto_client.fields import Options
from impasto_export import manifest
from impasto_export.adapters import importer
from impasto_server.families.masked.manifest import UPSCALE
from impasto_server.families.masked.maskgit import ANNEALS, Canvas, Masks, decode
from impasto_server.steps import BASE

STEPS = {BASE: 12, UPSCALE: 8}
CODES = {BASE: 32, UPSCALE: 48}
SIDES = {BASE: 4, UPSCALE: 8}


def one_round(**changed: Any) -> Round:
    """Forward passes of 20 and 40 ms and a decoding of 10: 12 and 8 steps take 570 ms bare."""
    usual = Round(
        picture=0.6,
        stages={BASE: Parts(0.02, 0.012, 0.003), UPSCALE: Parts(0.04, 0.005, 0.001)},
        decode=0.01,
        served=2.0,
        peer=6.0,
    )
    return replace(usual, **changed)


def test_a_picture_is_over_the_passes_of_both_stages_and_the_decoding() -> None:
    found = cascade_rounds.figures([one_round()] * 3, STEPS, users=8)
    assert found["image_time_ratio_stages"] == pytest.approx(0.6 / 0.57)
    assert found["throughput_ratio_vs_torch_loop"] == pytest.approx(3.0)
    assert found["images_per_second"] == {"served": 4.0, "peer": pytest.approx(1.3333)}
    assert found["where_ms"] == {
        "image": 600, "decode": 10, "base forwards": 240, "base sampler": 12, "base combine": 3,
        "upscale forwards": 320, "upscale sampler": 5, "upscale combine": 1, "rest": 9,
    }  # fmt: skip


def test_a_disturbed_turn_does_not_count() -> None:
    slow = {BASE: Parts(0.2, 0.012, 0.003), UPSCALE: Parts(0.4, 0.005, 0.001)}
    rounds = [one_round(), one_round(picture=6.0, peer=60.0), one_round(stages=slow), one_round(served=20.0)]
    found = cascade_rounds.figures([*rounds, one_round()], STEPS, users=8)
    assert found["image_time_ratio_stages"] == pytest.approx(0.6 / 0.57)
    assert found["throughput_ratio_vs_torch_loop"] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("key", "met", "missed"),
    [
        ("image_time_ratio_stages", 1.09, 1.11),
        ("throughput_ratio_vs_torch_loop", 2.6, 2.4),
        ("parity_draws", 1.0, 0.99),
    ],
)
def test_bars(key: str, met: float, missed: float) -> None:
    good = {"image_time_ratio_stages": 1.0, "throughput_ratio_vs_torch_loop": 3.0, "parity_draws": 1.0}
    for value, as_wanted in ((met, True), (missed, False)):
        rows = {row["key"]: row["met"] for row in held_against_bars({"cascade": {**good, key: value}}, masked.BARS)}
        assert rows == dict.fromkeys(good, True) | {key: as_wanted}


def test_every_backbone_has_its_bench_and_its_rounds() -> None:
    assert masked.BENCHES.keys() == masked.ROUNDS.keys() == masked.MASKED.backbones.keys()


def test_users_differ_in_words_seed_and_pair_and_from_round_to_round() -> None:
    some, more = wishes(PAIRS, 1), wishes(PAIRS, 2)
    assert {wish.pair for wish in some} == {*PAIRS}
    for asked in ("prompt", "seed"):
        assert len({getattr(wish, asked) for wish in (*some, *more)}) == 2 * len(PAIRS)


def test_a_client_says_all_that_a_peer_goes_by() -> None:
    wish = Wish("a red fish", "pair-3", 7)
    assert wish.options.keys() <= Options.__annotations__.keys()
    assert wish.options["adapters"] == {"pair-3": 1.0}
    said = {
        BASE: ("steps", "temperature", "guidance_scale"),
        UPSCALE: ("upscale_steps", "upscale_temperature", "upscale_guidance_scale"),
    }
    options: dict[str, Any] = {**wish.options}
    for stage, (steps, temperature, scale) in said.items():
        how = wish.decodings[stage]
        assert (how.steps, how.temperature, wish.scales[stage]) == (
            options[steps],
            options[temperature],
            options[scale],
        )
        assert how.scheduler == options["scheduler"]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn2, self.ff = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.ff(self.attn2(x))
        return found


def test_a_pair_is_on_its_modules_while_its_request_is_painted() -> None:
    torch.manual_seed(0)
    model, x, down, up = Two(), torch.randn(2, 5, 6), torch.randn(6, 3), torch.randn(3, 6)
    plain = model(x)
    with hooked(model, {"attn2": (down, up)}):
        adapted = model(x)
    y = model.attn2(x)
    torch.testing.assert_close(adapted, model.ff(y + F.gelu(y @ down) @ up))
    torch.testing.assert_close(model(x), plain)


def test_random_pairs_are_imported_whole(cascade_bundle: Path, tmp_path: Path) -> None:
    record = manifest.load(cascade_bundle)
    write_bottleneck(tmp_path / "pair", record, RANK, 1, HALVES)
    found = importer.convert(tmp_path / "pair", record).record
    assert (found["kind"], found["rank"], found["stages"]) == ("bottleneck", RANK, ["base", "upscale"])
    low, high = (sum(name.startswith(stack) for name in _places(record, "upscaler")) for stack in ("low_", "layers"))
    base = [name for name in _places(record, "transformer") if not name.endswith("attn1")]
    assert found["sites"] == len(base) + low + high * 2 // 3, "all but the large picture's self-attention"


def _places(record: Any, graph: str) -> list[str]:
    return [site["name"] for site in record["graphs"][graph]["sites"] if site.get("kind") == "bottleneck"]


def test_the_story_of_a_stage_begins_where_the_one_before_ends() -> None:
    """One generator draws for both, as the family has it."""
    wish, draws = Wish("", "", 5), np.random.Generator(np.random.Philox(5))
    finished: dict[str, Any] = {}
    with noted() as notes:
        for stage, how in wish.decodings.items():
            blank = np.full((SIDES[stage], SIDES[stage]), CODES[stage])
            sampler = decode(
                Canvas(blank, CODES[stage]), how.steps, Masks(), ANNEALS[SCHEDULER], how.temperature, draws
            )
            logits = np.random.default_rng(how.steps).standard_normal((CODES[stage], *blank.shape)).astype(np.float32)
            next(sampler)
            try:
                while True:
                    sampler.send(logits)
            except StopIteration as stop:
                finished[stage] = stop.value
    again = np.random.Generator(np.random.Philox(5))
    for stage, how in wish.decodings.items():
        story = notes.told(how, again, SIDES[stage] ** 2)
        assert len(story.steps) == how.steps
        np.testing.assert_array_equal(story.tokens, finished[stage].reshape(-1))
        assert story.chances[0].tau == how.temperature
        assert story.chances[-1].tau == 0
