from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from impasto_server.adapters import budget
from impasto_server.engines import gpu
from impasto_server.engines.footprint import GIB, Footprint, free_memory
from impasto_server.engines.gpu import Gpu
from impasto_server.errors import SetupError
from impasto_server.ops import doctor, tritonserver
from impasto_server.ops.commands import doctor as doctor_command
from impasto_server.ops.doctor import Finding, examine
from tests.helpers import toy

LARGE = Gpu(1, "NVIDIA H200", "9.0", 141 * GIB, 140 * GIB, "580.65.06")


def found(bundle: Path | None = None) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(bundle)}


def impasto_doctor(*args: str) -> Result:
    app = typer.Typer()
    app.command()(doctor_command)
    return CliRunner().invoke(app, args)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "LIBRARY", "libno-such-driver.so")


@pytest.mark.usefixtures("no_gpu")
def test_what_a_gpu_needs_is_said_and_not_needed() -> None:
    findings = found()
    for name in ("gpu", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt"):
        assert not findings[name].ok
        assert findings[name].fix
        assert not findings[name].needed
    assert findings["gpu"].fix.startswith("install NVIDIA's driver")
    assert "no CUDAExecutionProvider" in findings["onnxruntime-cuda"].found


def test_precisions_are_said_with_what_stands_against_the_others() -> None:
    said = found()["onnxruntime"].found
    assert said.endswith(", f32, bf16 isn't available: ONNX Runtime's CPU provider has no bf16")


def test_gpus_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "gpus", lambda: [LARGE])
    assert found()["gpu"].found == "1: NVIDIA H200, 140.0 of 141.0 GiB free; driver 580.65.06"


def test_a_library_that_is_there_is_held_against_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "require", lambda engine: None)
    monkeypatch.setattr(doctor, "version", lambda package: f"{package} 1")
    monkeypatch.setattr(gpu, "gpus", lambda: [LARGE])
    findings = found()
    assert findings["onnxruntime-cuda"].ok
    assert findings["onnxruntime-cuda"].found.startswith("onnxruntime-gpu 1, f32, bf16 isn't available")
    assert findings["tensorrt"].found == "tensorrt-cu13 1, bf16 and f32"


@pytest.mark.usefixtures("no_gpu")
def test_a_bundle_is_held_against_the_memory(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Footprint, "memory", lambda self, engine, precision: 4 * GIB)
    for free, fits in ((8 * GIB, True), (2 * GIB, False)):
        monkeypatch.setattr(doctor, "free_memory", lambda free=free: free)
        monkeypatch.setattr(budget, "free_memory", lambda free=free: free)
        finding = found(bundle)["bundle on onnxruntime f32"]
        assert (finding.ok, finding.needed) == (fits, False)
        room = "256 of rank 16 or 64 of rank 64 or 32 of rank 128 (lora)"
        assert finding.found == f"up to 4.0 GiB in memory, {free / GIB:.1f} GiB are free; room for adapters: {room}"
        assert finding.fix.startswith("pass --precision bf16") is not fits
    assert "bundle on tensorrt bf16" not in found(bundle)


def test_an_old_triton_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(tritonserver, "SYSTEM", tmp_path)
    finding = found()["tritonserver"]
    assert finding.ok
    assert "loopback only: it is Triton 2.51, which has CVE-2025-23319" in finding.found
    assert finding.fix == "in production, serve from NVIDIA's image 26.07 or later"


def test_a_bundle_that_is_none_is_told() -> None:
    finding = found(Path("nowhere"))["bundle"]
    assert (finding.ok, finding.found) == (False, "nowhere is not a folder")
    assert finding.fix.startswith("make one with `impasto link")


def test_a_footprint_is_worked_out_of_the_weights_headers(tmp_path: Path) -> None:
    save_file({"a": np.zeros((3, 5), np.float16), "b": np.zeros(2, np.float32)}, tmp_path / "unet.safetensors")
    save_file({"c": np.zeros((), np.float32)}, tmp_path / "vae.safetensors")
    footprint = Footprint.of(tmp_path)
    assert footprint.parameters == 18
    assert footprint.files == sum(file.stat().st_size for file in tmp_path.iterdir())
    memory = [footprint.memory(*pair) for pair in (("openvino", "bf16"), ("openvino", "f32"), ("tensorrt", "bf16"))]
    assert memory == [18 * 8, 18 * 12, 18 * 2]


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("data", [b"", b"\x07", b"\x50" + bytes(7) + b'{"a":', b"\x02" + bytes(7) + b"[]"])
def test_a_damaged_weights_file_is_told_beside_the_other_findings(data: bytes, tmp_path: Path) -> None:
    folder = toy.write_bundle(tmp_path / "bundle")
    (folder / "upscaler.safetensors").write_bytes(data)
    findings = found(folder)
    finding = findings["bundle"]
    assert (finding.ok, finding.fix) == (False, "link the checkpoint again")
    assert finding.found.startswith(f"{folder / 'upscaler.safetensors'} is damaged")
    assert findings["onnxruntime"].ok


def test_some_memory_is_free() -> None:
    assert 0 < free_memory() < 1 << 50


def test_json_says_the_same() -> None:
    printed = json.loads(impasto_doctor("--json").stdout)
    assert [entry["name"] for entry in printed] == list(found())


def test_only_what_is_needed_fails_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> Finding:
        raise SetupError("there is no tritonserver on this machine; run: pip install 'impasto[server]'")

    assert impasto_doctor().exit_code == 0
    monkeypatch.setattr(doctor, "_tritonserver", refused)
    failed = impasto_doctor()
    assert failed.exit_code == 1
    assert "✗ tritonserver  there is no tritonserver on this machine" in failed.stdout
