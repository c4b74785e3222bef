"""ONNX Runtime, on the CPU or, by its CUDA or TensorRT provider, on a GPU. Inputs and outputs are bound (IO binding).

On a GPU what is bound stays there, and so do the buffers of each batch size, which are a few: a batch is padded up to
the next, its addresses never change, and the CUDA provider captures its passes as a CUDA graph. What crosses the bus
at a step are rows and predictions, for eight lanes of SD 1.5 at 512 x 512 pixels 0.5 MB of latents either way and
1.9 MB of context: the arithmetic of guidance and samplers stays on the host, so that a picture doesn't depend on what
it was computed on.
"""

from __future__ import annotations

import ctypes
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from impasto_server.engines.engine import Array, Shapes, padded, shapes
from impasto_server.engines.footprint import trim
from impasto_server.engines.providers import CUDA, TENSORRT, Provider
from impasto_server.errors import SetupError

KEPT = 32  # shapes whose buffers are kept: of lanes, and of rows that they have of tables
KEPT_BYTES = 256 << 20  # that those may have together: photos have any size, and a large one is as much as all others
CAPTURING = 3  # passes until a shape's CUDA graph is there
NEVER = -1  # the number of a CUDA graph that isn't captured
# What must not run elsewhere than asked for. The rest is arithmetic of shapes, which ONNX Runtime keeps on the CPU.
HEAVY = frozenset("Conv ConvTranspose Gemm InstanceNormalization LayerNormalization MatMul Resize Softmax".split())


@dataclass(frozen=True)
class Buffers:
    """Where inputs and outputs of one shape lie, bound; and the options of runs on them."""

    binding: Any
    inputs: Mapping[str, Any]
    outputs: list[Any]
    options: Any
    graph: int
    nbytes: int


class OnnxRuntimeEngine:
    """A session of one provider. Raises SetupError when that isn't there, or leaves any of the work to another."""

    def __init__(self, path: Path, provider: Provider, threads: int) -> None:
        self._provider = provider
        self._session = _session(path, provider, threads)
        self._bound: dict[str, Any] = {}
        self._shared: dict[str, Array] = {}
        self._kept: OrderedDict[Shapes, Buffers] = OrderedDict()
        self._captured = 0
        self._shrinks = False  # whether the next run gives back what the arena has too much
        self._names = [output.name for output in self._session.get_outputs()]

    def bind(self, buffers: Mapping[str, Array]) -> None:
        if not self._provider.most_lanes:
            new = {name: array for name, array in buffers.items() if self._shared.get(name) is not array}
            self._shared.update(new)
            self._replace({name: _values().ortvalue_from_numpy(array) for name, array in new.items()})
            return
        self._replace({name: self._copy(array) for name, array in buffers.items()})

    @property
    def shares(self) -> bool:
        return not self._provider.most_lanes

    def write(self, name: str, row: int, values: Array) -> None:
        if self._provider.most_lanes:
            row_bytes = values.nbytes // len(values)
            _copier(self._provider)(self._bound[name].data_ptr() + row * row_bytes, values)

    def release(self) -> None:
        """On a GPU there is nothing to do: its buffers are of a few sizes."""
        if not self._provider.most_lanes:
            self._kept.clear()
            self._shrinks = True
            trim()

    def plain(self, path: Path) -> None:
        """It would hold the weights once more."""

    def prepare(self, feeds: Mapping[str, Array]) -> None:
        for _ in range(CAPTURING if self._provider.most_lanes else 1):
            self.run(feeds)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        rows = len(next(iter(feeds.values())))
        batch = padded(feeds, self._provider.most_lanes or rows)
        buffers = self._kept.get(shapes(batch))
        if buffers is None:
            buffers = self._keep(batch)
        else:
            self._kept.move_to_end(shapes(batch))
            for name, array in batch.items():
                buffers.inputs[name].update_inplace(array)
            self._session.run_with_iobinding(buffers.binding, buffers.options)
        return [value.numpy()[:rows].copy() for value in buffers.outputs]

    def _keep(self, batch: Mapping[str, Array]) -> Buffers:
        """Run on a batch of a new shape, and keep its buffers in place of those that have been idle longest."""
        inputs = {name: self._copy(array) for name, array in batch.items()}
        outputs = self._first_run(inputs)
        binding = self._binding(inputs)
        for name, value in zip(self._names, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        self._captured += 1
        nbytes = sum(array.nbytes for array in batch.values()) + sum(_nbytes(value) for value in outputs)
        kept = Buffers(binding, inputs, outputs, self._options(self._captured), self._captured, nbytes)
        self._make_room(nbytes)
        self._kept[shapes(batch)] = kept
        return kept

    def _make_room(self, nbytes: int) -> None:
        """For one more, of so many bytes."""
        while self._kept and (len(self._kept) >= KEPT or self._kept_bytes + nbytes > KEPT_BYTES):
            self._forget(self._kept.popitem(last=False)[1])

    @property
    def _kept_bytes(self) -> int:
        return sum(buffers.nbytes for buffers in self._kept.values())

    def _forget(self, buffers: Buffers) -> None:
        self._session.release_captured_graph(buffers.graph)

    def _first_run(self, inputs: Mapping[str, Any]) -> list[Any]:
        """What ONNX Runtime makes room for when nobody else has: the outputs' shapes aren't known before."""
        binding = self._binding(inputs)
        for name in self._names:
            binding.bind_output(name, self._provider.device, self._provider.gpu)
        self._session.run_with_iobinding(binding, self._options(NEVER))
        return list(binding.get_outputs())

    def _binding(self, inputs: Mapping[str, Any]) -> Any:
        binding = self._session.io_binding()
        for name, value in {**self._bound, **inputs}.items():
            binding.bind_ortvalue_input(name, value)
        return binding

    def _options(self, graph: int) -> Any:
        import onnxruntime as ort  # type: ignore[import-untyped]

        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph))
        if self._shrinks:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
            self._shrinks = False
        return options

    def _replace(self, values: Mapping[str, Any]) -> None:
        """Bind other buffers; what was kept knows the old ones."""
        self._bound.update(values)
        while values and self._kept:
            self._forget(self._kept.popitem()[1])

    def _copy(self, array: Array) -> Any:
        """`array` where the provider computes."""
        return _values().ortvalue_from_numpy(array.copy(), self._provider.device, self._provider.gpu)


