"""What benchmarks share: the studio's backbone with random adapters, prompts to paint, and what machine this is."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from impasto_export.adapters.registry import Registry
from impasto_export.link import link
from impasto_server.bundle import Manifest
from impasto_server.engines.runtime import cpu_name
from impasto_server.families import open_bundle

ROOT = Path(__file__).resolve().parents[2]

Array = NDArray[np.float32]
T = TypeVar("T")

RANKS = (4, 8, 16)
COLOURS = "red blue green yellow purple orange white black".split()
THINGS = "boat house fish apple tree cat star flower".split()
PLACES = "at night;in the snow;in flat style;on a beach;in the rain;in clay style".split(";")
REDRAWINGS = 500
CONFIDENT = 1.96  # standard deviations on either side of the mean that hold 95 %
PACKAGES = ("impasto", "numpy", "openvino", "onnxruntime", "nvidia-pytriton")


@dataclass(frozen=True)
class Workspace:
    """A bundle of studio/mini-diffusion and a registry of random adapters, by their names."""

    bundle: Path
    registry: Path
    adapters: tuple[str, ...]


@contextmanager
def workspace(adapters: int) -> Iterator[Workspace]:
    """A Workspace in a folder of its own, gone afterwards. Adapters change the UNet at all its sites."""
    with TemporaryDirectory(prefix="impasto-bench-") as folder:
        bundle = link(ROOT / "studio/mini-diffusion", Path(folder) / "bundle").folder
        registry = Registry(Path(folder) / "registry")
        names = tuple(f"random-{number:02d}" for number in range(adapters))
        manifest = open_bundle(bundle).manifest
        for number, name in enumerate(names):
            registry.put(name, random_adapter(manifest, RANKS[number % len(RANKS)], seed=number))
        yield Workspace(bundle, registry.folder, names)


def random_adapter(manifest: Manifest, rank: int, seed: int) -> bytes:
    """An adapter file whose update is about a twentieth of a site's usual output."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, Array] = {}
    for site in manifest.graphs["unet"].sites:
        a = rng.standard_normal((site.in_features, rank), np.float32) / np.float32(site.in_features**0.5)
        b = rng.standard_normal((rank, site.out_features), np.float32) / np.float32(20 * rank**0.5)
        for part, tensor in (("A", a), ("B", b), ("scale", np.array(1.0, np.float32))):
            tensors[f"unet.{site.name}.{part}"] = tensor
    header = {"format": 1, "kind": "lora", "family": "diffusion", "architecture": manifest.architecture, "rank": rank}
    return save(tensors, {"impasto": json.dumps(header)})


def prompt(rng: np.random.Generator) -> str:
    """Words as the studio's captions have them."""
    colour, thing, place = (str(rng.choice(words)) for words in (COLOURS, THINGS, PLACES))
    return f"a {colour} {thing} {place}"


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99, interpolated linearly between neighbours."""
    return {f"p{p}": round(float(np.percentile(values, p)), 6) for p in (50, 95, 99)}


def machine() -> Mapping[str, Any]:
    """What the figures depend on; asked before the measurement, `load_average` tells whether something else runs."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def warning(facts: Mapping[str, Any]) -> str:
    """What is wrong with a machine whose facts these are; empty when nothing is."""
    if facts["load_average"] < facts["cores"] / 4:
        return ""
    return f"this machine is busy already (load average {facts['load_average']}): the figures will say nothing"


def write(report: Mapping[str, Any], path: Path) -> None:
    """As JSON, every top-level key on a line of its own: the figures stay readable beside thousands of samples."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in report.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median of the rounds' own quotients: what slows the machine for a while slows both of a round."""
    return median(a / b for a, b in zip(over, under, strict=True))


def seconds(work: Callable[..., object], *args: object) -> float:
    started = perf_counter()
    work(*args)
    return perf_counter() - started


def interval(figure: Callable[[Sequence[T]], float], rounds: Sequence[T]) -> tuple[float, float]:
    """Where `figure` lies in 95 % of redrawings of the rounds."""
    rng = np.random.default_rng(0)
    redrawn = [figure([rounds[i] for i in rng.integers(len(rounds), size=len(rounds))]) for _ in range(REDRAWINGS)]
    low, high = np.percentile(redrawn, [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds, and what came of it."""
    started = perf_counter()
    found = work()
    return perf_counter() - started, found


def half_width(share: float, n: int) -> float:
    """Half of Wilson's 95 % interval of a share that was seen in n samples."""
    z = CONFIDENT
    return z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
