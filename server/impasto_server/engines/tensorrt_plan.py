"""TensorRT's plans: one for each architecture, refitted with any checkpoint's weights.

A plan is built without weights (stripped) and refitted with those of a graph, which needs no new build. So a fine-tune
and the graphs of a pinned mix use the plan of their architecture.

Every call is in the bindings of TensorRT 10.16, against which this module is type-checked. For want of a GPU none of it
has run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorrt as trt  # type: ignore[import-not-found,unused-ignore]

from impasto_server import atomic
from impasto_server.engines.plans import Plan
from impasto_server.engines.profiles import Profile
from impasto_server.errors import SetupError
from impasto_server.settings import Precision


class Maker:
    """Makes a plan of a graph, and an engine of a plan."""

    def __init__(self, path: Path, precision: Precision, profiles: tuple[Profile, ...]) -> None:
        self._path, self._precision, self._profiles = path, precision, profiles
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._logger)

    def plan(self, kept: Plan) -> bytes:
        """The plan from the cache; else it is built and cached. Raises SetupError."""
        file = kept.folder / "engine.plan"
        if not file.exists():
            kept.made()
            atomic.write(file, self.built(kept.timings / "timing.cache"))
        return file.read_bytes()

    def built(self, timings: Path) -> bytes:
        """Build a stripped plan; timings measured on the GPU are added to the file `timings`. Raises SetupError."""
        builder = trt.Builder(self._logger)
        network, config = builder.create_network(), builder.create_builder_config()
        self._parse(network)
        for profile in self._profiles:
            config.add_optimization_profile(self._profile(builder, profile))
        for flag in (trt.BuilderFlag.REFIT, trt.BuilderFlag.STRIP_PLAN):
            config.set_flag(flag)
        config.clear_flag(trt.BuilderFlag.TF32)  # no TF32 in f32
        if self._precision == "bf16":
            config.set_flag(trt.BuilderFlag.BF16)
        cache = config.create_timing_cache(timings.read_bytes() if timings.exists() else b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise SetupError(
                f"engine: TensorRT can't build {self._path.name}; its log says why, or use another --engine"
            )
        atomic.write(timings, _bytes(cache.serialize()))
        return _bytes(plan)

    def refitted(self, plan: bytes) -> trt.ICudaEngine:
        """An engine: the plan with the graph's weights. Raises SetupError."""
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
            raise SetupError(f"engine: TensorRT can't parse {self._path.name}: {_said(parser)}; use another --engine")

    def _profile(self, builder: trt.Builder, profile: Profile) -> trt.IOptimizationProfile:
        made, dims = builder.create_optimization_profile(), trt.Dims
        for name in profile.usual:
            made.set_shape(name, *(dims(shapes[name]) for shapes in (profile.least, profile.usual, profile.most)))
        return made


def _bytes(memory: Any) -> bytes:
    """The bytes of an IHostMemory, which is a buffer though its type doesn't say so."""
    return bytes(memoryview(memory))


def _said(parser: trt.OnnxParser | trt.OnnxParserRefitter) -> str:
    return str(parser.get_error(0).desc()) if parser.num_errors else "its log says why"
