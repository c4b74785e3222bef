"""Bundles in an object store: `push` writes one, `pull` gets it onto a machine, whatever happens in between.

A bundle lies under its address as `files.json`, which lists its files with their digests and sizes, and
`files/<sha256>`. The list is written last and names only what is there whole. So whoever reads an older list meanwhile
still finds all of its files, and a file that did not change is not sent again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from threading import Event

from impasto_export import atomic, bundles, manifest
from impasto_export.architecture import Json, parse_json
from impasto_export.errors import BundleError, StoreError
from impasto_export.files import place_file
from impasto_export.stores import Store
from impasto_export.weights import sha256_file

INDEX, FORMAT = "files.json", 1
LEFT_OUT = ("calibration.json",)  # measured on one machine, for that machine
AT_ONCE = 4  # files
_DIGEST = re.compile(r"[0-9a-f]{64}")

Advance = Callable[[int], object]  # called with bytes that are done since the last call


@dataclass(frozen=True)
class Listed:
    """A file of a bundle, as its list has it."""

    sha256: str
    nbytes: int


Files = Mapping[str, Listed]


@dataclass(frozen=True)
class Moved:
    """What a push or a pull came to: the bundle's digest, its bytes, and how many of them had to be sent."""

    digest: str
    nbytes: int
    sent: int


def listed(folder: Path) -> Files:
    """The bundle's files by name, read and digested.

    Raises BundleError for what is no bundle, and where a file isn't what the manifest says.
    """
    record = manifest.load(folder)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    kept = {name: path for name, path in names.items() if name not in LEFT_OUT and "/." not in f"/{name}"}
    found = {name: Listed(sha256_file(path), path.stat().st_size) for name, path in kept.items()}
    _check(found, record, str(folder))
    return found


def push(folder: Path, store: Store, files: Files, advance: Advance) -> Moved:
    """Write a bundle that was `listed` into a store. `advance` hears of files that are sent, or were there already."""
    sent = _in_parallel(partial(_send, folder, store, advance), files)
    digest = manifest.load(folder)["digest"]
    entries = {name: {"sha256": file.sha256, "bytes": file.nbytes} for name, file in files.items()}
    document = {"format": FORMAT, "digest": digest, "files": entries}
    store.put(INDEX, json.dumps(document, indent=1, sort_keys=True).encode())
    return Moved(digest, sum(file.nbytes for file in files.values()), sum(sent))


