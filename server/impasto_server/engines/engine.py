"""The protocol of engines: compile a graph, bind named buffers once, run, read.

One thread at a time uses an engine. Engines are chosen by name and never replaced silently: an engine, provider, GPU or
precision that isn't available is a SetupError with the fix.

openvino              the CPU, in bf16 or f32                                 openvino.py
onnxruntime           the CPU, in f32: the reference for the others           onnxruntime.py
onnxruntime-cuda      a GPU through ONNX Runtime's CUDA provider, in f32      onnxruntime.py
onnxruntime-tensorrt  a GPU through its TensorRT provider, in bf16 or f32     onnxruntime.py
tensorrt              a GPU through TensorRT itself, in bf16 or f32           tensorrt.py
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from impasto_server.engines.profiles import bucket
from impasto_server.engines.runtime import Runtime
from impasto_server.errors import SetupError
from impasto_server.settings import Precision

Array = NDArray[Any]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]

NOTHING: Mapping[str, Array] = MappingProxyType({})
WIDTHS: Mapping[str, int] = MappingProxyType({})


class Engine(Protocol):
    """One compiled graph. If it `shares` memory, it reads bound buffers in place; else it has copies."""

    @property
    def shares(self) -> bool: ...

    def bind(self, buffers: Mapping[str, Array]) -> None:
        """Bind these C-contiguous arrays as inputs of every later run.

        An engine on the CPU shares their memory: the next run sees what is written into them. So an adapter becomes
        resident without any rebuilding. An engine on a GPU has copies.
        """
        ...

    def write(self, name: str, row: int, values: Array) -> None:
        """Update rows of the buffer bound as `name`, from `row` on, to `values` [n, ...], C-contiguous. The caller has
        written them there already.

        An engine that shares memory does nothing; one on a GPU copies only these rows.
        """
        ...

    def prepare(self, feeds: Mapping[str, Array]) -> None:
        """Do now what the first run on feeds of these shapes would do, and what makes later runs faster."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Run on `feeds` and the bound buffers. Returns the outputs in the graph's order, owned by the caller."""
        ...

    def release(self) -> None:
        """Free the memory that its largest run took; the next run allocates what it needs."""
        ...

    def plain(self, path: Path) -> Plain | None:
        """The graph without tables at `path`, over the same weights; None where it would need a copy of the weights.

        Then page 0 is used instead, which costs little and adds nothing.
        """
        ...


class Plain(Protocol):
    """A graph without tables, compiled only for the shapes that it was prepared for."""

    def ready(self, feeds: Mapping[str, Array]) -> bool:
        """Whether it was prepared for feeds of these shapes."""
        ...

    def prepare(self, feeds: Mapping[str, Array]) -> None:
        """As Engine.prepare."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """As Engine.run, with feeds that it is ready for."""
        ...


def compile_graph(
    path: Path, runtime: Runtime, tables: Mapping[str, Array] = NOTHING, varying: Mapping[str, int] = WIDTHS
) -> Engine:
    """Compile the ONNX graph at `path` for the runtime's engine; the inputs `tables` will be bound as `stored`.

    The width K of the inputs `varying` [lanes, K] differs from batch to batch; the mapping has the usual K. Raises
    SetupError when the graph can't be compiled so.
    """
    if runtime.engine == "openvino":
        from impasto_server.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(path, runtime.precision, runtime.threads, tables, runtime.cache_dir, varying)
    if runtime.engine == "tensorrt":
        from impasto_server.engines.tensorrt import TensorRtEngine

        return TensorRtEngine.open(path, runtime, tables)
    from impasto_server.engines.onnxruntime import OnnxRuntimeEngine
    from impasto_server.engines.providers import provider_for

    return OnnxRuntimeEngine(path, provider_for(path, runtime, tables), runtime.threads)


def item_bytes(precision: Precision) -> int:
    """The bytes of a `stored` number."""
    return 2 if precision == "bf16" else 4


def stored(values: NDArray[np.float32], precision: Precision) -> Array:
    """float32 unchanged; bf16 as uint16: the upper half of float32, rounded to nearest even."""
    if precision != "bf16":
        return values
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widened(array: Array) -> Array:
    """Numbers `stored` in bf16 as float32, exactly; anything else unchanged."""
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array


def shapes(feeds: Mapping[str, Array]) -> Shapes:
    """The key under which an engine keeps what it has prepared for feeds of these shapes."""
    return tuple((name, array.shape) for name, array in sorted(feeds.items()))


def padded(feeds: Mapping[str, Array], most: int) -> dict[str, Array]:
    """Every input padded to the next of a few batch sizes by repeating its last row: C-contiguous.

    Raises SetupError when there are more than `most` rows.
    """
    rows = len(next(iter(feeds.values())))
    if rows > most:
        raise SetupError(f"max_lanes: a batch of {rows} rows exceeds {most}; pass --max-lanes {rows}")
    more = bucket(rows, most) - rows
    return {name: np.concatenate([array, *[array[-1:]] * more]) for name, array in feeds.items()}
