"""The options of the application: what follows `serve run impasto_deploy.ray.app:build`, or `args` in a file."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any


class BadOption(ValueError):
    """An option that can't be; str() names it, and says what to do."""


@dataclass(frozen=True)
class Options:
    """Each is NAME=VALUE on the command line; help says what it does, least is its lowest value."""

    bundle: tuple[str, ...] = field(
        metadata={"help": "Folder of a bundle, the same on all machines; several: NAME=DIR,NAME=DIR."}
    )
    registry: str = field(metadata={"help": "Where adapters are: the `--registry` of `impasto serve`."})
    replicas: int = field(
        default=1, metadata={"least": 1, "help": "Servers; with max_replicas, those to begin with, and the fewest."}
    )
    max_replicas: int = field(
        default=0,
        metadata={"least": 0, "help": "The most servers: then their number follows the load. 0: it is fixed."},
    )
    gateways: int = field(default=1, metadata={"least": 1, "help": "Processes that speak HTTP."})
    threads: int = field(
        default=1, metadata={"least": 1, "help": "Cores that each server computes on; Ray reserves as many."}
    )
    gpus: float = field(default=0.0, metadata={"least": 0, "help": "GPUs that Ray reserves for each server."})
    pin: bool = field(default=False, metadata={"help": "Keep each server on cores of its own."})
    requests: int = field(
        default=64, metadata={"least": 1, "help": "Most requests at one server; more wait before all of them."}
    )
    queued: int = field(
        default=256, metadata={"least": 0, "help": "Most requests that wait so at one gateway; more are answered 429."}
    )
    queue_delay_s: float = field(
        default=2.0,
        metadata={"least": 0.001, "help": "With max_replicas: seconds that others should hold up a request at most."},
    )
    upscale_s: float = field(
        default=30.0,
        metadata={"least": 0, "help": "With max_replicas: seconds of longer waits before servers are added."},
    )
    downscale_s: float = field(
        default=600.0, metadata={"least": 0, "help": "With max_replicas: seconds of calm before one is taken away."}
    )
    grace_s: float = field(
        default=30.0, metadata={"least": 0, "help": "Seconds to finish requests when a replica stops."}
    )
    start_s: float = field(
        default=300.0, metadata={"least": 1, "help": "Seconds that a server may take until it is ready."}
    )
    timeout_s: float = field(default=300.0, metadata={"least": 0.1, "help": "Most seconds that a picture may take."})
    surge: int = field(
        default=0,
        metadata={
            "least": 0,
            "most": 100,
            "help": "Percent of replicas that an update may start beside those it replaces.",
        },
    )
    request_s: float = field(
        default=1.0, metadata={"least": 0.001, "help": "Routing: seconds that a request adds to the wait of the next."}
    )
    write_s: float = field(
        default=0.1, metadata={"least": 0, "help": "Routing: seconds to load an adapter that is on the machine."}
    )
    fetch_s: float = field(default=1.0, metadata={"least": 0, "help": "Routing: seconds to load one that is not."})
    keys: str = field(
        default="", metadata={"help": "File of hashes that `impasto keys` writes. Without, only this machine may ask."}
    )
    metadata: bool = field(default=True, metadata={"help": "Write into pictures how they were made."})
    serve: str = field(
        default="", metadata={"help": "More options of `impasto serve`, as typed: serve='--engine onnxruntime'."}
    )
    version: str = field(
        default="",
        metadata={"help": "Any text; another one replaces all replicas, e.g. for a new bundle in the same folder."},
    )

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Options:
        """From texts, or from a YAML file's values. Raises BadOption."""
        known = {one.name: one for one in fields(cls)}
        for name in said:
            if name not in known:
                near = get_close_matches(name, known, 1)
                fix = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
                raise BadOption(f"{name}: there is no such option; {fix}")
        for name, one in known.items():
            if one.default is MISSING and name not in said:
                raise BadOption(f"{name}: it is missing; pass {name}=DIR")
        found = cls(**{name: _read(known[name], value) for name, value in said.items()})
        if found.max_replicas and found.max_replicas < found.replicas:
            raise BadOption(
                f"max_replicas: {found.max_replicas} is less than replicas, {found.replicas}; pass more, or 0"
            )
        if found.write_s > found.fetch_s:
            raise BadOption(f"write_s: {found.write_s:g} is more than fetch_s, {found.fetch_s:g}; pass less")
        try:
            shlex.split(found.serve)
        except ValueError as error:
            raise BadOption(f"serve: {error}; quote as in a shell") from None
        return found

    @property
    def serving(self) -> tuple[str, ...]:
        """The options of each replica's `impasto serve`."""
        folders = [word for one in self.bundle for word in ("--bundle", _absolute(one))]
        most = ["--max-requests", str(self.requests)]
        return (*folders, "--registry", _absolute(self.registry), *most, *shlex.split(self.serve))


def _absolute(place: str) -> str:
    """[NAME=]DIR with the folder seen from here, since workers of Ray have folders of their own; a URL as it is."""
    name, mark, folder = place.rpartition("=")
    return place if "://" in place else f"{name}{mark}{Path(folder).resolve()}"


def _read(option: Any, value: Any) -> Any:
    """The value in the option's type. Raises BadOption."""
    try:
        found = _READERS[option.type](value)
    except (TypeError, ValueError, KeyError):
        raise BadOption(f"{option.name}: {value!r} is no {_WORDS[option.type]}; pass one") from None
    least = option.metadata.get("least")
    if least is not None and not found >= least:  # NaN, too
        raise BadOption(f"{option.name}: {value!r} is too little; pass {least:g} or more")
    most = option.metadata.get("most")
    if most is not None and found > most:
        raise BadOption(f"{option.name}: {value!r} is too much; pass {most:g} or less")
    return found


def _several(value: Any) -> tuple[str, ...]:
    found = [one.strip() for one in value.split(",")] if isinstance(value, str) else [*map(str, value)]
    if not found or not all(found):
        raise ValueError
    return tuple(found)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or float(value) != int(value):
        raise ValueError
    return int(value)


def _flag(value: Any) -> bool:
    return value if isinstance(value, bool) else {"true": True, "false": False}[str(value).lower()]


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "tuple[str, ...]": _several, "str": str, "int": _whole, "float": float, "bool": _flag,
}  # fmt: skip
_WORDS = {"tuple[str, ...]": "folder", "str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
