from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import external_data_helper

from impasto_server.engines.gpu import Gpu
from impasto_server.engines.plans import Plan, Spec, architecture, default_cache, spec_of
from impasto_server.engines.profiles import profiles_for
from impasto_server.engines.runtime import Runtime
from impasto_server.families import open_bundle

GPU = Gpu(0, "NVIDIA H200", "9.0", 141 << 30, 140 << 30, "580.65.06")


@pytest.fixture
def spec(bundle: Path) -> Spec:
    path = bundle / "unet.onnx"
    runtime = Runtime("onnxruntime-tensorrt", "bf16", 1, gpu=GPU)
    return spec_of(path, runtime, profiles_for(path, 8, {}, open_bundle(bundle).manifest.sides), ["onnxruntime 1.31.1"])


@pytest.mark.parametrize(
    "changed",
    [
        {"engine": "tensorrt"},
        {"graph": "a"},
        {"weights": "b"},
        {"precision": "f32"},
        {"profiles": ()},
        {"gpu": "NVIDIA L4"},
        {"versions": ("onnxruntime 1.32.0",)},
    ],
)
def test_whatever_an_engine_depends_on_has_a_folder_of_its_own(spec: Spec, changed: dict[str, object]) -> None:
    here, there = Plan.of(Path("c"), spec), Plan.of(Path("c"), replace(spec, **changed))  # type: ignore[arg-type]
    assert here.folder != there.folder
    assert Plan.of(Path("c"), replace(spec)).folder == here.folder


def test_what_was_measured_of_a_gpu_is_shared_by_its_graphs_and_by_no_other(spec: Spec) -> None:
    graph, other = replace(spec, graph="a", precision="f32"), replace(spec, gpu="NVIDIA L4")
    here, near, far = (Plan.of(Path("c"), one).timings for one in (spec, graph, other))
    assert here == near != far


def test_a_folder_says_what_it_was_built_of(spec: Spec, tmp_path: Path) -> None:
    plan = Plan.of(tmp_path, spec).made()
    assert (plan.folder / "spec.json").read_text() == spec.text + "\n"
    assert '"NVIDIA H200, compute capability 9.0, driver 580.65.06"' in spec.text
    assert plan.timings.is_dir()


def test_the_cache_is_where_caches_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/impasto")


def test_graphs_that_point_to_other_weights_are_of_one_architecture(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.onnx" for name in ("base", "pinned", "wider")]
    for path, width in zip(paths, (3, 3, 4), strict=True):
        tensor = onnx.numpy_helper.from_array(np.full((width, 3), width, np.float32), "weight")
        external_data_helper.set_external_data(tensor, f"{path.stem}.safetensors", 8, 4 * 3 * width)
        tensor.ClearField("raw_data")
        onnx.save(onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])), path)
    base, pinned, wider = map(architecture, paths)
    assert base == pinned != wider
