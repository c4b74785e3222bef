"""The OpenVINO engine, on the CPU with one stream: requests overlap in the batch, not in the engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from impasto_server.engines.engine import WIDTHS, Array, Shapes, shapes, widened
from impasto_server.engines.footprint import trim
from impasto_server.errors import SetupError
from impasto_server.settings import Precision


class OpenVinoEngine:
    """A graph compiled once for all shapes, and once more for each prepared shape.

    With fixed shapes a pass of studio/mini-diffusion takes a fifth to a third less, and a change of shape costs
    nothing. A lane's number of table rows is fixed only at its usual value and else left open, since batches differ in
    it all the time; that costs the small model a twentieth.

    Each compiled graph has its own copy of the weights in its kernels' layout; the float32 originals are shared. With a
    `cache_dir` the next start maps them from there instead of copying; the folder fills with float32 copies.
    """

    def __init__(
        self,
        path: Path,
        precision: Precision,
        threads: int,
        tables: Collection[str] = (),
        cache_dir: Path | None = None,
        varying: Mapping[str, int] = WIDTHS,
    ) -> None:
        """`varying` inputs [lanes, K] may have any K; the mapping has the usual one."""
        self._source = _Source.read(path, precision, threads, cache_dir, tables)
        self._varying = varying
        self._any = self._source.compiled(self._source.model)
        self._fixed: dict[Shapes, Any] = {}
        self._kept: dict[str, Array] = {}  # OpenVINO doesn't keep shared arrays alive

    shares = True

    def bind(self, buffers: Mapping[str, Array]) -> None:
        new = {name: array for name, array in buffers.items() if self._kept.get(name) is not array}
        self._kept.update(new)
        for request in (self._any, *self._fixed.values()):
            _set(request, new)

    def write(self, name: str, row: int, values: Array) -> None:
        """Nothing to do: the memory is shared."""

    def prepare(self, feeds: Mapping[str, Array]) -> None:
        usual = all(feeds[name].shape[1] == width for name, width in self._varying.items())
        key = shapes(feeds) if usual else self._open(feeds)
        if key not in self._fixed:
            sizes = {name: list(array.shape) for name, array in feeds.items()}
            if not usual:
                sizes |= {name: [sizes[name][0], -1] for name in self._varying}
            self._fixed[key] = self._source.fixed(sizes)
            _set(self._fixed[key], self._kept)
        self.run(feeds)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        request = self._fixed.get(shapes(feeds)) or self._fixed.get(self._open(feeds)) or self._any
        return _run(request, feeds)

    def release(self) -> None:
        for request in (self._any, *self._fixed.values()):
            request.get_compiled_model().release_memory()
        trim()

    def plain(self, path: Path) -> OpenVinoPlain:
        return OpenVinoPlain(self._source.beside(path))

    def _open(self, feeds: Mapping[str, Array]) -> Shapes:
        """The key of feeds where the width of the varying inputs is left open."""
        return shapes({name: array for name, array in feeds.items() if name not in self._varying})


class OpenVinoPlain:
    """A graph that is compiled only for the shapes that it is prepared for."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._fixed: dict[Shapes, Any] = {}

    def ready(self, feeds: Mapping[str, Array]) -> bool:
        return shapes(feeds) in self._fixed

    def prepare(self, feeds: Mapping[str, Array]) -> None:
        if not self.ready(feeds):
            self._fixed[shapes(feeds)] = self._source.fixed({name: list(a.shape) for name, a in feeds.items()})
        self.run(feeds)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        return _run(self._fixed[shapes(feeds)], feeds)


