"""TensorRT itself, with one plan for each architecture, into which the weights of any checkpoint are put.

A plan is built without weights (stripped) and refitted with those that a graph points to, which takes no building: a
fine-tune, or the graphs of a pinned mix, are served from the plan of their architecture. Banks are inputs of the plan.

Every call is in the bindings of TensorRT 10.16, against which this module is type-checked; for want of a GPU none of it
has run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt  # type: ignore[import-not-found,unused-ignore]

from impasto_server import cuda
from impasto_server.cuda import Memory, Stream
from impasto_server.engine import Array, padded, widened
from impasto_server.errors import SetupError
from impasto_server.gpu import find
from impasto_server.plans import Plan, architecture, spec_of
from impasto_server.profiles import Profile, most_lanes, profiles_for
from impasto_server.settings import Precision, Settings


class TensorRtEngine:
    """One plan with one graph's weights; an execution context, a stream, and buffers that stay on the GPU."""

    def __init__(self, engine: trt.ICudaEngine, profiles: tuple[Profile, ...], lanes: int, gpu: int) -> None:
        self._gpu = gpu
        self._context = engine.create_execution_context()
        self._profiles, self._lanes = profiles, lanes
        self._profile = 0
        self._outputs = _outputs(engine)
        self._stream = Stream()
        self._buffers: dict[str, Memory] = {}

    @classmethod
    def open(cls, path: Path, settings: Settings, precision: Precision, banks: Mapping[str, Array]) -> TensorRtEngine:
        """Build the plan of the graph at `path`, or take it from the cache, and give it the graph's weights.

        Raises SetupError when TensorRT or the GPU can't be had, or refuses the graph.
        """
        device = find(settings.gpu)
        if precision == "bf16" and not device.has_bf16:
            raise SetupError(f"precision: {device.name} has no bf16 arithmetic; pass --precision f32")
        cuda.use(device.number)
        profiles = profiles_for(path, settings.max_lanes, {name: array.shape for name, array in banks.items()})
        spec = spec_of(path, settings, precision, profiles, device, (f"tensorrt {trt.__version__}",))
        spec = replace(spec, graph=architecture(path), weights="")
        maker = Maker(path, precision, profiles)
        engine = maker.refitted(maker.plan(Plan.of(settings.cache_dir, spec)))
        return cls(engine, profiles, most_lanes(settings.max_lanes), device.number)

    def bind(self, buffers: Mapping[str, Array]) -> None:
        cuda.use(self._gpu)
        values = {name: widened(array) for name, array in buffers.items()}
        for name, array in values.items():
            self._upload(name, array)
        self._stream.wait()

    def prepare(self, feeds: Mapping[str, Array]) -> None:
        self.run(feeds)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        cuda.use(self._gpu)  # of every thread anew
        rows = len(next(iter(feeds.values())))
        batch = padded(feeds, self._lanes)
        self._choose({name: array.shape for name, array in batch.items()})
        for name, array in batch.items():
            self._upload(name, array)
        for name, memory in self._buffers.items():
            if name not in self._outputs:
                self._context.set_input_shape(name, memory.shape)
        for name, dtype in self._outputs.items():
            self._room(name, _shape(self._context.get_tensor_shape(name)), dtype)
        for name, memory in self._buffers.items():
            self._context.set_tensor_address(name, memory.address)
        if not self._context.execute_async_v3(self._stream.handle):
            raise SetupError("engine: TensorRT could not run a batch; its log says why")
        found = [self._buffers[name].download(self._stream) for name in self._outputs]
        self._stream.wait()
        return [array[:rows] for array in found]

    def _choose(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """The first profile that these shapes fit in: the usual picture's, else every one's."""
        fitting = [number for number, profile in enumerate(self._profiles) if profile.holds(shapes)]
        if not fitting:
            raise SetupError(f"engine: TensorRT's plan has no profile for {dict(shapes)}; ask for a smaller picture")
        if fitting[0] != self._profile:
            self._context.set_optimization_profile_async(fitting[0], self._stream.handle)
            self._profile = fitting[0]

    def _upload(self, name: str, array: Array) -> None:
        self._room(name, array.shape, array.dtype).upload(array, self._stream)

    def _room(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Memory:
        """The buffer of that name, another one where its shape has changed."""
        held = self._buffers.get(name)
        if held is None or (held.shape, held.dtype) != (shape, dtype):
            self._stream.wait()  # nothing may still read what is about to be freed
            self._buffers[name] = Memory(shape, dtype)
        return self._buffers[name]


class Maker:
    """Makes plans of a graph, and engines of plans."""

    def __init__(self, path: Path, precision: Precision, profiles: tuple[Profile, ...]) -> None:
        self._path, self._precision, self._profiles = path, precision, profiles
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._logger)

    def plan(self, kept: Plan) -> bytes:
        """From the cache, or built and put there. Raises SetupError."""
        file = kept.folder / "engine.plan"
        if not file.exists():
            kept.made()
            draft = file.with_suffix(".draft")
            draft.write_bytes(self.built(kept.timings / "timing.cache"))
            draft.replace(file)
        return file.read_bytes()

    def built(self, timings: Path) -> bytes:
        """A stripped plan; what was measured of the GPU for it is added to `timings`. Raises SetupError."""
        builder = trt.Builder(self._logger)
        network, config = builder.create_network(), builder.create_builder_config()
        self._parse(network)
        for profile in self._profiles:
            config.add_optimization_profile(self._profile(builder, profile))
        for flag in (trt.BuilderFlag.REFIT, trt.BuilderFlag.STRIP_PLAN):
            config.set_flag(flag)
        config.clear_flag(trt.BuilderFlag.TF32)  # f32 is f32
        if self._precision == "bf16":
            config.set_flag(trt.BuilderFlag.BF16)
        cache = config.create_timing_cache(timings.read_bytes() if timings.exists() else b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise SetupError(
                f"engine: TensorRT can't build {self._path.name}; its log says why, or use another --engine"
            )
        timings.write_bytes(_bytes(cache.serialize()))
        return _bytes(plan)

    def refitted(self, plan: bytes) -> trt.ICudaEngine:
        """The plan with the weights that the graph points to. Raises SetupError."""
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise SetupError(f"engine: TensorRT can't read its plan of {self._path.name}; empty the --cache-dir")
        refitter = trt.Refitter(engine, self._logger)
        parser = trt.OnnxParserRefitter(refitter, self._logger)
        if not (parser.refit_from_file(str(self._path)) and refitter.refit_cuda_engine()):
            raise SetupError(f"engine: TensorRT can't refit {self._path.name}: {_said(parser)}; empty the --cache-dir")
        return engine

    def _parse(self, network: trt.INetworkDefinition) -> None:
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(self._path)):
            raise SetupError(f"engine: TensorRT can't take {self._path.name}: {_said(parser)}; use another --engine")

    def _profile(self, builder: trt.Builder, profile: Profile) -> trt.IOptimizationProfile:
        made, dims = builder.create_optimization_profile(), trt.Dims
        for name in profile.usual:
            made.set_shape(name, *(dims(shapes[name]) for shapes in (profile.least, profile.usual, profile.most)))
        return made


def _outputs(engine: trt.ICudaEngine) -> dict[str, np.dtype[Any]]:
    """Names and dtypes, in the graph's order."""
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    mode = trt.TensorIOMode.OUTPUT
    return {
        name: np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        for name in names
        if engine.get_tensor_mode(name) == mode
    }


def _shape(dims: trt.Dims) -> tuple[int, ...]:
    return tuple(dims[axis] for axis in range(len(dims)))


def _bytes(memory: Any) -> bytes:
    """Of an IHostMemory, a buffer of which its type says nothing."""
    return bytes(memoryview(memory))


def _said(parser: trt.OnnxParser | trt.OnnxParserRefitter) -> str:
    return str(parser.get_error(0).desc()) if parser.num_errors else "its log says why"
