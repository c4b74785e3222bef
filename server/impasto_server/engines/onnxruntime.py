"""The ONNX Runtime engine, on the CPU or, with its CUDA or TensorRT provider, on a GPU. It uses IO binding.

On a GPU, bound inputs stay there, and so do the buffers of each of a few batch sizes. A batch is padded up to the next
size, so addresses never change and the CUDA provider can capture passes as a CUDA graph. Only rows and predictions
cross the bus at a step: for eight lanes of SD 1.5 at 512 x 512 pixels 0.5 MB of latents each way and 1.9 MB of context.
Guidance and samplers compute on the host, so that a picture doesn't depend on the device.
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

KEPT = 32  # shapes whose buffers are kept; they differ in lanes and in table rows
KEPT_BYTES = 256 << 20  # of all kept buffers: photos have any size, and a large one takes as much as all others
CAPTURING = 3  # passes until a shape's CUDA graph is there
NEVER = -1  # the number of a CUDA graph that isn't captured
# Operators that must run on the chosen provider. The rest computes shapes, which ONNX Runtime keeps on the CPU.
HEAVY = frozenset("Conv ConvTranspose Gemm InstanceNormalization LayerNormalization MatMul Resize Softmax".split())


@dataclass(frozen=True)
class Buffers:
    """The bound inputs and outputs of one shape, and the run options for them."""

    binding: Any
    inputs: Mapping[str, Any]
    outputs: list[Any]
    options: Any
    graph: int
    nbytes: int


class OnnxRuntimeEngine:
    """A session on one provider. Raises SetupError when that isn't available, or leaves heavy work to another."""

    def __init__(self, path: Path, provider: Provider, threads: int) -> None:
        self._provider = provider
        self._session = _session(path, provider, threads)
        self._bound: dict[str, Any] = {}
        self._shared: dict[str, Array] = {}
        self._kept: OrderedDict[Shapes, Buffers] = OrderedDict()
        self._captured = 0
        self._shrinks = False  # whether the next run frees the arena's unused memory
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
        """On a GPU there is nothing to do: its buffers have only a few sizes."""
        if not self._provider.most_lanes:
            self._kept.clear()
            self._shrinks = True
            trim()

    def plain(self, path: Path) -> None:
        """None: it would copy the weights."""

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
        """Run on a batch of a new shape and keep its buffers; those unused for longest make room."""
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
        """Drop kept buffers until one more of `nbytes` fits."""
        while self._kept and (len(self._kept) >= KEPT or self._kept_bytes + nbytes > KEPT_BYTES):
            self._forget(self._kept.popitem(last=False)[1])

    @property
    def _kept_bytes(self) -> int:
        return sum(buffers.nbytes for buffers in self._kept.values())

    def _forget(self, buffers: Buffers) -> None:
        self._session.release_captured_graph(buffers.graph)

    def _first_run(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Run with outputs that ONNX Runtime allocates, since their shapes aren't known before."""
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
        """Bind other buffers, and drop what was kept with the old ones."""
        self._bound.update(values)
        while values and self._kept:
            self._forget(self._kept.popitem()[1])

    def _copy(self, array: Array) -> Any:
        """A copy of `array` on the provider's device."""
        return _values().ortvalue_from_numpy(array.copy(), self._provider.device, self._provider.gpu)


def astray(nodes: Iterable[tuple[str, str]], provider: str) -> dict[str, str]:
    """From (operator, provider) pairs: the heavy operators that another provider runs, each with that provider."""
    return {operator: ran_by for operator, ran_by in nodes if operator in HEAVY and ran_by != provider}


def _nbytes(value: Any) -> int:
    """The bytes of an OrtValue; outputs are float32."""
    shape: list[int] = value.shape()
    return 4 * prod(shape)


def _copier(provider: Provider) -> Callable[[int, Array], object]:
    """A function that writes an array to an address on the device; ONNX Runtime itself writes only whole buffers."""
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
        ort.preload_dlls()  # libraries installed by pip, which the system's loader can't find
    left_out = []
    if provider.name == TENSORRT:
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # no TF32 in f32; the provider has no option for it
        # The provider gets the graph as one message of at most 2 GB, so weights stay in their file, unfolded.
        left_out = ["ConstantFolding"]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Several sessions share the cores; a spinning thread pool would take cores that the others need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(str(path), options, provider.listed(), disabled_optimizers=left_out)
    # Where a provider's libraries don't load, ONNX Runtime silently goes on without it, with a line in its log.
    if session.get_providers()[0] != provider.name:
        needs = "CUDA 13 and cuDNN 9" if provider.name == CUDA else "TensorRT 10, CUDA 13 and cuDNN 9"
        raise SetupError(f"engine: {provider.name}'s libraries don't load; install {needs}, see `impasto doctor`")
    parts = session.get_provider_graph_assignment_info()
    elsewhere = astray(((node.op_type, part.ep_name) for part in parts for node in part.get_nodes()), provider.name)
    if elsewhere:
        operator, ran_by = next(iter(elsewhere.items()))
        raise SetupError(f"engine: {provider.name} leaves {operator} of {path.name} to {ran_by}; use another --engine")
    return session
