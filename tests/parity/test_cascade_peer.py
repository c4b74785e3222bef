"""What benchmarks/masked.py holds the cascade against, a loop in torch, paints what the pipeline paints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.common.backbones import Backbone, register
from benchmarks.common.masked_backbones import HALVES, PAIRS, pair_folder, write_bottleneck
from benchmarks.common.reference import Reference
from benchmarks.parts.masked.cascade import parity
from benchmarks.parts.masked.wishes import wishes

from impasto_export import manifest
from impasto_server.settings import Settings

RANK = 8


def test_the_peer_draws_what_the_pipeline_draws(cascade_checkpoint: Path, cascade_bundle: Path, tmp_path: Path) -> None:
    """Both stages, each request under its own pair; under another's it would be another picture."""
    asked = [replace(wish, steps=3, upscale_steps=2) for wish in wishes(PAIRS[:2], 0)]
    record, registry = manifest.load(cascade_bundle), tmp_path / "registry"
    for seed, wish in enumerate(asked):
        write_bottleneck(pair_folder(tmp_path, wish.pair), record, RANK, seed, HALVES)
        register(registry, wish.pair, pair_folder(tmp_path, wish.pair), record)
    backbone = Backbone("cascade", cascade_checkpoint, cascade_bundle, tmp_path, tmp_path / "loras", registry)
    found = parity(backbone, Settings(cascade_bundle, registry), Reference(), asked, ["onnxruntime"])
    assert found["parity_draws"] == 1, found["parity_draws_wrong"]
    assert found["parity_draws_in_all"].keys() == {"base", "upscale"}
    assert found["parity_psnr_db_min"] >= 60
    assert found["wrong_adapter_tokens"] < 0.9