def index(store: Store) -> tuple[str, Files]:
    """The bundle's digest and its files. Raises StoreError where there is none, or its list is damaged."""
    try:
        data, _ = store.read(INDEX)
    except FileNotFoundError:
        problem = f"there is no bundle at {store.address}, which has no {INDEX}"
        raise StoreError(f"{problem}; write one with `impasto push`") from None
    try:
        document = parse_json(data)
        if document["format"] != FORMAT:
            raise ValueError(f"has the format {document['format']!r}, this impasto reads {FORMAT}")
        return str(document["digest"]), {str(name): _entry(name, one) for name, one in document["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{store.address}/{INDEX} can't be read ({error}); push the bundle again") from None


def pull(store: Store, out: Path, digest: str, files: Files, advance: Advance) -> Moved:
    """Make the folder `out` the bundle that `index` found: at the end, all at once.

    What has arrived is kept beside it, in `.<name>.pull`, until then; the next pull goes on with that. `advance` hears
    of all bytes, also of those that were here. Raises BundleError, DiskFull and StoreError.
    """
    bundles.check_target(out)
    out = out.resolve()
    with _workplace(out) as place:
        sent = sum(_in_parallel(partial(_fetch, place, store, advance), files))
        with atomic.folder(out) as draft:
            for name, file in files.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                place_file(place / file.sha256, draft / name)
            record = manifest.load(draft)
            _check(files, record, store.address)
            if record["digest"] != digest:
                raise BundleError(f"{store.address}: its {INDEX} is another bundle's; push the bundle again")
    return Moved(digest, sum(file.nbytes for file in files.values()), sent)


def holds(out: Path, digest: str, files: Files) -> bool:
    """Whether `out` is this very bundle already, byte by byte."""
    try:
        if manifest.load(out)["digest"] != digest:
            return False
        return all(sha256_file(out / name) == file.sha256 for name, file in files.items())
    except (BundleError, OSError):
        return False


def _send(folder: Path, store: Store, advance: Advance, name: str, file: Listed, stop: Event) -> int:
    """Returns how many bytes were sent."""
    about = None if stop.is_set() else store.about(f"files/{file.sha256}")
    is_there = about is not None and about.size == file.nbytes
    if not is_there:
        store.put(f"files/{file.sha256}", folder / name)
    advance(file.nbytes)
    return 0 if is_there else file.nbytes


def _fetch(place: Path, store: Store, advance: Advance, name: str, file: Listed, stop: Event) -> int:
    """Get one file, going on where an earlier pull ended. Returns how many bytes came."""
    target, draft = place / file.sha256, place / f"{file.sha256}.part"
    if target.exists():  # it had its digest when it got its name
        advance(file.nbytes)
        return 0
    had = draft.stat().st_size if draft.exists() else 0
    if had > file.nbytes or (had and not _continued(draft, target, store, advance, name, file, had, stop)):
        draft.unlink()  # what was there wasn't the beginning of this file, after all
        had = 0
    if not target.exists() and not _continued(draft, target, store, advance, name, file, had, stop):
        draft.unlink()
        problem = f"{store.address}: {name} has other bytes than {INDEX} says"
        raise StoreError(f"{problem}; push the bundle again")
    return file.nbytes - had


def _continued(
    draft: Path, target: Path, store: Store, advance: Advance, name: str, file: Listed, had: int, stop: Event
) -> bool:
    """Append the rest to a file that has its first `had` bytes; False if the whole has another digest."""
    found, done = hashlib.sha256(), had
    with draft.open("ab+") as out:
        out.seek(0)
        while block := out.read(1 << 20):
            found.update(block)
        advance(had)
        for part in _rest(store, name, file, had):
            if stop.is_set():
                raise StoreError("another file failed")
            out.write(part)
            found.update(part)
            done += len(part)
            advance(len(part))
            if done > file.nbytes:
                break
        if found.hexdigest() != file.sha256:
            advance(-done)
            return False
        out.flush()
        os.fsync(out.fileno())
    draft.rename(target)
    atomic.sync_folder(target.parent)
    return True


def _rest(store: Store, name: str, file: Listed, had: int) -> Iterator[bytes]:
    if had == file.nbytes:
        return
    try:
        yield from store.stream(f"files/{file.sha256}", had)
    except FileNotFoundError:
        problem = f"{store.address}: {name} is in {INDEX}, but not in the store"
        raise StoreError(f"{problem}; push the bundle again") from None


def _in_parallel(work: Callable[[str, Listed, Event], int], files: Files) -> list[int]:
    """Do it for each file, the largest first. Where one fails, the others stop, and the first error is raised."""
    stop = Event()
    order = sorted({file.sha256: (name, file) for name, file in files.items()}.values(), key=lambda one: -one[1].nbytes)
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        futures = [pool.submit(work, name, file, stop) for name, file in order]
        for future in wait(futures, return_when=FIRST_EXCEPTION).done:
            future.result()
        return [future.result() for future in futures]
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """The folder of what has arrived, which only one pull uses at a time. It goes when the block succeeds."""
    place = out.parent / f".{out.name}.pull"
    place.mkdir(parents=True, exist_ok=True)
    handle = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BundleError(f"{out}: another pull into it is under way; wait for its end") from None
        yield place
        shutil.rmtree(place)
    finally:
        os.close(handle)


def _entry(name: object, said: Json) -> Listed:
    """A file of the list. Raises ValueError for a name that leads out of the bundle, and for what is no digest."""
    path = PurePosixPath(str(name))
    if path.is_absolute() or not path.parts or any(part.startswith(".") for part in path.parts) or "\\" in str(name):
        raise ValueError(f"{str(name)[:80]!r} is not a file's name")
    if not str(name).isprintable():  # control characters, and halves of surrogates, which no file system takes
        raise ValueError(f"{str(name)[:80]!a} is not a file's name")
    if not _DIGEST.fullmatch(str(said["sha256"])) or type(said["bytes"]) is not int or said["bytes"] < 0:
        raise ValueError(f"{name!r} has no digest or size")
    return Listed(said["sha256"], said["bytes"])


def _check(files: Files, record: Json, place: str) -> None:
    """Raises BundleError unless the files are those that the manifest names, with the digests that it has of them."""
    said = {name: entry["sha256"] for name, entry in record.get("weights", {}).items()} | record.get("files", {})
    wrong = sorted(name for name, sha256 in said.items() if name not in files or files[name].sha256 != sha256)
    if wrong:
        problem = f"{wrong[0]} is missing" if wrong[0] not in files else f"{wrong[0]} isn't what the manifest says"
        raise BundleError(f"{place}: {problem}; link the bundle again")
