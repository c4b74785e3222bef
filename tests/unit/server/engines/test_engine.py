from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime  # type: ignore[import-untyped]
import openvino  # type: ignore[import-untyped]
import pytest
from numpy.typing import NDArray

from impasto_server.adapters.adapted import AdaptedEngine
from impasto_server.adapters.adapter import Adapter, parse
from impasto_server.adapters.bank import Bank
from impasto_server.adapters.layout import Layout
from impasto_server.adapters.seat import Seat
from impasto_server.engines import openvino as openvino_engine
from impasto_server.engines.engine import Engine, stored
from impasto_server.engines.onnxruntime import KEPT, OnnxRuntimeEngine, astray
from impasto_server.engines.openvino import OpenVinoEngine, capabilities
from impasto_server.engines.providers import CPU, CUDA, TENSORRT, Provider
from impasto_server.engines.runtime import Runtime
from impasto_server.errors import SetupError
from impasto_server.families import open_bundle
from impasto_server.guidance import Mix
from impasto_server.stats import Stats
from tests.helpers import toy

ENGINES = ("onnxruntime", "openvino")
RANK = 3
RESIDENT = Provider(CPU, most_lanes=8)  # buffers as on a GPU, on the CPU


def feeds(word: int, *pages: int) -> dict[str, NDArray[Any]]:
    """The same word everywhere, one lane for each page of three rows."""
    ids = np.full((len(pages), toy.LENGTH), word, np.int64)
    return {
        "input_ids": ids,
        "learned_embeds": np.zeros((*ids.shape, toy.WIDTH), np.float32),
        "lora_rows": np.array([[RANK * page + unit for unit in range(RANK)] for page in pages], np.int64),
        "lora_weights": np.ones((len(pages), RANK), np.float32),
    }


def engine_for(name: str, bundle: Path) -> Engine:
    graph = bundle / "text_encoder.onnx"
    return OnnxRuntimeEngine(graph, Provider(CPU), 1) if name == "onnxruntime" else OpenVinoEngine(graph, "f32", 1)


has_bf16 = pytest.mark.skipif("BF16" not in capabilities(), reason="this CPU has no bf16 arithmetic")


@pytest.mark.parametrize("name", ENGINES)
def test_a_bound_buffer_is_shared_so_writing_it_is_all_a_new_adapter_takes(name: str, bundle: Path) -> None:
    engine = engine_for(name, bundle)
    a, b = (np.zeros((2 * RANK, toy.WIDTH), np.float32) for _ in range(2))
    engine.bind({"proj.lora_A": a, "proj.lora_B": b})
    (before,) = engine.run(feeds(5, 0, 1))
    a[RANK:], b[RANK:] = 0.5, 0.25
    engine.write("proj.lora_A", RANK, a[RANK:])  # which is nothing to them
    (after,) = engine.run(feeds(5, 0, 1))
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_allclose(after[1], before[1] + before[1] @ (a[RANK:].T @ b[RANK:]), rtol=1e-5, atol=1e-6)


def counted(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[tuple[Any, ...]]:
    """What a function of a library is called with from now on."""
    calls: list[tuple[Any, ...]] = []
    function = getattr(owner, name)

    def noted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, noted)
    return calls


