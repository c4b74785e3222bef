"""What benchmarks/mixed.py makes of its samples, and that its crowds and adapters are what it says they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import mixed
from benchmarks.common import bench, crowd, passes, question
from benchmarks.common.backbones import NAMES, Backbone, write_lora
from benchmarks.common.bars import Bar, held_against_bars
from benchmarks.common.question import Question
from benchmarks.parts.mixed import roofline

from impasto_export import architecture, manifest
from impasto_export.adapters import importer
from impasto_export.architecture import SHIPPED
from impasto_export.tracing import graphs


@pytest.mark.parametrize("backbone", mixed.STEPS)
def test_users_agree_on_nothing_but_the_size(backbone: str) -> None:
    users = crowd.mixed(mixed.STEPS[backbone], 128, 128)
    for field in ("PROMPT", "ADAPTER_NAMES", "STEPS", "GUIDANCE_SCALE", "SEED"):
        assert len({user.values[field] for user in users}) == len(users)
    assert {user.sampling.scheduler for user in users} == set(crowd.SCHEDULERS)
    assert {(user.size.width, user.size.height) for user in users} == {(128, 128)}


@pytest.mark.parametrize("backbone", mixed.STEPS)
def test_the_uniform_crowd_asks_for_as_much(backbone: str) -> None:
    users = crowd.mixed(mixed.STEPS[backbone], 128, 128)
    alike = crowd.uniform(users)
    assert crowd.lane_steps(alike) == crowd.lane_steps(users)
    assert len({(user.styles, user.sampling, user.rule) for user in alike}) == 1


def test_a_request_without_guidance_is_one_lane() -> None:
    users = crowd.mixed((10,) * 8, 128, 128)
    assert crowd.lane_steps(users[:1]) == 10
    assert crowd.lane_steps(users[1:2]) == 20


def test_fresh_requests_are_the_same_work_never_seen_before() -> None:
    users = crowd.mixed((4,) * 8, 128, 128)
    first, second = crowd.fresh(users, 1), crowd.fresh(users, 2)
    assert len({user.words.prompt for user in (*users, *first, *second)}) == 24
    assert len({user.seeds.seed for user in (*users, *first, *second)}) == 24
    assert crowd.lane_steps(first) == crowd.lane_steps(users)


def test_wrong_adapters_are_everyone_elses() -> None:
    users = crowd.mixed((4,) * 8, 128, 128)
    wrong = crowd.wrong_adapters(users)
    assert all(a.styles.adapters != b.styles.adapters for a, b in zip(users, wrong, strict=True))
    assert {user.styles.adapters for user in wrong} == {((name, 1.0),) for name in NAMES}


def test_a_ratio_is_the_rounds_own() -> None:
    """The second round was disturbed on both sides, the third on one."""
    assert bench.ratio([3.0, 30.0, 3.0], [1.0, 10.0, 5.0]) == 3.0


def test_the_tax_is_taken_within_rounds() -> None:
    samples = {"mixed": [11.0, 22.0, 11.0], "plain": [10.0, 20.0, 10.0], "none": [11.0, 22.0, 22.0]}
    assert passes.tax(samples, "mixed", "plain") == pytest.approx(1.1)
    assert passes.tax(samples, "mixed", "none") == 1.0


@pytest.mark.parametrize(("value", "met"), [(2.5, True), (2.4, False)])
def test_bars(value: float, met: bool) -> None:
    figures = {"mini": {bar.key: value if bar.at_least == 2.5 else 50.0 for bar in mixed.BARS}}
    rows = {row["key"]: row for row in held_against_bars(figures, mixed.BARS)}
    assert rows["throughput_ratio_vs_diffusers_peft"]["met"] is met
    assert rows["parity_psnr_db_min"]["met"]
    assert not rows["resident_switch_ms"]["met"]
    assert "lora_tax" not in rows  # asked of the large backbone only


class Counted(question.Bench):
    def measure(self) -> dict[str, object]:
        return {"ratio": float(self.rounds), "asked": f"{self.settings.engine}, torch on {self.reference.device}"}


@pytest.mark.parametrize(
    ("more", "ratios"), [([], {"one": 3, "two": 5}), (["--backbone", "two", "--rounds", "7"], {"two": 7})]
)
def test_a_question_is_answered_for_each_backbone(
    more: list[str], ratios: dict[str, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def made(say: object) -> Backbone:
        return Backbone("name", *[tmp_path] * 5)

    for module, name in ((torch, "set_num_threads"), (question, "_quieten")):  # of the whole process
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["bench", "--json", str(tmp_path / "found"), "--engine", "onnxruntime", *more])
    bars = (Bar("ratio", ("one", "two"), at_least=4),)
    Question("what?", {"one": made, "two": made}, {"one": 3, "two": 5}, bars, {"ratio": "a note"}, Counted).answer()
    found = json.loads((tmp_path / "found").read_text())
    assert {name: found[name]["ratio"] for name in ("one", "two") if name in found} == ratios
    assert [row["met"] for row in found["bars"]] == [ratio >= 4 for ratio in ratios.values()]
    assert found["two"]["asked"] == "onnxruntime, torch on cpu"
    assert (found["machine"]["precision"], found["notes"]) == ("f32", {"ratio": "a note"})


def test_operations_of_adapters_grow_with_their_rank() -> None:
    config = {**architecture.load(SHIPPED / "mini-diffusion").components["unet"].config, "sample_size": 16}
    config["_class_name"] = "UNet2DConditionModel"

    def unet() -> object:
        with torch.device("meta"):
            return graphs.build("unet", config)

    plain = roofline.plain_gflop(unet(), 2, 32)
    four, eight = (roofline.adapted_gflop(unet(), 2, 32, rank) - plain for rank in (4, 8))
    assert plain == pytest.approx(2 * roofline.plain_gflop(unet(), 1, 32))
    assert 0 < four < plain
    assert eight == pytest.approx(2 * four)


def test_random_adapters_are_imported_whole(bundle: Path, tmp_path: Path) -> None:
    record = manifest.load(bundle)
    write_lora(tmp_path / "style", record, rank=8, seed=1)
    made = importer.convert(tmp_path / "style", record)
    projections = [site for graph in record["graphs"].values() for site in graph["sites"] if "attn" in site["name"]]
    assert made.record["rank"] == 8
    assert made.record["sites"] == len(projections)
