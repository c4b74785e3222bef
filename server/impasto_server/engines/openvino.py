"""OpenVINO on the CPU, one stream: requests overlap in the batch, not in the engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from impasto_server.engines.engine import Array, Shapes, shapes, widened
from impasto_server.errors import SetupError
from impasto_server.settings import Precision


class OpenVinoEngine:
    """The graph is compiled once for all shapes, and once more for each that is prepared: with its shapes fixed a pass
    of studio/mini-diffusion takes a fifth to a third less, and a change of shape costs nothing.

    Each has its own copy of the weights as its kernels want them; the float32 that they are made of is shared. With a
    `cache` folder they are read from there at the next start, mapped and not copied: it fills with float32 copies.
    """

    def __init__(
        self,
        path: Path,
        precision: Precision,
        threads: int,
        weights: Collection[str] = (),
        cache: Path | None = None,
    ) -> None:
        self._core = _core()
        self._model = _read(self._core, path)
        if precision == "bf16" and weights:
            self._model = _taking_bf16(self._model, weights)
        self._options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        if cache is None:
            _widen(self._model)
        else:
            self._options["CACHE_DIR"] = str(cache)
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
        new = {name: array for name, array in buffers.items() if self._kept.get(name) is not array}
        self._kept.update(new)
        for request in (self._any, *self._fixed.values()):
            self._set(request, new)

    def write(self, name: str, row: int, values: Array) -> None:
        """It is there: the memory is shared."""

    def prepare(self, feeds: Mapping[str, Array]) -> None:
        if shapes(feeds) not in self._fixed:
            model = self._model.clone()
            model.reshape({name: list(array.shape) for name, array in feeds.items()})
            request = self._core.compile_model(model, "CPU", self._options).create_infer_request()
            self._set(request, self._kept)
            self._fixed[shapes(feeds)] = request
        self.run(feeds)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        request = self._fixed.get(shapes(feeds), self._any)
        contiguous = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        self._set(request, contiguous)
        request.infer()
        return [request.get_output_tensor(i).data.copy() for i in range(self._outputs)]

    def _set(self, request: Any, arrays: Mapping[str, Array]) -> None:
        for name, array in arrays.items():
            request.set_tensor(name, _tensor(array))


def capabilities() -> list[str]:
    """What OpenVINO computes natively on this CPU, e.g. FP32, BF16."""
    return list(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _core() -> Any:
    import openvino as ov  # type: ignore[import-untyped]

    return ov.Core()


def _read(core: Any, path: Path) -> Any:
    try:
        return core.read_model(str(path))
    except RuntimeError as error:
        raise SetupError(f"bundle: {path} can't be read ({_last(error)}); link the checkpoint again") from None


def _last(error: Exception) -> str:
    """The line that says something of a message whose others are OpenVINO's own files."""
    return str(error).strip().splitlines()[-1]


def _tensor(array: Array) -> Any:
    """OpenVINO's view of it; NumPy has no bf16."""
    import openvino as ov

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


def _widen(model: Any) -> None:
    """Make the weights float32 now, where the graph says that they are computed in it: else each compilation does.

    Folding every constant would transpose weights that the kernels take as they are.
    """
    import openvino as ov

    converts = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convert"]
    for convert in converts:
        weights = convert.input_value(0).get_node()
        if weights.get_type_name() == "Constant" and convert.get_output_element_type(0) == ov.Type.f32:
            values = weights.get_tensor_view().data  # of bf16, too, as float16
            bf16 = weights.get_element_type() == ov.Type.bf16
            wide = widened(values.view(np.uint16)) if bf16 else values.astype(np.float32)
            convert.output(0).replace(ov.op.Constant(wide, shared_memory=True).output(0))
