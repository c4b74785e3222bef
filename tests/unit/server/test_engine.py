from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import toy
from impasto_server.engine import (
    Engine,
    OnnxRuntimeEngine,
    OpenVinoEngine,
    _openvino_capabilities,
    resolve_precision,
    stored,
)
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


has_bf16 = pytest.mark.skipif("BF16" not in _openvino_capabilities(), reason="this CPU has no bf16 arithmetic")


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


@has_bf16
def test_weights_in_bf16_are_shared_too_and_compute_what_float32_would(bundle: Path) -> None:
    a, b = (
        np.random.default_rng(0).standard_normal(shape, np.float32) for shape in ((2, toy.WIDTH, 3), (2, 3, toy.WIDTH))
    )
    a[0], b[0] = 0, 0
    rounded = [(stored(one, "bf16").astype(np.uint32) << 16).view(np.float32) for one in (a, b)]
    wide = OpenVinoEngine(bundle / "text_encoder.onnx", "bf16", 1)
    wide.bind({"proj.lora_A": rounded[0], "proj.lora_B": rounded[1]})
    narrow = OpenVinoEngine(bundle / "text_encoder.onnx", "bf16", 1, ["proj.lora_A", "proj.lora_B"])
    buffers = {"proj.lora_A": np.zeros(a.shape, np.uint16), "proj.lora_B": np.zeros(b.shape, np.uint16)}
    narrow.bind(buffers)
    narrow.prepare(feeds(5, 0, 1))
    (before,) = narrow.run(feeds(5, 0, 1))
    np.testing.assert_array_equal(before[0], before[1])
    buffers["proj.lora_A"][:], buffers["proj.lora_B"][:] = stored(a, "bf16"), stored(b, "bf16")
    np.testing.assert_array_equal(narrow.run(feeds(5, 0, 1))[0], wide.run(feeds(5, 0, 1))[0])


def test_bf16_is_rounded_to_the_nearest_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -2.5, 0.0], np.float32)
    back = (stored(values, "bf16").astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(back, np.array([1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -2.5, 0.0], np.float32))
    assert stored(values, "f32") is values


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
