"""Compiled graphs behind one small protocol: bind named buffers once, run, read.

An engine is used by one thread at a time. Bound buffers are shared, not copied: writing into a bound array is seen by
the next run, which is how an adapter becomes resident without rebuilding anything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from impasto_server.errors import SetupError
from impasto_server.settings import EngineName, Precision, Settings

PREPARED_BYTES = 512 << 20  # of weights, in copies for shapes that an engine was prepared for

Array = NDArray[Any]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class Engine(Protocol):
    """One graph, compiled."""

    def bind(self, buffers: Mapping[str, Array]) -> None:
        """Keep these C-contiguous arrays as inputs of every later run, sharing their memory."""
        ...

    def prepare(self, feeds: Mapping[str, Array]) -> None:
        """Do now what the first run on feeds of these shapes would have to do, and what makes the later ones faster."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Run with `feeds` beside what is bound; returns the outputs in the graph's order, owned by the caller."""
        ...


def resolve_precision(engine: EngineName, precision: Precision) -> Precision:
    """What "auto" means on this machine. Raises SetupError when bf16 is asked for and can't be had."""
    native = engine == "openvino" and "BF16" in _openvino_capabilities()
    if precision == "bf16" and not native:
        reason = (
            "ONNX Runtime's CPU provider has no bf16" if engine == "onnxruntime" else "this CPU has no bf16 arithmetic"
        )
        raise SetupError(f"precision: bf16 can't be had: {reason}; pass --precision f32")
    if precision == "auto":
        return "bf16" if native else "f32"
    return precision


def compile_graph(path: Path, settings: Settings, weights: Collection[str] = ()) -> Engine:
    """Compile the ONNX graph at `path` for the engine the settings name; inputs in `weights` are bound as `stored`."""
    precision = resolve_precision(settings.engine, settings.precision)
    if settings.engine == "openvino":
        return OpenVinoEngine(path, precision, settings.thread_count(), weights)
    return OnnxRuntimeEngine(path, settings.thread_count())


def stored(values: NDArray[np.float32], precision: Precision) -> Array:
    """float32 as it is; bf16 as uint16, the upper half of float32 rounded to the nearest even."""
    if precision != "bf16":
        return values
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


class OpenVinoEngine:
    """OpenVINO on the CPU, one stream: requests overlap in the batch, not in the engine.

    The graph is compiled once for all shapes, and once more for each that is prepared: with its shapes fixed a pass of
    studio/mini-diffusion takes a fifth to a third less, and a change of shape costs nothing. Each has its own copy of
    the weights.
    """

    def __init__(self, path: Path, precision: Precision, threads: int, weights: Collection[str] = ()) -> None:
        self._core = _openvino_core()
        self._model = self._core.read_model(str(path))
        if precision == "bf16" and weights:
            self._model = _taking_bf16(self._model, weights)
        self._options = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        compiled = self._core.compile_model(self._model, "CPU", self._options)
        # OpenVINO takes a hint it can't follow and computes in f32 without a word.
        actual = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if actual != precision:
            raise SetupError(
                f"precision: OpenVINO made {path.name} {actual}, not {precision}; pass --precision {actual}"
            )
        self._any = compiled.create_infer_request()
        self._fixed: dict[Shapes, Any] = {}
        self._kept: dict[str, Array] = {}  # OpenVINO itself holds on to no array that it shares
        self._outputs = len(compiled.outputs)

    def bind(self, buffers: Mapping[str, Array]) -> None:
        self._kept.update(buffers)
        for request in (self._any, *self._fixed.values()):
            self._set(request, buffers)

    def prepare(self, feeds: Mapping[str, Array]) -> None:
        if _shapes(feeds) not in self._fixed:
            model = self._model.clone()
            model.reshape({name: list(array.shape) for name, array in feeds.items()})
            request = self._core.compile_model(model, "CPU", self._options).create_infer_request()
            self._set(request, self._kept)
            self._fixed[_shapes(feeds)] = request
        self.run(feeds)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        request = self._fixed.get(_shapes(feeds), self._any)
        contiguous = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        self._set(request, contiguous)
        request.infer()
        return [request.get_output_tensor(i).data.copy() for i in range(self._outputs)]

    def _set(self, request: Any, arrays: Mapping[str, Array]) -> None:
        for name, array in arrays.items():
            request.set_tensor(name, _tensor(array))


class OnnxRuntimeEngine:
    """ONNX Runtime's CPU provider in fp32: the reference the faster engines are held against."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime as ort  # type: ignore[import-untyped]

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Several sessions share the cores; a spinning pool would burn those the others need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._values = ort.OrtValue
        self._bound: dict[str, Any] = {}
        self._names = [output.name for output in self._session.get_outputs()]

    def bind(self, buffers: Mapping[str, Array]) -> None:
        self._bound.update({name: self._values.ortvalue_from_numpy(array) for name, array in buffers.items()})

    def prepare(self, feeds: Mapping[str, Array]) -> None:
        self.run(feeds)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        values = {name: self._values.ortvalue_from_numpy(np.ascontiguousarray(array)) for name, array in feeds.items()}
        return [value.numpy() for value in self._session.run_with_ort_values(self._names, {**self._bound, **values})]


def _shapes(feeds: Mapping[str, Array]) -> Shapes:
    return tuple((name, array.shape) for name, array in sorted(feeds.items()))


def _tensor(array: Array) -> Any:
    """OpenVINO's view of it; NumPy has no bf16."""
    import openvino as ov  # type: ignore[import-untyped]

    if array.dtype == np.uint16:
        return ov.Tensor(array, ov.Shape(array.shape), ov.Type.bf16)
    return ov.Tensor(array, shared_memory=True)


def _taking_bf16(model: Any, inputs: Collection[str]) -> Any:
    """The model with these inputs in bf16: else each pass begins with a conversion of all there is in them."""
    import openvino as ov
    from openvino.preprocess import PrePostProcessor  # type: ignore[import-untyped]

    steps = PrePostProcessor(model)
    for name in inputs:
        steps.input(name).tensor().set_element_type(ov.Type.bf16)
    return steps.build()


def _openvino_core() -> Any:
    import openvino as ov

    return ov.Core()


def _openvino_capabilities() -> list[str]:
    return list(_openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
