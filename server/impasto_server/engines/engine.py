"""Compiled graphs behind one small protocol: bind named buffers once, run, read.

An engine is used by one thread at a time. What runs where is chosen by name and never changed in silence: an engine, a
provider, a GPU or a precision that can't be had is a SetupError with the fix.

openvino              the CPU, in bf16 or f32                               openvino.py
onnxruntime           the CPU, in f32: the reference for the others         onnxruntime.py
onnxruntime-cuda      a GPU by ONNX Runtime's CUDA provider, in f32         onnxruntime.py
onnxruntime-tensorrt  a GPU by its TensorRT provider, in bf16 or f32        onnxruntime.py
tensorrt              a GPU by TensorRT itself, in bf16 or f32              tensorrt.py
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
    """One graph, compiled. One that `shares` memory reads what is bound where it lies; another has copies."""

    @property
    def shares(self) -> bool: ...

    def bind(self, buffers: Mapping[str, Array]) -> None:
        """Keep these C-contiguous arrays as inputs of every later run.

        An engine on the CPU shares their memory: writing into one is seen by the next run, which is how an adapter
        becomes resident without rebuilding anything. One on a GPU has copies.
        """
        ...

    def write(self, name: str, row: int, values: Array) -> None:
        """Put `values` [n, ...], C-contiguous, in place: the rows from `row` of what is bound as `name`, written there.

        An engine that shares the memory has them already; one on a GPU copies them alone.
        """
        ...

    def prepare(self, feeds: Mapping[str, Array]) -> None:
        """Do now what the first run on feeds of these shapes would have to do, and what makes the later ones faster."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Run with `feeds` beside what is bound; returns the outputs in the graph's order, owned by the caller."""
        ...

    def release(self) -> None:
        """Give back the memory that the largest of its runs took; the next one takes what it needs anew."""
        ...

    def plain(self, path: Path) -> Plain | None:
        """The graph at `path`, over the same weights, which has no tables; None where it would take them once more.

        Rows of page 0 do instead: they cost little and add nothing.
        """
        ...


class Plain(Protocol):
    """One graph, compiled for the shapes that it was prepared for."""

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
    """Compile the ONNX graph at `path` for the runtime's engine; the inputs `tables` are bound as `stored`.

    How wide the inputs `varying` [lanes, K] are differs from batch to batch; the usual K is given. Raises SetupError
    when the graph can't be had in this way.
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
    """Of a number that is `stored`."""
    return 2 if precision == "bf16" else 4


def stored(values: NDArray[np.float32], precision: Precision) -> Array:
    """float32 as it is; bf16 as uint16, the upper half of float32 rounded to the nearest even."""
    if precision != "bf16":
        return values
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widened(array: Array) -> Array:
    """What is `stored` in bf16 as float32, exactly; anything else as it is."""
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array


def shapes(feeds: Mapping[str, Array]) -> Shapes:
    """What an engine that has something ready for these feeds knows it by."""
    return tuple((name, array.shape) for name, array in sorted(feeds.items()))


def padded(feeds: Mapping[str, Array], most: int) -> dict[str, Array]:
    """Every input with as many rows as the next of a few sizes, the last of its own repeated: C-contiguous.

    Raises SetupError when there are more than `most`.
    """
    rows = len(next(iter(feeds.values())))
    if rows > most:
        raise SetupError(f"max_lanes: a batch of {rows} rows, {most} were prepared for; pass --max-lanes {rows}")
    more = bucket(rows, most) - rows
    return {name: np.concatenate([array, *[array[-1:]] * more]) for name, array in feeds.items()}
