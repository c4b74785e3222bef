from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Row
from impasto_server.bundle import Bundle
from impasto_server.engines import calibration
from impasto_server.engines.calibration import (
    Calibration,
    Measured,
    Timing,
    keep,
    runtime_for,
)
from impasto_server.engines.onnxruntime import OnnxRuntimeEngine
from impasto_server.engines.profiles import most_lanes
from impasto_server.engines.providers import CPU, Provider
from impasto_server.engines.runtime import DEFAULT_MAX_LANES, Runtime, cpu_name
from impasto_server.errors import SetupError
from impasto_server.families import open_bundle
from impasto_server.ops.calibrate import batch, filled_bank, pick, time_passes
from impasto_server.ops.commands import calibrate
from impasto_server.pipeline import Pipeline
from impasto_server.settings import Settings
from impasto_server.steps import Ask
from tests.helpers import toy, toy_masked
from tests.helpers.asked import request_of

BLANK = Row(Ask(np.zeros((4, 8, 8), np.float32), 0, 0, 1), None, Seat())


@pytest.fixture
def fresh(tmp_path: Path) -> Bundle:
    """A bundle that was never calibrated."""
    return open_bundle(toy.write_bundle(tmp_path / "bundle"))


def settings(bundle: Bundle, threads: int = 1, max_lanes: int = 0) -> Settings:
    return Settings(bundle.folder, bundle.folder, "onnxruntime", "f32", threads, max_lanes)


def timing(lanes: int, ms: float) -> Timing:
    return Timing(lanes=lanes, ms=ms, fastest_ms=ms, switch_ms=ms, first_ms=ms)


def measured(max_lanes: int, threads: int = 1, **changed: Any) -> Measured:
    facts = {"cpu": cpu_name(), "bundle": "d" * 64, "version": "0", "latents": (4, 8, 8)}
    points = (timing(max_lanes, 1.0),)
    key = {"engine": "onnxruntime", "precision": "f32", "threads": threads}
    return Measured.model_validate({**key, **facts, "max_lanes": max_lanes, "points": points, **changed})


def impasto_calibrate(bundle: Path, *args: str) -> Result:
    app = typer.Typer()
    app.command()(calibrate)
    quick = ["--engine", "onnxruntime", "--precision", "f32", "--threads", "1", "--max", "3"]
    return CliRunner().invoke(app, ["--bundle", str(bundle), *quick, *args])


@pytest.mark.parametrize(
    ("ms_by_lanes", "picked"),
    [
        ({1: 10, 2: 15, 4: 20, 8: 40}, 4),  # 8 are no faster than 4, and everyone waits twice as long
        ({1: 10, 2: 15, 4: 20.5, 8: 40}, 4),  # 2.4 % slower than the best
        ({1: 10, 2: 15, 4: 21, 8: 40}, 8),  # 4.8 % slower
        ({1: 10, 2: 25}, 1),
    ],
)
def test_the_pick_is_the_fewest_lanes_that_are_almost_as_fast_as_the_best(
    ms_by_lanes: Mapping[int, float], picked: int
) -> None:
    assert pick([timing(lanes, ms) for lanes, ms in ms_by_lanes.items()]) == picked


def lanes(settings: Settings, bundle: Bundle) -> int:
    """What a server would take for max_lanes."""
    return runtime_for(settings, bundle).max_lanes


class Clockwork:
    """A backbone on a clock of its own: 1 s per lane, 10 s more for a size it never saw, 2 s more after another one."""

    def __init__(self) -> None:
        self.now, self.last = 0.0, 0
        self.seen: list[int] = []

    def run(self, rows: Sequence[Row]) -> None:
        lanes = len(rows)
        self.now += lanes + 10 * (lanes not in self.seen) + 2 * (lanes != self.last)
        self.last = lanes
        self.seen.append(lanes)


def test_passes_are_interleaved_and_what_only_the_first_costs_is_kept_apart() -> None:
    clock = Clockwork()
    points = time_passes(clock.run, {lanes: [BLANK] * lanes for lanes in (1, 3)}, lambda: clock.now)
    assert clock.seen[:10] == [1, 3, 1, 1, 3, 3, 1, 1, 3, 3]
    assert [(p.lanes, p.ms, p.switch_ms, p.first_ms) for p in points] == [(1, 1e3, 3e3, 13e3), (3, 3e3, 5e3, 15e3)]


def test_every_row_of_a_batch_has_an_adapter_of_its_own(fresh: Bundle) -> None:
    bank = filled_bank(fresh.manifest, settings(fresh), runtime_for(settings(fresh), fresh), adapters=3)
    named = [row.seat.pages["lora"] for row in batch(BLANK, 3, bank, "unet")]
    pages = [bank.rows("unet", "mix.lora_A", "lora", page) for ((page, _),) in named]
    assert len({page.tobytes() for page in pages}) == 3
    assert all(page.any(axis=1).all() for page in pages)


def test_calibrating_writes_what_serving_reads(fresh: Bundle) -> None:
    result = impasto_calibrate(fresh.folder, "--json")
    assert result.exit_code == 0, result.output
    (entry,) = Calibration.read(fresh).entries
    assert json.loads(result.stdout) == entry.model_dump(mode="json")
    assert (entry.key, [point.lanes for point in entry.points]) == (("onnxruntime", "f32", 1), [1, 2, 3])
    assert entry.latents == (toy.CHANNELS, 8, 8)
    assert lanes(settings(fresh), fresh) == entry.max_lanes


