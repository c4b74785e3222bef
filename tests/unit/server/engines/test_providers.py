from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from impasto_server.engines import providers
from impasto_server.engines.gpu import Gpu
from impasto_server.engines.providers import CPU, CUDA, TENSORRT, Provider, provider_for
from impasto_server.engines.runtime import Runtime
from impasto_server.families.diffusion.manifest import DiffusionManifest
from impasto_server.settings import EngineName, Precision

NEW = Gpu(1, "New", "9.0", 1, 1, "580")


def provider(
    bundle: Path, engine: EngineName, cache: Path, precision: Precision = "f32", graph: str = "text_encoder.onnx"
) -> Provider:
    manifest = DiffusionManifest.model_validate_json((bundle / "manifest.json").read_bytes())
    tables = {"proj.lora_A": np.zeros((48, 8), np.float32), "proj.lora_B": np.zeros((48, 8), np.float32)}
    return provider_for(bundle / graph, Runtime(engine, precision, 1, 20, NEW, cache).knowing(manifest), tables)


@pytest.fixture(autouse=True)
def some_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "tensorrt_version", lambda: "10.13.3")


def test_the_cpu_needs_no_options(bundle: Path, tmp_path: Path) -> None:
    assert provider(bundle, "onnxruntime", tmp_path).listed() == [(CPU, {})]


def test_cuda_computes_f32_in_full(bundle: Path, tmp_path: Path) -> None:
    found = provider(bundle, "onnxruntime-cuda", tmp_path)
    options = {"device_id": "1", "enable_cuda_graph": "False", "use_tf32": "0"}
    assert found.listed() == [(CUDA, options), (CPU, {})]
    assert (found.device, found.gpu, found.most_lanes) == ("cuda", 1, 20)


def test_what_runs_at_every_step_is_captured(bundle: Path, tmp_path: Path) -> None:
    record = json.loads((bundle / "manifest.json").read_text())
    hot = [{"name": "neon", "digest": "n", "weight": 1.0}]
    record["pinned"] = [{"adapters": hot, "graphs": {"unet": {"file": "pinned-0.unet.onnx"}}}]
    (tmp_path / "manifest.json").write_text(json.dumps(record))
    captured = {
        graph: provider(tmp_path, "onnxruntime-cuda", tmp_path, graph=f"{graph}.onnx").options["enable_cuda_graph"]
        for graph in ("unet", "pinned-0.unet", "controlnet", "text_encoder", "vae_decoder")
    }
    assert captured == {
        "unet": "True", "pinned-0.unet": "True", "controlnet": "True", "text_encoder": "False", "vae_decoder": "False",
    }  # fmt: skip


def test_tensorrt_is_told_one_profile_and_where_its_engines_are(bundle: Path, tmp_path: Path) -> None:
    """With a second one, pictures of another size would fail; with CUDA graphs, they would be the first one again."""
    found = provider(bundle, "onnxruntime-tensorrt", tmp_path, "bf16", "unet.onnx")
    assert [name for name, _ in found.listed()] == [TENSORRT, CUDA, CPU]
    shapes = [found.options[f"trt_profile_{which}_shapes"].split(",") for which in ("min", "opt", "max")]
    assert [each[0] for each in shapes] == ["sample:1x4x2x2", "sample:8x4x8x8", "sample:20x4x16x16"]
    assert [each[-2] for each in shapes] == ["proj.lora_A:48x8"] * 3
    assert all(len({one.partition(":")[0] for one in each}) == len(each) for each in shapes)
    assert (found.options["device_id"], found.options["trt_bf16_enable"]) == ("1", "True")
    assert "trt_cuda_graph_enable" not in found.options
    assert found.others[0][1]["enable_cuda_graph"] == "False"
    for option in ("trt_engine_cache_path", "trt_timing_cache_path"):
        assert Path(found.options[option]).is_relative_to(tmp_path / "onnxruntime-tensorrt")


def test_another_precision_is_another_engine(bundle: Path, tmp_path: Path) -> None:
    folders = {
        provider(bundle, "onnxruntime-tensorrt", tmp_path, one).options["trt_engine_cache_path"]
        for one in ("bf16", "f32")
    }
    assert len(folders) == 2


def test_another_tensorrt_is_another_engine(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can't read what the last one has built, and ONNX Runtime would not build it anew."""
    folder = provider(bundle, "onnxruntime-tensorrt", tmp_path).options["trt_engine_cache_path"]
    monkeypatch.setattr(providers, "tensorrt_version", lambda: "10.16.1")
    assert provider(bundle, "onnxruntime-tensorrt", tmp_path).options["trt_engine_cache_path"] != folder