@pytest.mark.parametrize("name", ENGINES)
def test_binding_what_is_bound_costs_nothing(name: str, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bindings = counted(monkeypatch, onnxruntime.InferenceSession, "io_binding")
    tensors = counted(monkeypatch, openvino, "Tensor")
    engine = engine_for(name, bundle)
    bank = adapters(2)
    engine.bind(bank)
    engine.prepare(feeds(5, 1))
    for again, costs in ((dict(bank), False), ({key: array.copy() for key, array in bank.items()}, True)):
        before = len(bindings) + len(tensors)
        engine.bind(again)
        bound = len(tensors)
        engine.run(feeds(5, 1))
        assert (len(bindings) + bound > before) == costs


@has_bf16
def test_weights_in_bf16_are_shared_too_and_compute_what_float32_would(bundle: Path) -> None:
    a, b = (np.random.default_rng(seed).standard_normal((2 * RANK, toy.WIDTH), np.float32) for seed in range(2))
    a[:RANK], b[:RANK] = 0, 0
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
    np.testing.assert_allclose(narrow.run(feeds(5, 0, 1))[0], wide.run(feeds(5, 0, 1))[0], rtol=2**-7, atol=2**-7)


def test_bf16_is_rounded_to_the_nearest_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -2.5, 0.0], np.float32)
    back = (stored(values, "bf16").astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(back, np.array([1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -2.5, 0.0], np.float32))
    assert stored(values, "f32") is values


@pytest.mark.parametrize("name", ENGINES)
def test_outputs_belong_to_the_caller(name: str, bundle: Path) -> None:
    engine = engine_for(name, bundle)
    engine.bind({"proj.lora_A": np.zeros((RANK, toy.WIDTH), np.float32)})
    engine.bind({"proj.lora_B": np.zeros((RANK, toy.WIDTH), np.float32)})
    (first,) = engine.run(feeds(3, 0))
    kept = first.copy()
    engine.run(feeds(4, 0))
    np.testing.assert_array_equal(first, kept)


def test_a_precision_that_openvino_would_quietly_replace_is_an_error(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a CPU with AVX2 alone; one with AVX-512 computes in bf16 even where it has no instructions for it."""
    asked = openvino.CompiledModel.get_property

    def answered(model: Any, name: str) -> Any:
        return openvino.Type.f32 if name == "INFERENCE_PRECISION_HINT" else asked(model, name)

    monkeypatch.setattr(openvino.CompiledModel, "get_property", answered)
    with pytest.raises(SetupError, match=r"precision: .* text_encoder.onnx in f32, not bf16; pass --precision f32"):
        OpenVinoEngine(bundle / "text_encoder.onnx", "bf16", 1)


def adapters(pages: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Tables of random adapters."""
    rng = np.random.default_rng(seed)
    return {f"proj.lora_{part}": rng.standard_normal((RANK * pages, toy.WIDTH), np.float32) for part in "AB"}


def test_buffers_on_a_device_give_what_shared_ones_give(bundle: Path) -> None:
    shared, resident = (OnnxRuntimeEngine(bundle / "text_encoder.onnx", one, 1) for one in (Provider(CPU), RESIDENT))
    bank = adapters(4)
    for engine in (shared, resident):
        engine.bind(bank)
    for slots in ((0,), (1, 2), (3, 0, 1, 2, 1), (2, 1), (3,)):  # 5 are padded up to 6
        (wanted,), (found,) = (engine.run(feeds(5, *slots)) for engine in (shared, resident))
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_device_is_written_the_rows_that_changed_and_no_others(bundle: Path) -> None:
    engine = OnnxRuntimeEngine(bundle / "text_encoder.onnx", RESIDENT, 1)
    bank = adapters(3)
    engine.bind(bank)
    before = engine.run(feeds(5, 0, 1, 2))[0]
    for part in "AB":
        bank[f"proj.lora_{part}"][:] = adapters(3, seed=1)[f"proj.lora_{part}"]
    np.testing.assert_array_equal(engine.run(feeds(5, 0, 1, 2))[0], before)
    for name, table in bank.items():
        engine.write(name, RANK, table[RANK : 2 * RANK])
    fresh = OnnxRuntimeEngine(bundle / "text_encoder.onnx", RESIDENT, 1)
    fresh.bind(bank)
    found, wanted = engine.run(feeds(5, 0, 1, 2))[0], fresh.run(feeds(5, 0, 1, 2))[0]
    np.testing.assert_array_equal(found[[0, 2]], before[[0, 2]])
    np.testing.assert_array_equal(found[1], wanted[1])


def test_an_adapter_reaches_an_engine_that_has_copies(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pages alone are copied, however large the bank is, and once."""
    written: list[tuple[str, int, int]] = []

    class Noted(OnnxRuntimeEngine):
        def write(self, name: str, row: int, values: NDArray[Any]) -> None:
            written.append((name, row, len(values)))
            super().write(name, row, values)

    monkeypatch.setattr("impasto_server.adapters.adapted.compile_graph", lambda path, *_: Noted(path, RESIDENT, 1))
    opened = open_bundle(bundle)
    bank = Bank(Layout.of(opened.manifest, 4, "f32"), 1 << 20, Stats())
    engine = AdaptedEngine(opened, "text_encoder", Runtime("onnxruntime", "f32", 1), bank)
    lanes = {name: feeds(5, 0)[name] for name in ("input_ids", "learned_embeds")}
    (plain,) = engine.run(lanes, [Seat()])
    deep = parse(toy.adapter_bytes(3, 6, text_encoder=True), "digest", "deep", opened.manifest)
    assert isinstance(deep, Adapter)
    mix = Mix.of([("digest", 0.5)])
    pages = bank.take([mix], {"digest": deep}, pytest.fail)
    assert pages is not None
    (adapted,) = engine.run(lanes, [Seat(pages[mix])])
    factors = deep.factors["text_encoder"]["proj"]
    expected = plain + 0.5 * plain @ factors["lora_A"].T @ factors["lora_B"]
    np.testing.assert_allclose(adapted, expected, rtol=1e-5, atol=1e-6)
    assert sorted(written) == [(f"proj.lora_{part}", row, 4) for part in "AB" for row in (4, 8)]
    engine.run(lanes, [Seat(pages[mix])])
    assert len(written) == 4


def test_no_feed_is_written_to(bundle: Path) -> None:
    engine = OnnxRuntimeEngine(bundle / "text_encoder.onnx", Provider(CPU), 1)
    engine.bind(adapters(1))
    first = feeds(3, 0)
    engine.run(first)
    engine.run(feeds(4, 0))
    assert (first["input_ids"] == 3).all()


def test_buffers_of_many_shapes_are_not_kept_for_ever(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = counted(monkeypatch, onnxruntime.InferenceSession, "release_captured_graph")
    engine = OnnxRuntimeEngine(bundle / "text_encoder.onnx", Provider(CPU), 1)
    engine.bind(adapters(1))
    rows = [len(engine.run(feeds(3, *[0] * lanes))[0]) for lanes in range(1, 2 * KEPT)]
    assert rows == list(range(1, 2 * KEPT))
    assert len(released) == len(rows) - KEPT


def test_nor_are_large_ones(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for 40 lanes: the one and the 24 have to go for 32, and the 8 stay."""
    engine = OnnxRuntimeEngine(bundle / "text_encoder.onnx", Provider(CPU), 1)
    engine.bind(adapters(1))
    released = counted(monkeypatch, onnxruntime.InferenceSession, "release_captured_graph")
    (embeds,) = engine.run(feeds(3, 0))
    lane = embeds.nbytes + sum(array.nbytes for array in feeds(3, 0).values())
    monkeypatch.setattr("impasto_server.engines.onnxruntime.KEPT_BYTES", 40 * lane)
    for lanes, gone in ((24, 0), (8, 0), (24, 0), (8, 0), (32, 2), (8, 2)):
        engine.run(feeds(3, *[0] * lanes))
        assert len(released) == gone, lanes


def test_a_batch_that_a_device_was_not_prepared_for_is_an_error(bundle: Path) -> None:
    engine = OnnxRuntimeEngine(bundle / "text_encoder.onnx", RESIDENT, 1)
    engine.bind(adapters(1))
    with pytest.raises(SetupError, match="max_lanes: a batch of 9 rows exceeds 8; pass --max-lanes 9"):
        engine.run(feeds(3, *[0] * 9))


def test_a_provider_whose_libraries_do_not_load_is_never_quietly_the_cpu(bundle: Path) -> None:
    with (
        pytest.warns(UserWarning, match="not in available"),
        pytest.raises(SetupError, match="CUDA.*'s libraries don't load"),
    ):
        OnnxRuntimeEngine(bundle / "text_encoder.onnx", Provider(CUDA, "cuda", 0, 8, others=((CPU, {}),)), 1)


def test_tensorrt_reads_weights_from_their_file_and_computes_f32_in_full(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def session(*args: object, disabled_optimizers: list[str]) -> object:
        assert (disabled_optimizers, os.environ["NVIDIA_TF32_OVERRIDE"]) == (["ConstantFolding"], "0")
        return real(bundle / "text_encoder.onnx", providers=["CPUExecutionProvider"])

    real: Any = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(SetupError, match="Tensorrt.*'s libraries don't load; install TensorRT 10"):
        OnnxRuntimeEngine(bundle / "text_encoder.onnx", Provider(TENSORRT, "cuda", 0, 8), 1)


def test_heavy_work_that_another_provider_took_is_seen() -> None:
    nodes = [("Shape", CPU), ("MatMul", CUDA), ("Conv", CPU), ("Gather", CPU)]
    assert astray(nodes, CUDA) == {"Conv": CPU}
    assert astray(nodes[:2], CUDA) == {}


@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16])
def test_openvino_has_narrow_weights_in_float32_once(
    dtype: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = counted(monkeypatch, openvino.Core, "compile_model")
    text = """<ir_version: 10, opset_import: ["" : 18]> g (float[lanes,3] x) => (float[lanes,3] y)
    { wide = Cast<to=1>(narrow)  turned = Transpose(wide)  y = MatMul(x, turned) }"""
    model = onnx.parser.parse_model(text)
    values = np.arange(9, dtype=np.float32).reshape(3, 3) / 4
    narrow = values.astype(np.float16) if dtype == onnx.TensorProto.FLOAT16 else stored(values, "bf16")
    model.graph.initializer.append(onnx.helper.make_tensor("narrow", dtype, (3, 3), narrow.tobytes(), raw=True))
    onnx.save(model, tmp_path / "graph.onnx")
    engine = OpenVinoEngine(tmp_path / "graph.onnx", "f32", 1)
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(engine.run({"x": x})[0], x @ values.T)
    ((_, model, *_),) = compiled
    kinds = [op.get_type_name() for op in model.get_ops()]
    assert ("Convert" in kinds, "Transpose" in kinds) == (False, True)


def test_openvino_reads_what_it_compiled_from_the_cache(bundle: Path, tmp_path: Path) -> None:
    found: list[NDArray[Any]] = []
    for _ in range(2):
        engine = OpenVinoEngine(bundle / "text_encoder.onnx", "f32", 1, (), tmp_path)
        engine.bind(adapters(2))
        found += engine.run(feeds(5, 0, 1))
        assert len(list(tmp_path.glob("*.blob"))) == 1
    np.testing.assert_array_equal(found[0], found[1])


def test_openvino_shares_the_wide_weights_with_the_plain_graph(tmp_path: Path) -> None:
    """Which is compiled for the shapes that it is prepared for, and for no others."""
    inputs, heads = ("float[lanes,3] x, float[lanes,K] w", "more = ReduceSum(w)"), ("float[lanes,3] x", "")
    for name, (given, more) in {"unet": inputs, "unet.plain": heads}.items():
        added = "y = Add(z, more)" if more else "y = Identity(z)"
        text = f"""<ir_version: 10, opset_import: ["" : 18]> g ({given}) => (float[lanes,3] y)
        {{ wide = Cast<to=1>(narrow)  z = MatMul(x, wide)  {more}  {added} }}"""
        model = onnx.parser.parse_model(text)
        values = np.arange(9, dtype=np.float16).reshape(3, 3)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, "narrow"))
        onnx.save(model, tmp_path / f"{name}.onnx")
    engine = OpenVinoEngine(tmp_path / "unet.onnx", "f32", 1, varying={"w": 2})
    plain = engine.plain(tmp_path / "unet.plain.onnx")
    assert [array.dtype for array in engine._source.wide.values()] == [np.float32]
    assert plain._source.wide is engine._source.wide
    x = np.ones((2, 3), np.float32)
    assert not plain.ready({"x": x})
    plain.prepare({"x": x})
    assert (plain.ready({"x": x}), plain.ready({"x": x[:1]})) == (True, False)
    np.testing.assert_array_equal(plain.run({"x": x})[0], x @ values.astype(np.float32))


def test_openvino_is_prepared_for_any_number_of_rows_at_once(bundle: Path) -> None:
    engine = OpenVinoEngine(bundle / "text_encoder.onnx", "f32", 1, (), None, {"lora_rows": 1, "lora_weights": 1})
    engine.bind(adapters(4))
    engine.prepare(feeds(5, 1, 2))
    (compiled,) = engine._fixed.values()
    twice = feeds(5, 1, 2) | {name: np.tile(feeds(5, 1, 2)[name], 2) for name in ("lora_rows", "lora_weights")}
    twice["lora_weights"] = twice["lora_weights"] / 2
    once, found = engine.run(feeds(5, 1, 2))[0], engine.run(twice)[0]
    np.testing.assert_allclose(found, once, rtol=1e-5, atol=1e-6)
    assert list(engine._fixed.values()) == [compiled]


def test_lanes_with_the_usual_rows_and_with_more_run_what_was_compiled_for_them(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = list[str]()
    run = openvino_engine._run

    def noting(request: Any, given: Any) -> Any:
        ran.append(str(request.get_compiled_model().input("lora_rows").partial_shape))
        return run(request, given)

    def wide(times: int) -> dict[str, NDArray[Any]]:
        found = feeds(5, 0, 1)
        return found | {name: np.tile(found[name], times) for name in ("lora_rows", "lora_weights")}

    widths = {"lora_rows": RANK, "lora_weights": RANK}
    engine = OpenVinoEngine(bundle / "text_encoder.onnx", "f32", 1, (), None, widths)
    engine.bind(adapters(4))
    engine.prepare(wide(1))
    engine.prepare(wide(2))
    monkeypatch.setattr(openvino_engine, "_run", noting)
    for times in (1, 2, 3):
        engine.run(wide(times))
    engine.run(feeds(5, 0, 1, 2))  # which was not prepared
    assert ran == [f"[2,{RANK}]", "[2,?]", "[2,?]", "[?,?]"]
