"""What this machine can run, looked at and not assumed."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from impasto_server.errors import SetupError
from impasto_server.tritonserver import find

# What the CPU flags mean for inference, widest first.
CPU_FLAGS = {"amx_bf16": "AMX bf16", "avx512_bf16": "AVX-512 bf16", "avx512f": "AVX-512", "avx2": "AVX2"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `fix` says what to do; `needed` whether serving is impossible without it."""

    name: str
    ok: bool
    found: str
    fix: str = ""
    needed: bool = True


def examine() -> list[Finding]:
    """Everything a server leans on, in the order in which it does."""
    return [
        _python(),
        _cpu(),
        _looked("tritonserver", _tritonserver),
        _looked("openvino", _openvino),
        *_onnxruntime(),
        _shm(),
    ]


def _python() -> Finding:
    return Finding("python", True, f"{platform.python_version()} at {sys.prefix}")


def _cpu() -> Finding:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    flags = set(re.findall(r"\w+", next(iter(re.findall(r"^flags\s*:(.*)$", info, re.M)), "")))
    best = next((words for flag, words in CPU_FLAGS.items() if flag in flags), "no AVX2")
    return Finding("cpu", True, f"{len(os.sched_getaffinity(0))} cores, {best}")


def _tritonserver() -> Finding:
    installation = find()
    installation.check()
    where = "loopback only: it has known CVEs" if installation.bundled else "any address"
    return Finding("tritonserver", True, f"{installation.source}, {where} ({installation.binary})")


def _openvino() -> Finding:
    import openvino as ov  # type: ignore[import-untyped]

    core = ov.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precisions = [name for name in ("BF16", "FP16", "FP32") if name in capabilities]
    version = ov.get_version().split("-")[0]
    return Finding(
        "openvino", True, f"{version}, devices {', '.join(core.available_devices)}, CPU {', '.join(precisions)}"
    )


def _onnxruntime() -> list[Finding]:
    found = _looked("onnxruntime", _onnxruntime_providers)
    gpu = "CUDAExecutionProvider" in found.found
    cuda = Finding("gpu", gpu, "ONNX Runtime reaches CUDA" if gpu else "not through ONNX Runtime", needed=False)
    return [found, cuda]


def _onnxruntime_providers() -> Finding:
    import onnxruntime as ort  # type: ignore[import-untyped]

    return Finding("onnxruntime", True, f"{ort.__version__}, {', '.join(ort.get_available_providers())}")


def _shm() -> Finding:
    """Triton talks to the Python process of a model through shared memory; containers are often given 64 MB of it."""
    stat = os.statvfs("/dev/shm")
    free = stat.f_bavail * stat.f_frsize >> 20
    fix = "" if free >= 64 else "give the container more, e.g. docker run --shm-size=1g"
    return Finding("shared memory", free >= 64, f"{free} MB free in /dev/shm", fix)


def _looked(name: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except ImportError as error:
        return Finding(name, False, f"not installed ({error})", "pip install 'impasto[server]'")
    except SetupError as error:
        found, _, fix = str(error).rpartition("; ")
        return Finding(name, False, found, fix)
