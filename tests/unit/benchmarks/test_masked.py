"""What benchmarks/masked.py makes of its rounds, and that its requests, adapters and peer are what it says they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from benchmarks import masked
from benchmarks.common.backbones import NAMES, write_lora
from benchmarks.common.bars import held_against_bars
from benchmarks.common.draws import drawing
from benchmarks.common.flat import altered
from benchmarks.common.masked_backbones import ADAPTED, AMUSED, RANK, write_bottleneck
from benchmarks.parts.masked import rounds as masked_rounds
from benchmarks.parts.masked.pictures import Painted, equal_tokens, tokens_noted
from benchmarks.parts.masked.rounds import STEPS, Round

from impasto_export import manifest
from impasto_export.adapters import importer
from impasto_export.tracing import graphs
from impasto_server.bundle import ImageSize
from impasto_server.guidance import Mix, Mixes, Prompts, Text

IMAGE = ImageSize(width=128, height=128, multiple_of=16, max_pixels=1 << 20)
CODES, MASK_ID, SIDE = 64, 79, 8


def philox(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def one_round(**changed: Any) -> Round:
    """A forward pass of 20 ms and a decoding of 10 ms: bare, 12 steps take 250 ms and 36 steps 730."""
    usual = Round(
        guided={12: 0.275, 36: 0.803},
        forward=0.02,
        decode=0.01,
        sample={12: 0.012, 36: 0.036},
        combine={12: 0.003, 36: 0.009},
        composed=0.55,
        crowds={"adapters": 1.0, "peer": 4.0, "same": 0.98, "bottlenecks": 1.1, "plain": 0.8},
    )
    return replace(usual, **changed)


def test_ratios_are_over_what_is_left_of_a_picture() -> None:
    found = masked_rounds.figures([one_round()] * 3)
    assert found["image_time_ratio_12"] == pytest.approx(0.275 / 0.25)
    assert found["image_time_ratio_36"] == pytest.approx(0.803 / 0.73)
    assert found["where_12_ms"] == {
        "image": 275, "forwards": 240, "decode": 10, "sampler": 12, "combine": 3, "rest": 10,
    }  # fmt: skip
    assert found["sampler_share_12"] == pytest.approx(15 / 275)
    assert found["compose_ratio"] == pytest.approx(2.0)


def test_crowds_are_compared_within_rounds() -> None:
    """The second round was disturbed on all sides, the third on one."""
    slow = {name: 10 * seconds for name, seconds in one_round().crowds.items()}
    disturbed = {**one_round().crowds, "adapters": 2.0}
    found = masked_rounds.figures([one_round(), one_round(crowds=slow), one_round(crowds=disturbed)])
    assert found["throughput_ratio_vs_diffusers_peft"] == 4.0
    assert found["heterogeneity"] == pytest.approx(0.98)
    assert found["bottleneck_ratio"] == pytest.approx(1.1)
    assert found["adapter_tax"] == pytest.approx(1.25)
    assert found["images_per_second"]["peer"] == 2.0


def test_a_disturbed_pass_does_not_count() -> None:
    rounds = [one_round(), one_round(forward=0.2), one_round(guided={12: 3.0, 36: 9.0}), one_round(), one_round()]
    assert masked_rounds.image_time_ratio(rounds, 12) == pytest.approx(1.1)


BARS = [bar for bar in masked.BARS if "mini" in bar.backbones]


@pytest.mark.parametrize(("key", "met", "missed"), [(bar.key, 1.0, 3.0) for bar in BARS if bar.at_most])
def test_bars(key: str, met: float, missed: float) -> None:
    figures = {bar.key: 2.5 if bar.at_least == 2.5 else 1.0 for bar in BARS}
    for value, as_wanted in ((met, True), (missed, False)):
        rows = {row["key"]: row for row in held_against_bars({"mini": {**figures, key: value}}, masked.BARS)}
        assert rows[key]["met"] is as_wanted
        assert all(row["met"] for name, row in rows.items() if name != key)


def test_a_draw_that_went_astray_is_a_missed_bar() -> None:
    figures = {bar.key: 2.5 if bar.at_least == 2.5 else 1.0 for bar in BARS}
    rows = held_against_bars({"mini": {**figures, "parity_draws": 0.999}}, masked.BARS)
    assert [row["key"] for row in rows if not row["met"]] == ["parity_draws"]


def test_users_differ_in_words_seed_and_adapter() -> None:
    found = masked_rounds.users(IMAGE, NAMES)
    for field in ("PROMPT", "SEED", "ADAPTER_NAMES"):
        assert len({user.values[field] for user in found}) == len(NAMES)
    asked = {tuple(user.values[field] for field in ("STEPS", "GUIDANCE_SCALE", "SCHEDULER")) for user in found}
    assert asked == {(STEPS[0], 3.0, "amused")}
    assert masked_rounds.users(IMAGE, [None])[0].styles.adapters == ()


def test_a_composition_is_five_lanes_and_guidance_two() -> None:
    mixes = Mixes(Mix.of([("style", 1.0)]), Mix.of([("content", 1.0)]))
    said = Prompts(Text.of("a red fish in clay"), Text.of(""), Text.of("a red fish"))
    assert len(masked_rounds.composed(IMAGE, 12, 1).rule(said, mixes).lanes) == 5
    assert len(masked_rounds.guided(IMAGE, 12, 1).rule(said, mixes).lanes) == masked_rounds.LANES == 2


def test_composition_and_guidance_differ_in_the_rule_alone() -> None:
    asked, guided = masked_rounds.composed(IMAGE, 12, 1), masked_rounds.guided(IMAGE, 12, 1)
    assert asked.styles.content_prompt not in (None, guided.words.prompt)
    assert altered(
        asked, adapters=guided.styles.adapters, guidance="cfg", style=(), content=None, content_prompt=None
    ) == altered(guided, gamma=asked.strengths["GAMMA"])


def test_equal_tokens_are_counted_picture_by_picture() -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    ours = [Painted(black, np.array([[1, 2], [3, 4]])), Painted(black, np.array([[1, 2], [3, 4]]))]
    theirs = [Painted(black, np.array([[1, 2], [3, 4]])), Painted(black, np.array([[1, 2], [3, 5]]))]
    assert equal_tokens(ours, theirs) == [1.0, 0.75]


def test_tokens_are_found_by_the_picture_they_became() -> None:
    def become(sample: Any) -> Any:
        return np.repeat(sample.tokens[..., None], 3, axis=-1).astype(np.uint8)

    pipeline = SimpleNamespace(family=SimpleNamespace(decode=become))
    tokens = np.array([[1, 2], [3, 4]])
    with tokens_noted(cast(Any, pipeline)) as found:
        picture = pipeline.family.decode(SimpleNamespace(tokens=tokens))
    np.testing.assert_array_equal(found[picture.tobytes()], tokens)
    assert pipeline.family.decode is become


def test_random_numbers_are_torchs_own_again_afterwards() -> None:
    own = torch.multinomial
    with drawing(philox(1)):
        assert torch.multinomial is not own
    assert torch.multinomial is own


def test_amused256_has_its_size() -> None:
    with torch.device("meta"):
        built = {part: graphs.build(part, config) for part, config in AMUSED.items()}
    millions = {part: sum(p.numel() for p in model.parameters()) / 1e6 for part, model in built.items()}
    assert millions["transformer"] == pytest.approx(603.5, abs=0.1)
    assert millions["text_encoder"] == pytest.approx(123.7, abs=0.1)
    graphs._check_agreement(*(built[part].config for part in AMUSED))


def test_random_adapters_are_imported_whole(masked_bundle: Path, tmp_path: Path) -> None:
    record = manifest.load(masked_bundle)
    sites = record["graphs"]["transformer"]["sites"]
    write_lora(tmp_path / "lora", record, RANK, seed=1, adapted=ADAPTED)
    lora = importer.convert(tmp_path / "lora", record).record
    projections = [site for site in sites if ".attn" in site["name"] and site.get("kind") != "bottleneck"]
    assert (lora["rank"], lora["sites"]) == (RANK, len(projections))
    write_bottleneck(tmp_path / "bottleneck", record, RANK, seed=1)
    bottleneck = importer.convert(tmp_path / "bottleneck", record).record
    places = [site for site in sites if site.get("kind") == "bottleneck" and not site["name"].endswith("attn1")]
    assert (bottleneck["rank"], bottleneck["sites"]) == (RANK, len(places))
