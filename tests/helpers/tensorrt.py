"""A stand-in for TensorRT's bindings that needs no GPU: a plan is JSON that says what it was built from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class TensorIOMode(Enum):
    INPUT, OUTPUT = "input", "output"


class BuilderFlag(Enum):
    REFIT, STRIP_PLAN, BF16, TF32 = "refit", "strip", "bf16", "tf32"


class ExecutionContextAllocationStrategy(Enum):
    STATIC, USER_MANAGED = "static", "user"


class Logger:
    WARNING = 2

    def __init__(self, level: int) -> None:
        self.level = level


class OnnxParser:
    """Accepts any file but one that begins with "no importer"."""

    def __init__(self, network: SimpleNamespace, logger: Logger) -> None:
        self._network, self._errors = network, list[str]()

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, number: int) -> SimpleNamespace:
        return SimpleNamespace(desc=lambda: self._errors[number])

    def parse_from_file(self, path: str) -> bool:
        text = Path(path).read_text()
        self._errors += [text] if text.startswith("no importer") else []
        self._network.graph = Path(path).name
        return not self._errors


class Config:
    """A build's configuration; TF32 is on by default, as in TensorRT."""

    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.profiles: list[dict[str, Any]] = []
        self.timings = SimpleNamespace()

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def create_timing_cache(self, known: bytes) -> SimpleNamespace:
        return SimpleNamespace(known=known, serialize=lambda: known + b"measured;")

    def set_timing_cache(self, cache: SimpleNamespace, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.timings = cache
        return True


class OptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, least: Sequence[int], usual: Sequence[int], most: Sequence[int]) -> None:
        self.shapes[name] = [list(least), list(usual), list(most)]


class Builder:
    def __init__(self, logger: Logger) -> None:
        self.create_network, self.create_builder_config = SimpleNamespace, Config
        self.create_optimization_profile = OptimizationProfile

    def build_serialized_network(self, network: SimpleNamespace, config: Config) -> bytes:
        flags = sorted(flag.value for flag in config.flags)
        known = config.timings.known.decode()
        return json.dumps(
            {"graph": network.graph, "flags": flags, "profiles": config.profiles, "known": known}
        ).encode()


class CudaEngine:
    """A plan's engine, with tensors of these names, the last of which is the output; `weights` is their file."""

    def __init__(self, names: Sequence[str] = (), context: object = None) -> None:
        self.num_io_tensors = len(names)
        self.weights = ""
        self._names, self._context = names, context

    def get_tensor_name(self, number: int) -> str:
        return self._names[number]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.OUTPUT if name == self._names[-1] else TensorIOMode.INPUT

    def get_tensor_dtype(self, name: str) -> str:
        return "float32"

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> object:
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        return self._context


class Runtime:
    def __init__(self, logger: Logger) -> None:
        pass

    def deserialize_cuda_engine(self, plan: bytes) -> CudaEngine | None:
        return CudaEngine() if plan.startswith(b"{") else None


class Refitter:
    def __init__(self, engine: CudaEngine, logger: Logger) -> None:
        self.engine, self.found = engine, ""

    def refit_cuda_engine(self) -> bool:
        self.engine.weights = self.found
        return True


class OnnxParserRefitter(OnnxParser):
    def __init__(self, refitter: Refitter, logger: Logger) -> None:
        super().__init__(SimpleNamespace(), logger)
        self._refitter = refitter

    def refit_from_file(self, path: str) -> bool:
        self._refitter.found = path
        return self.parse_from_file(path)


def stand_in() -> ModuleType:
    """The stand-in for the module `tensorrt`."""
    module = ModuleType("tensorrt")
    known = (BuilderFlag, ExecutionContextAllocationStrategy, TensorIOMode, Builder, Logger, OnnxParser)
    module.__dict__.update({one.__name__: one for one in (*known, OnnxParserRefitter, Refitter, Runtime)})
    module.__dict__.update(nptype=np.dtype, Dims=tuple, __version__="10.16")
    return module
