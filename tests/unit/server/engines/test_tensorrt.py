"""The native TensorRT engine over stand-ins for TensorRT and CUDA, whose memory is this process's own.

They hold the engine to the rules of TensorRT's headers; they are no GPU, and show nothing of what one computes.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_server import engines
from impasto_server.engines.plans import Plan, Spec
from impasto_server.engines.profiles import Profile
from impasto_server.errors import SetupError
from impasto_server.settings import Precision
from tests.helpers.tensorrt import CudaEngine, stand_in

Array = NDArray[Any]

WIDTH = 4
INPUTS = ("sample", "mix.lora_A")
ROWS = 6
TABLE = (ROWS, ROWS, ROWS), (WIDTH, WIDTH, WIDTH)
# The usual pictures are 8 wide, any others up to 16.
PROFILES = tuple(Profile.of({"sample": ((1, 4, 8), wide), "mix.lora_A": TABLE}) for wide in ((8, 8, 8), (2, 8, 16)))


class Runtime(ModuleType):
    """cuda.bindings.runtime over this process's memory."""

    cudaStreamNonBlocking = 1
    cudaError_t = SimpleNamespace(cudaSuccess=0)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.live: dict[int, Array] = {}
        self.allocated = 0
        self.streams = 0
        self.copied = 0

    def cudaSetDevice(self, number: int) -> tuple[int]:
        return (0,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        assert flags == self.cudaStreamNonBlocking
        self.streams += 1
        return 0, 100 + self.streams

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (0,)

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        self.streams -= 1
        return (0,)

    def cudaMalloc(self, nbytes: int) -> tuple[int, int]:
        if nbytes + sum(memory.nbytes for memory in self.live.values()) > 1 << 20:
            return 2, 0
        memory = np.zeros(nbytes, np.uint8)
        self.live[memory.ctypes.data] = memory
        self.allocated += 1
        return 0, memory.ctypes.data

    def cudaFree(self, address: int) -> tuple[int]:
        del self.live[address]
        return (0,)

    def cudaMemcpyAsync(self, target: int, source: int, nbytes: int, kind: int, stream: int) -> tuple[int]:
        assert kind == self.cudaMemcpyKind.cudaMemcpyDefault
        inside = [
            first + memory.nbytes
            for address in (target, source)
            for first, memory in self.live.items()
            if first <= address < first + memory.nbytes and address + nbytes <= first + memory.nbytes
        ]
        assert inside, "a copy begins or ends outside of what was allocated"
        self.copied += nbytes
        ctypes.memmove(target, source, nbytes)
        return (0,)

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, b"out of memory"


class Context:
    """y = 2 * sample + the sum of the bank, provided that everything was said that has to be."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory = (0, 0)
        self.told = 0

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        self.profile, self.shapes = number, {}
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.told += 1
        self.shapes[name] = shape
        return PROFILES[self.profile].holds({name: shape})

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes["sample"]

    def update_device_memory_size_for_shapes(self) -> int:
        assert self.shapes.keys() == set(INPUTS)
        return 10 * int(np.prod(self.shapes["sample"]))

    def set_device_memory(self, address: int, nbytes: int) -> None:
        self.memory = address, nbytes

    def execute_async_v3(self, stream: int) -> bool:
        address, nbytes = self.memory
        assert nbytes >= self.update_device_memory_size_for_shapes()
        assert {address, *self.addresses.values()} <= self.runtime.live.keys()
        sample, bank = (self._array(name, self.shapes[name]) for name in INPUTS)
        self._array("y", sample.shape)[:] = 2 * sample + bank.sum()
        return True

    def _array(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        memory = self.runtime.live[self.addresses[name]]
        return memory[: 4 * int(np.prod(shape))].view(np.float32).reshape(shape)


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    """The module under test, and what it imports, with stand-ins below; none of it is left behind."""
    found = Runtime()
    stand_ins: dict[str, Any] = {
        "cuda": ModuleType("cuda"),
        "cuda.bindings": SimpleNamespace(runtime=found),
        "cuda.bindings.runtime": found,
        "tensorrt": stand_in(),
    }
    before = set(sys.modules)
    sys.modules.update(stand_ins)
    yield found
    for name in set(sys.modules) - before:
        sys.modules.pop(name)
    for name in ("cuda", "tensorrt", "tensorrt_plan"):
        if hasattr(engines, name):
            delattr(engines, name)


@pytest.fixture
def context(runtime: Runtime) -> Context:
    return Context(runtime)


@pytest.fixture
def engine(context: Context) -> Any:
    tensorrt = import_module("impasto_server.engines.tensorrt")
    found = tensorrt.TensorRtEngine(CudaEngine((*INPUTS, "y"), context), PROFILES, 8, 0)
    found.bind({"mix.lora_A": bank(1)})
    return found


def bank(value: float, rows: int = ROWS) -> NDArray[np.float32]:
    return np.full((rows, WIDTH), value, np.float32)


def sample(rows: int, width: int = 8) -> Mapping[str, NDArray[np.float32]]:
    return {"sample": np.arange(rows * width, dtype=np.float32).reshape(rows, width)}


def test_batches_of_any_size_and_pictures_of_any_size(engine: Any) -> None:
    for rows, width in ((3, 8), (1, 8), (5, 16), (8, 2), (3, 8)):
        (found,) = engine.run(sample(rows, width))
        np.testing.assert_array_equal(found, 2 * sample(rows, width)["sample"] + bank(1).sum())


def test_what_is_written_into_a_bank_is_seen_and_nothing_else_is_copied(engine: Any, runtime: Runtime) -> None:
    engine.run(sample(1))
    copied = runtime.copied
    engine.write("mix.lora_A", 2, bank(5, 3))
    assert runtime.copied - copied == bank(5, 3).nbytes
    expected = bank(1).copy()
    expected[2:5] = 5
    np.testing.assert_array_equal(engine.run({"sample": np.zeros((1, 8), np.float32)})[0], expected.sum())
    (memory,) = [memory for memory in runtime.live.values() if memory.nbytes == expected.nbytes]
    np.testing.assert_array_equal(memory.view(np.float32).reshape(ROWS, WIDTH), expected)


def test_what_has_not_changed_is_neither_told_nor_allocated_again(
    engine: Any, context: Context, runtime: Runtime
) -> None:
    engine.run(sample(4))
    engine.run(sample(2))
    told, allocated = context.told, runtime.allocated
    engine.run(sample(2))
    assert context.told == told
    engine.run(sample(4))
    assert (context.told, runtime.allocated) == (told + 1, allocated)


def test_what_it_held_is_given_back(engine: Any, runtime: Runtime) -> None:
    engine.run(sample(8, 16))
    assert len(runtime.live) == 4  # sample, bank, y, and what lies between
    engine.__dict__.clear()
    assert (runtime.live, runtime.streams) == ({}, 0)


def test_what_no_profile_holds_is_an_error(engine: Any) -> None:
    with pytest.raises(SetupError, match="no profile for {'sample': .1, 32.}; ask for a smaller picture"):
        engine.run(sample(1, 32))
    engine.bind({"mix.lora_A": bank(1, 9)})
    with pytest.raises(SetupError, match=r"^engine: TensorRT's plan can't take mix.lora_A of shape \[9, 4\]; its"):
        engine.run(sample(1))


def test_a_buffer_is_freed_before_a_larger_one_is_there(engine: Any) -> None:
    for nbytes in (600_000, 700_000):
        engine.bind({"mix.lora_A": bank(1, nbytes // bank(1, 1).nbytes)})


def test_a_gpu_that_is_full_says_so(engine: Any) -> None:
    with pytest.raises(SetupError, match="^gpu: cudaMalloc failed: out of memory; see `impasto doctor`"):
        engine.bind({"mix.lora_A": np.zeros((1 << 18, WIDTH), np.float32)})


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "unet.onnx"
    path.write_text("a graph")
    return path


def maker(graph: Path, precision: Precision = "bf16") -> Any:
    return import_module("impasto_server.engines.tensorrt_plan").Maker(graph, precision, PROFILES)


@pytest.mark.parametrize(("precision", "flags"), [("bf16", ["bf16", "refit", "strip"]), ("f32", ["refit", "strip"])])
@pytest.mark.usefixtures("runtime")
def test_a_plan_has_no_weights_and_the_precision_that_was_asked_for(
    graph: Path, precision: Precision, flags: list[str]
) -> None:
    built = json.loads(maker(graph, precision).built(graph.with_name("timings")))
    assert (built["graph"], built["flags"]) == ("unet.onnx", flags)
    assert built["profiles"] == [
        {name: [list(shapes[name]) for shapes in (one.least, one.usual, one.most)] for name in one.usual}
        for one in PROFILES
    ]


@pytest.mark.usefixtures("runtime")
def test_a_plan_is_built_once_and_what_was_measured_for_it_is_known_to_the_next(graph: Path) -> None:
    one, other = (
        Plan.of(graph.parent, Spec("tensorrt", name, "", "bf16", PROFILES, "gpu", ())) for name in ("one", "other")
    )
    first = maker(graph).plan(one)
    assert maker(graph).plan(one) == first
    assert sorted(file.name for file in one.folder.iterdir()) == ["engine.plan", "spec.json"]
    assert [json.loads(plan)["known"] for plan in (first, maker(graph).plan(other))] == ["", "measured;"]
    assert [file.read_bytes() for file in one.timings.iterdir()] == [b"measured;measured;"]


@pytest.mark.usefixtures("runtime")
def test_a_plan_gets_the_weights_of_a_graph(graph: Path) -> None:
    found = maker(graph)
    assert found.refitted(found.built(graph.with_name("timings"))).weights == str(graph)
    with pytest.raises(SetupError, match="can't read its plan of unet.onnx; empty the --cache-dir"):
        found.refitted(b"half a plan")


@pytest.mark.usefixtures("runtime")
def test_a_graph_that_tensorrt_can_not_take_says_why(graph: Path) -> None:
    graph.write_text("no importer for Frobnicate")
    with pytest.raises(SetupError, match=r"can't parse unet.onnx: no importer for Frobnicate; use another --engine"):
        maker(graph).built(graph.with_name("timings"))
