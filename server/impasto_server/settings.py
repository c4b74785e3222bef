"""The server's settings, which an operator chooses once: bundles, registry, scorer, engine, memory."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from impasto_server.errors import SetupError

EngineName = Literal["openvino", "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt"]
Precision = Literal["auto", "bf16", "f32"]

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")  # a bundle's name
_PLACED = re.compile(rf"({NAME.pattern})=(.+)", re.DOTALL)

MAX_PAGE_RANK = 512
AUTO = "auto"  # on the command line: the server finds the number itself
ON_GPU: tuple[EngineName, ...] = ("onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt")


Place = Path | str  # where a registry lies: a folder, or the address of an object store
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://.*|(?:s3|gs|az|https?)(?::|//).*")


def place_of(text: str) -> Place:
    """A registry's place from its text."""
    return text if _ADDRESS.fullmatch(text) else Path(text)


def settled(place: Place) -> str:
    """The text of a place, for a process that may run in another folder."""
    return str(place.resolve()) if isinstance(place, Path) else place


def default_registry() -> Place:
    """The registry used when none is named."""
    return place_of(os.environ.get("IMPASTO_REGISTRY") or str(Path.home() / ".local/share/impasto/registry"))


def default_cache() -> Path:
    """Where adapters of an object store are kept on this machine, unless the settings say where."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "impasto/registry"


@dataclass(frozen=True)
class Settings:
    """One server's configuration. It reaches the Triton models as IMPASTO_* environment variables.

    bundle        a folder, whose bundle has its manifest's name, or folders by their bundles' names. Requests that name
                  no bundle go to the first.
    registry      where adapters lie: a folder, or the address of an object store, e.g. s3://bucket/prefix.
    registry_cache        where adapters of an object store are kept on this machine's disk; None is `default_cache`.
    registry_cache_bytes  the most bytes of them.
    registry_stale_s      seconds for which a name may be used as it was last known, while the store doesn't answer.
    precision     "auto" is bf16 where the engine computes it natively, else f32; every answer's META says which.
    threads       cores to compute on; 0 is every core that this process may use.
    max_lanes     the most rows of a batch, for each bundle; 0 is what calibration.runtime_for says.
    max_requests  how many requests may be under way in the server before more are turned away. Until its pictures are
                  decoded, each may hold three files of 32 MiB.
    page_rank     the rank of a page of the adapter bank.
    bank_bytes    the size of each bundle's bank; None ("auto") is a share of the free memory (budget.py).
    host_bytes    the most memory for the adapters and prompt embeds that each bundle keeps beside its bank.
    scorer        the bundle of the model `clip_score`; None leaves that model out.
    gpu           the number of the GPU, for engines that run on one.
    cache_dir     where an engine keeps its compiled graphs for the next start.
    """

    bundle: Path | Mapping[str, Path]
    registry: Place
    engine: EngineName = "openvino"
    precision: Precision = "auto"
    threads: int = 0
    max_lanes: int = 0
    max_requests: int = 64
    page_rank: int = 16
    bank_bytes: int | None = None
    host_bytes: int = 512 << 20
    scorer: Path | None = None
    gpu: int = 0
    cache_dir: Path | None = None
    registry_cache: Path | None = None
    registry_cache_bytes: int = 20 << 30
    registry_stale_s: int = 3600

    def __post_init__(self) -> None:
        if not self.folders:
            raise SetupError("bundle: none is named; pass --bundle DIR, or --bundle NAME=DIR for each of several")
        for name in self.folders:
            if name is not None and not NAME.fullmatch(name):
                raise SetupError(f"bundle: {name!r} is not a name; use only a-z, 0-9, '.', '_' and '-', e.g. photo")
        for field, allowed in (("engine", get_args(EngineName)), ("precision", get_args(Precision))):
            if getattr(self, field) not in allowed:
                raise SetupError(f"{field}: {getattr(self, field)!r} is unknown; choose one of {', '.join(allowed)}")
        for field in ("max_requests", "page_rank", "host_bytes", "registry_cache_bytes"):
            if getattr(self, field) < 1:
                raise SetupError(f"{field}: {getattr(self, field)} is not positive; pass 1 or more")
        if self.page_rank > MAX_PAGE_RANK:
            raise SetupError(f"page_rank: {self.page_rank} is too high; pass {MAX_PAGE_RANK} or less")
        if self.bank_bytes is not None and self.bank_bytes < 1:
            raise SetupError(f"bank_bytes: {self.bank_bytes} is not positive; pass auto, or a number of bytes")
        if self.registry_stale_s < 0:
            raise SetupError(f"registry_stale_s: {self.registry_stale_s} is negative; pass seconds, or 0 for never")
        if self.threads < 0:
            raise SetupError(f"threads: {self.threads} is negative; pass 0 for all cores, or a count")
        if self.gpu < 0:
            raise SetupError(f"gpu: {self.gpu} is negative; pass its number in nvidia-smi, from 0")
        if self.max_lanes < 0:
            raise SetupError(f"max_lanes: {self.max_lanes} is negative; pass 0 for the calibrated number, or a count")

    @classmethod
    def from_env(cls, bundle: Path | None = None) -> Settings:
        """Read back what `to_env` wrote; `bundle` is used where IMPASTO_BUNDLE isn't set.

        Raises SetupError when neither names a bundle, or a value isn't valid.
        """
        values: dict[str, Any] = {"registry": default_registry()} | ({} if bundle is None else {"bundle": bundle})
        for field in fields(cls):
            text = os.environ.get(_variable(field.name))
            if text is not None:
                values[field.name] = _read(field.name, text)
        if "bundle" not in values:
            raise SetupError("IMPASTO_BUNDLE is not set; start the server with `impasto serve --bundle DIR`")
        return cls(**values)

    def to_env(self) -> dict[str, str]:
        """The environment variables from which `from_env` rebuilds these settings."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["bundle"] = "\n".join(_placed(name, folder) for name, folder in self.folders.items())
        return {_variable(name): "" if value is None else str(value) for name, value in values.items()}

    @property
    def folders(self) -> Mapping[str | None, Path]:
        """The bundles' folders by name, the default first. A single one may have the name None: its manifest's."""
        return {None: self.bundle} if isinstance(self.bundle, Path) else dict(self.bundle.items())

    def thread_count(self) -> int:
        """The number of cores to compute on."""
        return self.threads or len(os.sched_getaffinity(0))


