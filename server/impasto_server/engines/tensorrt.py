"""The TensorRT engine. Its plans, which tensorrt_plan.py makes, have the adapter tables as inputs.

A pass takes as much GPU memory as its shapes need, and keeps it: buffers grow and never shrink. The context is told
only shapes and addresses that changed, since there are hundreds of tables.

Every call is in the bindings of TensorRT 10.16, against which this module is type-checked, and in the order that
TensorRT's headers ask for. For want of a GPU none of it has run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt  # type: ignore[import-not-found,unused-ignore]

from impasto_server.engines import cuda
from impasto_server.engines.cuda import Memory, Stream
from impasto_server.engines.engine import Array, padded
from impasto_server.engines.plans import Plan, architecture, spec_of
from impasto_server.engines.profiles import Profile, Shape, most_lanes, profiles_for
from impasto_server.engines.runtime import Runtime
from impasto_server.engines.tensorrt_plan import Maker
from impasto_server.errors import SetupError

BETWEEN = ""  # the name of the buffer for intermediate results


class TensorRtEngine:
    """One plan with one graph's weights, an execution context, a stream, and buffers that stay on the GPU."""

    def __init__(self, engine: trt.ICudaEngine, profiles: tuple[Profile, ...], lanes: int, gpu: int) -> None:
        self._gpu = gpu
        # By default it would allocate at once what the largest batch of the largest pictures needs.
        self._context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        self._profiles, self._lanes = profiles, lanes
        self._profile = 0
        self._outputs = _outputs(engine)
        self._stream = Stream()
        self._buffers: dict[str, Memory] = {}
        self._shapes: dict[str, Shape] = {}
        self._told: dict[str, tuple[Shape, int]] = {}

    @classmethod
    def open(cls, path: Path, runtime: Runtime, tables: Mapping[str, Array]) -> TensorRtEngine:
        """Build the plan of the graph at `path`, or take it from the cache, and give it the graph's weights.

        Raises SetupError when TensorRT refuses the graph.
        """
        cuda.use(runtime.device.number)
        shapes = {name: array.shape for name, array in tables.items()}
        profiles = profiles_for(path, runtime.max_lanes, shapes, runtime.sides)
        spec = spec_of(path, runtime, profiles, (f"tensorrt {trt.__version__}",))
        spec = replace(spec, graph=architecture(path), weights="")
        maker = Maker(path, runtime.precision, profiles)
        engine = maker.refitted(maker.plan(Plan.of(runtime.cache_dir, spec)))
        return cls(engine, profiles, most_lanes(runtime.max_lanes), runtime.device.number)

    def bind(self, buffers: Mapping[str, Array]) -> None:
        cuda.use(self._gpu)
        self._upload(buffers)
        self._stream.wait()

    shares = False

    def write(self, name: str, row: int, values: Array) -> None:
        cuda.use(self._gpu)
        start = row * (values.nbytes // len(values))
        self._stream.copy(self._buffers[name].address + start, values.ctypes.data, values.nbytes)
        self._stream.wait()

    def release(self) -> None:
        """There is nothing to do: its buffers have only a few sizes."""

    def plain(self, path: Path) -> None:
        """None: it would copy the weights."""

    def prepare(self, feeds: Mapping[str, Array]) -> None:
        self.run(feeds)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        cuda.use(self._gpu)  # again for each thread
        rows = len(next(iter(feeds.values())))
        batch = padded(feeds, self._lanes)
        self._choose({name: array.shape for name, array in batch.items()})
        self._upload(batch)
        self._tell()
        if not self._context.execute_async_v3(self._stream.handle):
            raise SetupError("engine: TensorRT could not run a batch; its log says why")
        found = [np.empty(self._shape(name), dtype) for name, dtype in self._outputs.items()]
        for name, array in zip(self._outputs, found, strict=True):
            self._buffers[name].download(array, self._stream)
        self._stream.wait()
        return [array[:rows] for array in found]

    def _choose(self, shapes: Mapping[str, Shape]) -> None:
        """Use the first profile that these shapes fit: the default picture size's, else the one for all sizes."""
        fitting = [number for number, profile in enumerate(self._profiles) if profile.holds(shapes)]
        if not fitting:
            raise SetupError(f"engine: TensorRT's plan has no profile for {dict(shapes)}; ask for a smaller picture")
        if fitting[0] != self._profile:
            if not self._context.set_optimization_profile_async(fitting[0], self._stream.handle):
                raise SetupError("engine: TensorRT could not change to another size of pictures; its log says why")
            self._profile = fitting[0]
            self._told.clear()  # every shape must be set again

    def _upload(self, arrays: Mapping[str, Array]) -> None:
        for name, array in arrays.items():
            self._room(name, array.nbytes).upload(array, self._stream)
            self._shapes[name] = array.shape

    def _tell(self) -> None:
        """Tell the context which input shapes and addresses changed, and give it room for the outputs."""
        known = {name: (shape, self._buffers[name].address) for name, shape in self._shapes.items()}
        news = {name: one for name, one in known.items() if self._told.get(name) != one}
        for name, (shape, address) in news.items():
            if not (self._context.set_input_shape(name, shape) and self._context.set_tensor_address(name, address)):
                raise SetupError(f"engine: TensorRT's plan can't take {name} of shape {list(shape)}; its log says why")
        self._told.update(news)
        if news:
            self._make_room()

    def _make_room(self) -> None:
        """Give the context buffers for its outputs and intermediate results."""
        for name, dtype in self._outputs.items():
            memory = self._room(name, prod(self._shape(name)) * dtype.itemsize)
            self._context.set_tensor_address(name, memory.address)
        between = self._room(BETWEEN, self._context.update_device_memory_size_for_shapes())
        self._context.set_device_memory(between.address, between.nbytes)

    def _shape(self, output: str) -> Shape:
        dims = self._context.get_tensor_shape(output)
        return tuple(dims[axis] for axis in range(len(dims)))

    def _room(self, name: str, nbytes: int) -> Memory:
        """The buffer of that name, replaced by a larger one if it is too small."""
        if name not in self._buffers or self._buffers[name].nbytes < nbytes:
            self._stream.wait()  # nothing may still read the buffer that is freed now
            self._buffers.pop(name, None)
            self._buffers[name] = Memory(nbytes)
        return self._buffers[name]


def _outputs(engine: trt.ICudaEngine) -> dict[str, np.dtype[Any]]:
    """The outputs' names and dtypes, in the graph's order."""
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    mode = trt.TensorIOMode.OUTPUT
    return {
        name: np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        for name in names
        if engine.get_tensor_mode(name) == mode
    }
