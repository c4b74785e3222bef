"""`impasto doctor`: it examines what this machine can run."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from impasto_server.adapters.budget import adapters_that_fit, bank_bytes
from impasto_server.adapters.layout import Layout
from impasto_server.bundle import Bundle
from impasto_server.engines import gpu
from impasto_server.engines.footprint import GIB, Footprint, free_memory
from impasto_server.engines.libraries import require
from impasto_server.engines.plans import default_cache
from impasto_server.engines.runtime import Runtime, resolve_precision
from impasto_server.errors import SetupError
from impasto_server.families import open_bundle
from impasto_server.ops.tritonserver import CURRENT, find
from impasto_server.settings import ON_GPU, EngineName, Precision, Settings

# CPU flags that matter for inference, the best first.
CPU_FLAGS = {"amx_bf16": "AMX bf16", "avx512_bf16": "AVX-512 bf16", "avx512f": "AVX-512", "avx2": "AVX2"}
PACKAGES: dict[EngineName, str] = {
    "onnxruntime-cuda": "onnxruntime-gpu",
    "onnxruntime-tensorrt": "onnxruntime-gpu",
    "tensorrt": "tensorrt-cu13",
}
PRECISIONS: tuple[Precision, ...] = ("bf16", "f32")
RANKS = (16, 64, 128)  # common ranks of adapters
CACHE_ROOM = 8 * GIB  # for SDXL in fp16 and TensorRT's timings


@dataclass(frozen=True)
class Finding:
    """One thing that was examined. `fix` says what to do; `needed`: nothing can be served without it."""

    name: str
    ok: bool
    found: str
    fix: str = ""
    needed: bool = True


def examine(bundle: Path | None = None) -> list[Finding]:
    """Everything that a server depends on, in the order of use; with a bundle, also where that fits."""
    engines = [_looked(engine, partial(_engine, engine), engine not in ON_GPU) for engine in get_args(EngineName)]
    found = [_python(), _cpu(), _looked("tritonserver", _tritonserver), _looked("gpu", _gpus, needed=False), *engines]
    found += [_shm(), _cache()]
    if bundle is not None:
        able = [engine for engine, finding in zip(get_args(EngineName), engines, strict=True) if finding.ok]
        found += _fits(bundle, able)
    return found


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
    where = f"loopback only: it {installation.flaws}" if installation.flaws else "any address"
    fix = f"in production, serve from NVIDIA's image {CURRENT} or later" if installation.flaws else ""
    return Finding("tritonserver", True, f"{installation.source}, {where} ({installation.binary})", fix)


def _gpus() -> Finding:
    found = gpu.gpus()
    each = [f"{one.number}: {one.name}, {one.free / GIB:.1f} of {one.memory / GIB:.1f} GiB free" for one in found]
    return Finding("gpu", True, f"{'; '.join(each)}; driver {found[0].driver}", needed=False)


def _engine(engine: EngineName) -> Finding:
    """Whether an engine's libraries and device are there, and which precisions it computes in."""
    require(engine)
    if engine in ON_GPU:
        gpu.gpus()
    computed, refused = _precisions(engine)
    said = ", ".join([version(PACKAGES.get(engine, engine)), " and ".join(computed), *refused])
    return Finding(engine, True, said, needed=engine not in ON_GPU)


def _precisions(engine: EngineName) -> tuple[list[Precision], list[str]]:
    """The precisions that an engine computes in, and the reasons against the others."""
    computed, refused = [], []
    for precision in PRECISIONS:
        try:
            computed.append(resolve_precision(engine, precision))
        except SetupError as error:
            refused.append(str(error).removeprefix("precision: ").rpartition("; ")[0])
    return computed, refused


def _shm() -> Finding:
    """Free shared memory: Triton talks to its Python models through it, and containers often have only 64 MB."""
    stat = os.statvfs("/dev/shm")
    free = stat.f_bavail * stat.f_frsize >> 20
    fix = "" if free >= 64 else "give the container more, e.g. docker run --shm-size=1g"
    return Finding("shared memory", free >= 64, f"{free} MB free in /dev/shm", fix)


def _cache() -> Finding:
    """Room for TensorRT's engines, which are as large as the weights in them."""
    folder = default_cache()
    stat = os.statvfs(next(place for place in (folder, *folder.parents) if place.exists()))
    free = stat.f_bavail * stat.f_frsize
    fix = "" if free >= CACHE_ROOM else "make room, or pass --cache-dir with a folder elsewhere"
    return Finding("cache", free >= CACHE_ROOM, f"{free / GIB:.1f} GiB free for {folder}", fix, needed=False)


def _fits(bundle: Path, engines: Sequence[EngineName]) -> list[Finding]:
    """Whether memory suffices for the bundle on each of these engines, in each of its precisions."""
    try:
        opened, footprint = open_bundle(bundle), Footprint.of(bundle)
    except SetupError as error:
        found, _, fix = str(error).removeprefix("bundle: ").rpartition("; ")
        return [Finding("bundle", False, found, fix)]
    named = Finding("bundle", True, f"{footprint.parameters / 1e6:.0f} M parameters, {footprint.files / GIB:.1f} GiB")
    return [named, *(_fit(opened, footprint, one, precision) for one in engines for precision in _precisions(one)[0])]


def _fit(bundle: Bundle, footprint: Footprint, engine: EngineName, precision: Precision) -> Finding:
    device = max(gpu.gpus(), key=lambda one: one.free) if engine in ON_GPU else None
    free = free_memory() if device is None else device.free
    need = footprint.memory(engine, precision)
    where = "on the GPU" if engine in ON_GPU else "in memory"
    room = _room(bundle, Runtime(engine, precision, 1, gpu=device))
    said = f"up to {need / GIB:.1f} GiB {where}, {free / GIB:.1f} GiB are free{room}"
    less = "" if precision == "bf16" else "pass --precision bf16, "
    fix = "" if need <= free else f"{less}stop other programs, or use a machine with more memory"
    return Finding(f"bundle on {engine} {precision}", need <= free, said, fix, needed=False)


def _room(bundle: Bundle, runtime: Runtime) -> str:
    """How many adapters a bank of the default size holds at once, in words."""
    layout = Layout.of(bundle.manifest, Settings.page_rank, runtime.table_precision)
    capacity = bank_bytes(layout, runtime.gpu)
    each = [
        f"{' or '.join(f'{adapters_that_fit(layout, capacity, kind, rank)} of rank {rank}' for rank in RANKS)} ({kind})"
        for kind in layout.kinds
    ]
    return f"; room for adapters: {' and '.join(each)}" if each else ""


def _looked(name: str, look: Callable[[], Finding], needed: bool = True) -> Finding:
    try:
        return look()
    except SetupError as error:
        found, _, fix = str(error).rpartition("; ")
        return Finding(name, False, found.removeprefix("engine: ").removeprefix("gpu: "), fix, needed)