def astray(nodes: Iterable[tuple[str, str]], provider: str) -> dict[str, str]:
    """Of (operator, provider) pairs, the heavy operators that another provider runs, each with one that does."""
    return {operator: ran_by for operator, ran_by in nodes if operator in HEAVY and ran_by != provider}


def _nbytes(value: Any) -> int:
    """Of an OrtValue: what is put out is float32."""
    shape: list[int] = value.shape()
    return 4 * prod(shape)


def _copier(provider: Provider) -> Callable[[int, Array], object]:
    """What writes an array to an address where the provider computes; ONNX Runtime itself writes whole buffers."""
    if provider.device == "cpu":
        return lambda address, array: ctypes.memmove(address, array.ctypes.data, array.nbytes)
    from impasto_server.engines import cuda

    return partial(cuda.write, provider.gpu)


def _values() -> Any:
    import onnxruntime as ort

    return ort.OrtValue


def _session(path: Path, provider: Provider, threads: int) -> Any:
    import onnxruntime as ort

    if provider.device == "cuda":
        ort.preload_dlls()  # those that pip installed, of which the system's loader doesn't know
    left_out = []
    if provider.name == TENSORRT:
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # f32 is f32; the provider itself has no option for it
        # It is handed the graph as one message, which holds 2 GB: weights stay in their file, as narrow as they are.
        left_out = ["ConstantFolding"]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Several sessions share the cores; a spinning pool would burn those the others need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(str(path), options, provider.listed(), disabled_optimizers=left_out)
    # ONNX Runtime takes a provider whose libraries don't load for one that wasn't asked for, with a line in its log.
    if session.get_providers()[0] != provider.name:
        needs = "CUDA 13 and cuDNN 9" if provider.name == CUDA else "TensorRT 10, CUDA 13 and cuDNN 9"
        raise SetupError(
            f"engine: {provider.name} can't be had, its libraries don't load; it needs {needs}, see `impasto doctor`"
        )
    parts = session.get_provider_graph_assignment_info()
    elsewhere = astray(((node.op_type, part.ep_name) for part in parts for node in part.get_nodes()), provider.name)
    if elsewhere:
        operator, ran_by = next(iter(elsewhere.items()))
        raise SetupError(f"engine: {provider.name} leaves {operator} of {path.name} to {ran_by}; use another --engine")
    return session
