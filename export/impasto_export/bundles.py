"""Write a bundle's folder: whole, or not at all if it already is this very bundle."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from impasto_export import atomic, files, manifest
from impasto_export.architecture import FORMAT, Graph, Json, canonical_json, read_json
from impasto_export.errors import BundleError, CheckpointError
from impasto_export.files import Progress
from impasto_export.weights import sha256_file

# Files by name in the bundle: a path to link, or bytes to write.
Contents = Mapping[str, Path | bytes]


@dataclass(frozen=True)
class Content:
    """What goes into a bundle. `facts` are the manifest's entries beside graphs and files; `files` are small;
    `architecture` is the digest by which adapters know that they fit."""

    name: str
    family: str
    architecture: str
    facts: Json
    graphs: Mapping[str, Graph]
    weights: Contents
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Linked:
    """The result of a link. `reused`: the folder already held this very bundle. `copied`: files that could not be
    hard-linked. `made`: the weights were written, since there were no files to link. `notes` are for the user."""

    folder: Path
    name: str
    architecture: str
    digest: str
    reused: bool
    copied: tuple[str, ...]
    notes: tuple[str, ...] = ()
    made: bool = False


def check_target(out: Path) -> None:
    """Raises BundleError when `out` is something else than a bundle, or cannot be made."""
    if out.exists() and not _was_made_here(out) and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out} exists and is not a bundle; choose another folder")
    around = next(folder for folder in out.absolute().parents if folder.exists())
    if not around.is_dir() or not os.access(around, os.W_OK):
        raise BundleError(f"{out} cannot be made, since {around} is not a writable folder; choose another")


def _was_made_here(folder: Path) -> bool:
    """Whether its manifest is a bundle's, of any version: other programs also write a file of that name."""
    try:
        return {"format", "family", "graphs", "digest"} <= read_json(folder / manifest.NAME).keys()
    except (CheckpointError, OSError):
        return False


def write(out: Path, content: Content, progress: Progress, notes: tuple[str, ...] = ()) -> Linked:
    """Write the bundle `out`. Raises DiskFull, and then nothing has changed."""
    large = {name: item.resolve() for name, item in content.weights.items() if isinstance(item, Path)}
    small = {name: item for name, item in content.weights.items() if isinstance(item, bytes)}
    weights = files.facts(large, progress) | {name: _facts(data) for name, data in small.items()}
    texts = {name: _facts(data)["sha256"] for name, data in content.files.items()}
    record = _record(content, weights, texts)
    made = Linked(out, content.name, content.architecture, record["digest"], True, (), notes, not large)
    if _holds(out, record, large):
        return made
    with atomic.folder(out) as draft:
        copied = [name for name, path in large.items() if not files.place_file(path, draft / name, progress)]
        for name, data in {**small, **content.files, manifest.NAME: canonical_json(record)}.items():
            (draft / name).write_bytes(data)
    return replace(made, reused=False, copied=tuple(copied))


def _record(content: Content, weights: Json, texts: Json) -> Json:
    """The whole manifest, `digest` included."""
    body = {
        "format": FORMAT,
        "family": content.family,
        "name": content.name,
        "architecture": content.architecture,
        **content.facts,
        "graphs": {key: _stated(graph) for key, graph in content.graphs.items()},
        "weights": weights,
        "files": texts,
    }
    return {**body, "digest": manifest.digest(body)}


def _stated(graph: Graph) -> Json:
    stated = {key: value for key, value in graph.record.items() if key != "component"}
    return {**stated, "plain": graph.plain} if graph.plain else stated


def _facts(data: bytes) -> Json:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _holds(out: Path, record: Json, sources: Mapping[str, Path]) -> bool:
    """Whether `out` is this very bundle: the same manifest, and files whose bytes still have their digests."""
    try:
        if (out / manifest.NAME).read_bytes() != canonical_json(record):
            return False
        # A hard link to a file that was digested just now needs no second reading.
        apart = [name for name in record["weights"] if name not in sources or not sources[name].samefile(out / name)]
        same = all(sha256_file(out / name) == record["weights"][name]["sha256"] for name in apart)
        return same and digests(out, record["files"]) == record["files"]
    except OSError:
        return False


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """sha256 of small files, by name."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