def test_a_masked_backbone_is_calibrated_on_rows_of_its_own(tmp_path: Path) -> None:
    bundle = open_bundle(toy_masked.write_bundle(tmp_path / "masked"))
    assert impasto_calibrate(bundle.folder).exit_code == 0
    (entry,) = Calibration.read(bundle).entries
    assert (entry.latents, [point.lanes for point in entry.points]) == ((8, 8), [1, 2, 3])
    assert lanes(settings(bundle), bundle) == entry.max_lanes
    bank = filled_bank(bundle.manifest, settings(bundle), runtime_for(settings(bundle), bundle), adapters=3)
    assert all(table[16 : 4 * 16].all() for table in bank.buffers["transformer"].values())
    assert [row.seat.pages for row in batch(BLANK, 3, bank, "transformer")] == [
        {"lora": ((page, 1.0),), "bottleneck": ((page, 1.0),)} for page in (1, 2, 3)
    ]


def test_calibrating_shows_a_table(fresh: Bundle) -> None:
    result = impasto_calibrate(fresh.folder)
    assert result.exit_code == 0, result.output
    assert "lanes/s" in result.stdout
    (entry,) = Calibration.read(fresh).entries
    assert f"max_lanes {entry.max_lanes} → {fresh.folder / calibration.NAME}" in result.stdout


def test_a_second_run_replaces_only_its_own_entry(fresh: Bundle) -> None:
    for entry in (measured(4), measured(6, threads=2), measured(8)):
        path = keep(fresh, entry)
    assert [(entry.threads, entry.max_lanes) for entry in Calibration.read(fresh).entries] == [(1, 8), (2, 6)]
    assert [file.name for file in fresh.folder.glob("*calibration*")] == [path.name]


def test_the_log_says_where_the_number_comes_from(fresh: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert lanes(settings(fresh, max_lanes=5), fresh) == 5
    assert lanes(settings(fresh), fresh) == DEFAULT_MAX_LANES
    keep(fresh, measured(6))
    assert lanes(settings(fresh), fresh) == 6
    assert lanes(settings(fresh, threads=2), fresh) == DEFAULT_MAX_LANES
    wanted = [message for message in caplog.messages if message.startswith("max_lanes")]
    assert wanted == ["max_lanes 5, as set", "max_lanes 8, the default", "max_lanes 6, as calibrated", wanted[1]]
    absent, other = [message for message in caplog.messages if "not calibrated" in message][1:]
    assert "for onnxruntime f32 on 1 threads; measure with `impasto calibrate --bundle" in absent
    assert "--engine onnxruntime --precision f32 --threads 2`" in other


def test_another_cpus_number_is_used_with_a_warning(fresh: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    keep(fresh, measured(6, cpu="Abacus 3000"))
    assert lanes(settings(fresh), fresh) == 6
    (record,) = [record for record in caplog.records if record.levelno > logging.INFO]
    assert record.levelname == "WARNING"
    for words in ("Abacus 3000", cpu_name(), "`impasto calibrate"):
        assert words in record.message


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"max_lanes": 7}, "entries.0: .*max_lanes 7 was never timed"),
        ({"engine": "abacus"}, "entries.0.engine"),
        ({"threads": "1"}, "entries.0.threads"),
        ({"colour": "red"}, "entries.0.colour"),
        ({"points": []}, "was never timed"),
        ({"bundle": "e" * 64}, "measured on another bundle, eeeeeeeeeeee"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused_until_it_is_measured_again(
    fresh: Bundle, changed: dict[str, object], problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = keep(fresh, measured(4))
    document = json.loads(path.read_text())
    document["entries"][0].update(changed)
    path.write_text(json.dumps(document))
    with pytest.raises(SetupError, match=f"calibration.json: .*{problem}.*; measure again with `impasto calibrate"):
        lanes(settings(fresh), fresh)
    keep(fresh, measured(4))
    assert "replaced: bundle: " in caplog.text
    assert lanes(settings(fresh), fresh) == 4


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 2, "entries": []}'])
def test_what_is_no_calibration_at_all_is_refused(fresh: Bundle, text: str) -> None:
    (fresh.folder / calibration.NAME).write_text(text)
    with pytest.raises(SetupError, match="calibration.json"):
        Calibration.read(fresh)


def test_two_entries_under_one_key_are_refused(fresh: Bundle) -> None:
    with pytest.raises(ValueError, match="two entries"):
        Calibration(entries=(measured(4), measured(6)))


def test_an_error_is_one_line_and_status_1(fresh: Bundle) -> None:
    shutil.rmtree(fresh.folder)
    result = impasto_calibrate(fresh.folder)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error")
    assert "is not a folder" in result.stderr
    assert result.stderr.count("\n") == 1


def test_graphs_are_compiled_for_as_many_lanes_as_batches_have(fresh: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, which refuses batches of more. The server was calibrated at 32, and is told nothing."""
    compiled: list[int] = []

    def on_a_device(path: Path, runtime: Runtime, *_: object) -> OnnxRuntimeEngine:
        compiled.append(most_lanes(runtime.max_lanes))
        return OnnxRuntimeEngine(path, Provider(CPU, most_lanes=compiled[-1]), 1)

    monkeypatch.setattr("impasto_server.adapters.adapted.compile_graph", on_a_device)
    keep(fresh, measured(32))
    pipeline = Pipeline.load(settings(fresh))
    try:
        request = request_of("a boat", seed=1, width=64, height=64, steps=1, n=16)
        assert len(pipeline.generate(request).images) == 16
        assert pipeline.stats.read()["lanes"] == 32
        assert pipeline.stats.read()["steps"] == 1
    finally:
        pipeline.close()
    assert set(compiled) == {32}