def placed(texts: Sequence[str]) -> Path | dict[str, Path]:
    """Settings.bundle from the texts of --bundle: one DIR, or NAME=DIR for each of several. Raises SetupError."""
    found: dict[str, Path] = {}
    for text in texts:
        said = _PLACED.fullmatch(text)
        if _ADDRESS.fullmatch(where := said[2] if said else text):
            fix = f"get it first with `impasto pull {where} --out DIR`, and pass DIR"
            raise SetupError(f"bundle: {where} is in an object store; {fix}")
        if said is None and len(texts) == 1:
            return Path(text)
        if said is None:
            raise SetupError(f"bundle: {text!r} has no name, but there are several; pass NAME=DIR, e.g. photo={text}")
        if said[1] in found:
            problem = f"{said[1]!r} names both {found[said[1]]} and {said[2]}"
            raise SetupError(f"bundle: {problem}; give each bundle a name of its own")
        found[said[1]] = Path(said[2])
    return found


def _placed(name: str | None, folder: Path) -> str:
    """The text that `placed` reads back; a folder without a name must not look like NAME=DIR."""
    alone = str(folder) if _PLACED.fullmatch(str(folder)) is None else f"./{folder}"
    return alone if name is None else f"{name}={folder}"


def bytes_or_auto(text: str) -> int | None:
    """A number of bytes; None for "auto". Raises ValueError."""
    return None if text == AUTO else int(text)


def _variable(field: str) -> str:
    return f"IMPASTO_{field.upper()}"


def _read(field: str, text: str) -> Place | dict[str, Path] | int | None:
    if field == "bundle":
        return placed(text.split("\n"))
    if field == "registry":
        return place_of(text)
    if field in ("scorer", "cache_dir", "registry_cache"):
        return Path(text) if text else None
    if field in ("engine", "precision"):
        return text
    try:
        return bytes_or_auto(text or AUTO) if field == "bank_bytes" else int(text)
    except ValueError:
        raise SetupError(f"{_variable(field)}: {text!r} is not a whole number; pass a whole number") from None
