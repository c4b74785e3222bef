from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import toy
from impasto_server.engine import Engine, OnnxRuntimeEngine, OpenVinoEngine, resolve_precision
from impasto_server.errors import SetupError

ENGINES = ("onnxruntime", "openvino")


def engine_for(name: str, bundle: Path) -> Engine:
    graph = bundle / "text_encoder.onnx"
    return OnnxRuntimeEngine(graph, 1) if name == "onnxruntime" else OpenVinoEngine(graph, "f32", 1)


@pytest.mark.parametrize("name", ENGINES)
def test_a_bound_buffer_is_shared_so_writing_it_is_all_a_new_adapter_takes(name: str, bundle: Path) -> None:
    engine = engine_for(name, bundle)
    a, b = np.zeros((2, toy.WIDTH, 3), np.float32), np.zeros((2, 3, toy.WIDTH), np.float32)
    engine.bind({"proj.lora_A": a, "proj.lora_B": b})
    feeds = {"input_ids": np.full((2, toy.LENGTH), 5, np.int64), "slot": np.array([0, 1], np.int64)}
    (before,) = engine.run(feeds)
    a[1], b[1] = 0.5, 0.25
    (after,) = engine.run(feeds)
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_allclose(after[1], before[1] + before[1] @ (a[1] @ b[1]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ENGINES)
def test_outputs_belong_to_the_caller(name: str, bundle: Path) -> None:
    engine = engine_for(name, bundle)
    engine.bind({"proj.lora_A": np.zeros((1, toy.WIDTH, 1), np.float32)})
    engine.bind({"proj.lora_B": np.zeros((1, 1, toy.WIDTH), np.float32)})
    slot = np.zeros(1, np.int64)
    (first,) = engine.run({"input_ids": np.full((1, toy.LENGTH), 3, np.int64), "slot": slot})
    kept = first.copy()
    engine.run({"input_ids": np.full((1, toy.LENGTH), 4, np.int64), "slot": slot})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.skipif(resolve_precision("openvino", "auto") == "bf16", reason="this CPU computes in bf16")
def test_a_precision_that_openvino_would_quietly_replace_is_an_error(bundle: Path) -> None:
    with pytest.raises(SetupError, match="made text_encoder.onnx f32, not bf16; pass --precision f32"):
        OpenVinoEngine(bundle / "text_encoder.onnx", "bf16", 1)
