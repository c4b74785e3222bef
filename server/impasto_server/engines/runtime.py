"""The runtime: the settings resolved for this machine, with no "auto" and no 0 left.

Runtime.of(settings)                 for this machine
runtime_for(settings, bundle)        the same, with the lanes that were measured for a bundle (calibration.py)
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from impasto_server.bundle import Manifest, Sides
from impasto_server.engines.gpu import Gpu, find
from impasto_server.engines.libraries import require
from impasto_server.engines.profiles import UNSIDED
from impasto_server.errors import SetupError
from impasto_server.settings import ON_GPU, EngineName, Precision, Settings

DEFAULT_MAX_LANES = 8  # where nothing was measured: most of a batch's gain, at little delay

_NO_BF16: Mapping[EngineName, str] = MappingProxyType(
    {
        "openvino": "this CPU has no bf16 arithmetic; pass --precision f32",
        "onnxruntime": "ONNX Runtime's CPU provider has no bf16; pass --precision f32",
        "onnxruntime-cuda": "ONNX Runtime's CUDA provider has no bf16 convolutions; pass --precision f32, "
        "or --engine onnxruntime-tensorrt",
    }
)


@dataclass(frozen=True)
class Runtime:
    """An available engine, its precision ("bf16" or "f32"), and its number of `threads` or its `gpu`.

    `max_lanes` is the most rows of a batch. `cache_dir` is where an engine keeps what it compiled. Known of a bundle's
    graphs: `sides` are the ranges of their inputs' dimensions, `stepping` the graphs that run at every step.
    """

    engine: EngineName
    precision: Precision
    threads: int
    max_lanes: int = DEFAULT_MAX_LANES
    gpu: Gpu | None = None
    cache_dir: Path | None = None
    sides: Sequence[Sides] = UNSIDED
    stepping: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> Runtime:
        """The runtime of these settings. Raises SetupError where the engine, precision or GPU isn't available."""
        require(settings.engine)
        gpu = find(settings.gpu) if settings.engine in ON_GPU else None
        return cls(
            settings.engine,
            resolve_precision(settings.engine, settings.precision, gpu),
            settings.thread_count(),
            settings.max_lanes or DEFAULT_MAX_LANES,
            gpu,
            settings.cache_dir,
        )

    def knowing(self, manifest: Manifest) -> Runtime:
        """The runtime for the graphs of that bundle."""
        return replace(self, sides=manifest.sides, stepping=manifest.stepping)

    @property
    def table_precision(self) -> Precision:
        """The precision that adapters are stored in: on the CPU the engine's, on a GPU f32."""
        return self.precision if self.gpu is None else "f32"

    @property
    def device(self) -> Gpu:
        """The GPU; only for engines that run on one."""
        assert self.gpu is not None, f"{self.engine} runs on the CPU"
        return self.gpu

    @property
    def device_name(self) -> str:
        """The model name of the CPU or GPU."""
        return cpu_name() if self.gpu is None else self.gpu.name


def resolve_precision(engine: EngineName, precision: Precision, gpu: Gpu | None = None) -> Precision:
    """The precision, with "auto" resolved for this machine or GPU. Raises SetupError for bf16 where there is none."""
    missing = _why_no_bf16(engine, gpu)
    if precision == "bf16" and missing:
        raise SetupError(f"precision: {missing}")
    if precision == "auto":
        return "f32" if missing else "bf16"
    return precision


def _why_no_bf16(engine: EngineName, gpu: Gpu | None) -> str:
    """Why bf16 isn't available, with the fix; "" if it is."""
    if engine in _NO_BF16 and not (engine == "openvino" and _computes_bf16()):
        return f"bf16 isn't available: {_NO_BF16[engine]}"
    if gpu is not None and not gpu.has_bf16:
        return f"{gpu.name} has no bf16 arithmetic; pass --precision f32"
    return ""


def _computes_bf16() -> bool:
    require("openvino")
    from impasto_server.engines.openvino import capabilities

    return "BF16" in capabilities()


def cpu_name() -> str:
    """The CPU's model name, with the numbers of its family and model, since clouds often mask the name."""
    info = Path("/proc/cpuinfo")
    facts = dict(re.findall(r"^(\w[\w ]*?)\s*: (.*)$", info.read_text(), re.M)) if info.exists() else {}
    if "model name" not in facts:
        return platform.machine()
    return f"{facts['model name']} (family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})"