@dataclass(frozen=True)
class _Source:
    """A `model` to compile, with its options. `wide` holds its weights in float32, by name."""

    path: Path
    model: Any
    precision: Precision
    options: Mapping[str, Any]
    wide: dict[str, Array]

    @classmethod
    def read(
        cls, path: Path, precision: Precision, threads: int, cache_dir: Path | None, tables: Collection[str]
    ) -> _Source:
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        if cache_dir is not None:
            options["CACHE_DIR"] = str(cache_dir)
        return cls(path, _read(_core(), path), precision, options, {})._ready(tables)

    def beside(self, path: Path) -> _Source:
        """The source of another graph over the same weights."""
        return replace(self, path=path, model=_read(_core(), path))._ready(())

    def _ready(self, tables: Collection[str]) -> _Source:
        narrow = self.precision == "bf16" and tables
        model = _taking_bf16(self.model, tables) if narrow else self.model
        if "CACHE_DIR" not in self.options:
            _widen(model, self.wide)
        return replace(self, model=model)

    def fixed(self, sizes: Mapping[str, list[int]]) -> Any:
        """An infer request of the model with inputs of these sizes; -1 is any."""
        model = self.model.clone()
        model.reshape(dict(sizes))
        return self.compiled(model)

    def compiled(self, model: Any) -> Any:
        """An infer request. Raises SetupError where OpenVINO would compute in another precision."""
        compiled = _core().compile_model(model, "CPU", dict(self.options))
        # OpenVINO accepts a hint that it can't follow, and silently computes in f32.
        actual = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if actual != self.precision:
            made = f"OpenVINO computes {self.path.name} in {actual}, not {self.precision}"
            raise SetupError(f"precision: {made}; pass --precision {actual}")
        return compiled.create_infer_request()


def _run(request: Any, feeds: Mapping[str, Array]) -> list[Array]:
    contiguous = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
    _set(request, contiguous)
    request.infer()
    return [tensor.data.copy() for tensor in request.output_tensors]


def _set(request: Any, arrays: Mapping[str, Array]) -> None:
    for name, array in arrays.items():
        request.set_tensor(name, _tensor(array))


def capabilities() -> list[str]:
    """What OpenVINO computes natively on this CPU, e.g. FP32, BF16."""
    return list(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


@cache
def _core() -> Any:
    import openvino as ov  # type: ignore[import-untyped]

    return ov.Core()


def _read(core: Any, path: Path) -> Any:
    try:
        return core.read_model(str(path))
    except RuntimeError as error:
        raise SetupError(f"bundle: {path} can't be read ({_last(error)}); link the checkpoint again") from None


def _last(error: Exception) -> str:
    """The last line of a message, the only useful one: the others name OpenVINO's source files."""
    return str(error).strip().splitlines()[-1]


def _tensor(array: Array) -> Any:
    """OpenVINO's view of an array; uint16 stands for bf16, which NumPy lacks."""
    import openvino as ov

    if array.dtype == np.uint16:
        return ov.Tensor(array, ov.Shape(array.shape), ov.Type.bf16)
    return ov.Tensor(array, shared_memory=True)


def _taking_bf16(model: Any, inputs: Collection[str]) -> Any:
    """The model with these inputs in bf16; else each pass would begin by converting all of them."""
    import openvino as ov
    from openvino.preprocess import PrePostProcessor  # type: ignore[import-untyped]

    steps = PrePostProcessor(model)
    for name in inputs:
        steps.input(name).tensor().set_element_type(ov.Type.bf16)
    return steps.build()


def _widen(model: Any, known: dict[str, Array]) -> None:
    """Convert weights to float32 once, where the graph computes in it; else each compilation would.

    Weights already `known` by name are shared, others are added. Folding all constants instead would transpose weights
    that the kernels take as they are.
    """
    import openvino as ov

    converts = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convert"]
    for convert in converts:
        weights = convert.input_value(0).get_node()
        if weights.get_type_name() == "Constant" and convert.get_output_element_type(0) == ov.Type.f32:
            name = weights.get_friendly_name()
            if name not in known:
                known[name] = _wide(weights)
            convert.output(0).replace(ov.op.Constant(known[name], shared_memory=True).output(0))


def _wide(constant: Any) -> Array:
    import openvino as ov

    values = constant.get_tensor_view().data  # bf16 comes as float16, too
    bf16 = constant.get_element_type() == ov.Type.bf16
    return widened(values.view(np.uint16)) if bf16 else values.astype(np.float32)
