"""What a server computes with, resolved once: nobody else asks what "auto", or a number of 0, comes to here.

Runtime.of(settings)                 what there is on this machine
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

DEFAULT_MAX_LANES = 8  # where nothing was measured: most of what a batch gains, at little delay

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
    """An engine that is there, the precision it computes in ("bf16" or "f32"), on so many cores or on which `gpu`.

    `max_lanes` are the rows of the largest batch, whoever forms it and whatever is compiled for it. `cache_dir` is
    where an engine keeps what it compiled. What is known of a bundle's graphs: `sides` are the sizes of their inputs,
    `stepping` those that run at every step.
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
        """Raises SetupError where the settings' engine, precision or GPU can't be had."""
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
        """For the graphs of that bundle."""
        return replace(self, sides=manifest.sides, stepping=manifest.stepping)

    @property
    def table_precision(self) -> Precision:
        """What adapters are stored in: of engines on the CPU what they compute in, of those on a GPU f32."""
        return self.precision if self.gpu is None else "f32"

    @property
    def device(self) -> Gpu:
        """The GPU of an engine on one."""
        assert self.gpu is not None, f"{self.engine} runs on the CPU"
        return self.gpu

    @property
    def device_name(self) -> str:
        """The model of what it computes on."""
        return cpu_name() if self.gpu is None else self.gpu.name


def resolve_precision(engine: EngineName, precision: Precision, gpu: Gpu | None = None) -> Precision:
    """What "auto" means on this machine, or its GPU. Raises SetupError when bf16 is asked for and can't be had."""
    missing = _why_no_bf16(engine, gpu)
    if precision == "bf16" and missing:
        raise SetupError(f"precision: {missing}")
    if precision == "auto":
        return "f32" if missing else "bf16"
    return precision


def _why_no_bf16(engine: EngineName, gpu: Gpu | None) -> str:
    """What stands against bf16, with the fix; "" where nothing does."""
    if engine in _NO_BF16 and not (engine == "openvino" and _computes_bf16()):
        return f"bf16 can't be had: {_NO_BF16[engine]}"
    if gpu is not None and not gpu.has_bf16:
        return f"{gpu.name} has no bf16 arithmetic; pass --precision f32"
    return ""


def _computes_bf16() -> bool:
    require("openvino")
    from impasto_server.engines.openvino import capabilities

    return "BF16" in capabilities()


def cpu_name() -> str:
    """The CPU's model. Clouds often mask the name, so the numbers of family and model go with it."""
    info = Path("/proc/cpuinfo")
    facts = dict(re.findall(r"^(\w[\w ]*?)\s*: (.*)$", info.read_text(), re.M)) if info.exists() else {}
    if "model name" not in facts:
        return platform.machine()
    return f"{facts['model name']} (family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})"
