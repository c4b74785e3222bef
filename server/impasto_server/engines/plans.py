"""The cache of TensorRT's built engines: one folder for each specification.

An engine is valid for one GPU, TensorRT version, graph, precision and set of profiles. The folder's name is a digest of
all of them, and spec.json in it lists them. So a stale engine is never found, only left behind.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from impasto_server import atomic
from impasto_server.engines.profiles import Profile, manifest_beside
from impasto_server.engines.runtime import Runtime
from impasto_server.settings import Precision


def default_cache() -> Path:
    """The folder used when no --cache-dir is named."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "impasto"


@dataclass(frozen=True)
class Spec:
    """All that a built engine depends on. `weights` is the bundle's digest, or "" for an engine that is refitted."""

    engine: str
    graph: str
    weights: str
    precision: Precision
    profiles: tuple[Profile, ...]
    gpu: str
    versions: tuple[str, ...]

    @property
    def text(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @property
    def digest(self) -> str:
        return _digest(self.text)

    @property
    def machine(self) -> str:
        """The digest of what timings on the GPU depend on."""
        return _digest(json.dumps([self.gpu, *self.versions]))


@dataclass(frozen=True)
class Plan:
    """A Spec's place in the cache: `folder` for what is built, `timings` for measurements of the GPU."""

    folder: Path
    timings: Path
    spec: Spec

    @classmethod
    def of(cls, cache: Path | None, spec: Spec) -> Plan:
        root = (cache or default_cache()) / spec.engine
        return cls(root / spec.digest[:16], root / f"timings-{spec.machine[:16]}", spec)

    def made(self) -> Plan:
        """The plan, with its folders created. Raises OSError."""
        for folder in (self.folder, self.timings):
            folder.mkdir(parents=True, exist_ok=True)
        atomic.write(self.folder / "spec.json", f"{self.spec.text}\n".encode())
        return self


def spec_of(path: Path, runtime: Runtime, profiles: Iterable[Profile], versions: Iterable[str]) -> Spec:
    """The Spec of an engine that includes the weights of the graph at `path`."""
    return Spec(
        engine=runtime.engine,
        graph=hashlib.sha256(path.read_bytes()).hexdigest(),
        weights=manifest_beside(path)["digest"],
        precision=runtime.precision,
        profiles=tuple(profiles),
        gpu=str(runtime.device),
        versions=tuple(versions),
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def architecture(path: Path) -> str:
    """The digest of the graph at `path` without its weights; a pinned mix's graph has the same."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.ClearField("external_data")
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
