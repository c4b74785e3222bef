from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import toy
from impasto_server.engine import Engine, OnnxRuntimeEngine, OpenVinoEngine, resolve_precision
from impasto_server.errors import SetupError

ENGINES = ("onnxruntime", "openvino")


def feeds(word: int, *slots: int) -> dict[str, NDArray[Any]]:
    """The same word everywhere, one row for each slot."""
    ids = np.full((len(slots), toy.LENGTH), word, np.int64)
    return {
        "input_ids": ids,
        "learned_embeds": np.zeros((*ids.shape, toy.WIDTH), np.float32),
        "slot": np.array(slots, np.int64),
    }


def engine_for(name: str, bundle: Path) -> Engine:
    graph = bundle / "text_encoder.onnx"
    return OnnxRuntimeEngine(graph, 1) if name == "onnxruntime" else OpenVinoEngine(graph, "f32", 1)


@pytest.mark.parametrize("name", ENGINES)
def test_a_bound_buffer_is_shared_so_writing_it_is_all_a_new_adapter_takes(name: str, bundle: Path) -> None:
    engine = engine_for(name, bundle)
    a, b = np.zeros((2, toy.WIDTH, 3), np.float32), np.zeros((2, 3, toy.WIDTH), np.float32)
    engine.bind({"proj.lora_A": a, "proj.lora_B": b})
    (before,) = engine.run(feeds(5, 0, 1))
    a[1], b[1] = 0.5, 0.25
    (after,) = engine.run(feeds(5, 0, 1))
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_allclose(after[1], before[1] + before[1] @ (a[1] @ b[1]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ENGINES)
def test_outputs_belong_to_the_caller(name: str, bundle: Path) -> None:
    engine = engine_for(name, bundle)
    engine.bind({"proj.lora_A": np.zeros((1, toy.WIDTH, 1), np.float32)})
    engine.bind({"proj.lora_B": np.zeros((1, 1, toy.WIDTH), np.float32)})
    (first,) = engine.run(feeds(3, 0))
    kept = first.copy()
    engine.run(feeds(4, 0))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.skipif(resolve_precision("openvino", "auto") == "bf16", reason="this CPU computes in bf16")
def test_a_precision_that_openvino_would_quietly_replace_is_an_error(bundle: Path) -> None:
    with pytest.raises(SetupError, match="made text_encoder.onnx f32, not bf16; pass --precision f32"):
        OpenVinoEngine(bundle / "text_encoder.onnx", "bf16", 1)
