from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from signal import SIGKILL
from threading import Event, current_thread
from typing import NoReturn

import obstore
import pytest
from obstore.store import MemoryStore

from impasto_server.adapters import bucket as buckets
from impasto_server.adapters import store as stores
from impasto_server.adapters.access import MAX_THREADS, Attempt
from impasto_server.adapters.adapter import Adapter
from impasto_server.adapters.bucket import Bucket, shelf_of
from impasto_server.adapters.registry import Registry
from impasto_server.adapters.residency import Named, Residency
from impasto_server.adapters.shelf import NotNow
from impasto_server.adapters.store import Store, allows_http
from impasto_server.bundle import Manifest
from impasto_server.errors import InvalidArgument, NoAnswer, NotFound, SetupError
from impasto_server.settings import Settings, place_of
from impasto_server.stats import Stats
from tests.helpers import toy
from tests.helpers.stores import BUCKET, Mode, WebStore, s3_server, web_store
from tests.helpers.waiting import eventually

PATIENCE_S = 60.0
MOST = 1 << 30
Open = Callable[..., Bucket]


@pytest.fixture
def web() -> Iterator[WebStore]:
    with web_store() as found:
        yield found


@pytest.fixture
def open_bucket(web: WebStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """A bucket over `web`, on a machine whose cache is tmp_path / cache. Its calls fail after 0.2 s without a byte."""
    monkeypatch.setattr(stores, "SILENCE_S", 0.2)
    monkeypatch.setattr(stores, "AGAIN_S", 0.05)
    monkeypatch.setattr(buckets, "KNOWN_S", 0.1)

    def open_(most_bytes: int = MOST, stale_s: float = 3600.0, fresh_s: float = 0.0, cache: str = "cache") -> Bucket:
        return Bucket(Store.at(web.address), tmp_path / cache, most_bytes, stale_s, fresh_s)

    return open_


def put(web: WebStore, name: str, data: bytes) -> str:
    """As the registry's commands do; returns the digest."""
    digest = hashlib.sha256(data).hexdigest()
    web.files[f"objects/{digest}.safetensors"] = data
    web.files[f"names/{name}.json"] = json.dumps({"digest": digest}).encode()
    return digest


def held(bucket: Bucket, digest: str, most: int = MOST) -> bytes:
    with bucket.object(digest, most, Attempt()) as file:
        return file.read()


def test_an_adapter_comes_from_the_store_once(web: WebStore, open_bucket: Open, manifest: Manifest) -> None:
    digest = put(web, "neon", toy.adapter_bytes(2, rank=3))
    registry = Registry(open_bucket())
    assert registry.look_up("neon").digest == digest
    assert not registry.has(digest)
    for _ in range(3):
        adapter = registry.load(digest, "neon", manifest)
        assert isinstance(adapter, Adapter)
    assert registry.has(digest)
    assert web.asked[f"objects/{digest}.safetensors"] == 1


def test_an_empty_object_is_damaged_and_no_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 answers 416 to who asks for the beginning of nothing."""
    with s3_server() as s3:
        for variable, value in s3.environment.items():
            monkeypatch.setenv(variable, value)
        store = Store.at(f"s3://{BUCKET}")
        bucket = Bucket(store, tmp_path / "cache", MOST, 3600.0, 0.0)
        obstore.put(store._store, "names/neon.json", b"{}")
        obstore.put(store._store, f"objects/{'0' * 64}.safetensors", b"")
        assert bucket.start("0" * 64, MOST, 8) == b""
        assert bucket.pointer("neon").data == b"{}"


def test_a_name_that_is_pointed_elsewhere_is_seen_at_once(web: WebStore, open_bucket: Open) -> None:
    registry = Registry(open_bucket())
    before = put(web, "neon", b"one")
    assert registry.look_up("neon").digest == before
    after = put(web, "neon", b"two")
    assert registry.look_up("neon").digest == after != before


def test_the_store_is_asked_again_only_when_an_answer_is_old(web: WebStore, open_bucket: Open) -> None:
    bucket = open_bucket(fresh_s=3600.0)
    put(web, "neon", b"one")
    for _ in range(20):
        bucket.pointer("neon")
        with pytest.raises(FileNotFoundError):
            bucket.pointer("nein")
    assert web.calls == 2


def test_an_answer_is_fresh_for_less_than_a_second() -> None:
    assert buckets.FRESH_S < 1


def test_a_name_that_has_not_changed_costs_no_bytes(web: WebStore, open_bucket: Open) -> None:
    bucket = open_bucket()
    put(web, "neon", b"one")
    assert len({bucket.pointer("neon") for _ in range(5)}) == 1
    assert web.calls == 5
    assert web.asked["names/neon.json"] == 1


def test_a_removed_name_is_forgotten(web: WebStore, open_bucket: Open) -> None:
    registry = Registry(open_bucket())
    put(web, "neon", b"one")
    assert registry.look_up("neon").digest
    del web.files["names/neon.json"]
    with pytest.raises(NotFound, match="no adapter 'neon'; check its spelling"):
        registry.look_up("neon")


@pytest.mark.parametrize("mode", ["busy", "stalls"])
def test_a_known_name_is_used_during_an_outage_and_says_so(
    web: WebStore, open_bucket: Open, manifest: Manifest, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    digest, cold = put(web, "neon", toy.adapter_bytes(2)), put(web, "cold", toy.adapter_bytes(3))
    registry = Registry(open_bucket())
    registry.load(registry.look_up("neon").digest, "neon", manifest)
    web.mode = mode
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            pointed = registry.look_up("neon")
            assert pointed.digest == digest
            assert pointed.stale_s > 0
    assert "does not answer" in caplog.text
    assert isinstance(registry.load(digest, "neon", manifest), Adapter)
    with pytest.raises(NoAnswer, match="adapter 'cold': the registry's store does not answer; try again later"):
        registry.look_up("cold")
    with pytest.raises(NoAnswer, match="adapter 'cold': the registry's store does not answer"):
        registry.load(cold, "cold", manifest)
    web.mode = "fine"
    web.go.set()
    eventually(lambda: not registry.look_up("neon").stale_s)
    assert registry.look_up("cold").digest == cold
    assert isinstance(registry.load(cold, "cold", manifest), Adapter)


def test_old_pointers_are_counted(web: WebStore, open_bucket: Open, manifest: Manifest) -> None:
    residency = Residency(Registry(open_bucket()), manifest, 1 << 20, stats := Stats())
    put(web, "neon", b"one")
    assert not residency.resolve("neon").result(PATIENCE_S).stale_s
    web.mode = "busy"
    assert residency.resolve("neon").result(PATIENCE_S).stale_s
    assert stats.read()["adapter_stale_names"] == 1
    residency.close()


def test_an_old_pointer_is_not_used_for_ever(web: WebStore, open_bucket: Open) -> None:
    bucket = open_bucket(stale_s=0.0)
    put(web, "neon", b"one")
    bucket.pointer("neon")
    web.mode = "busy"
    with pytest.raises(NotNow):
        bucket.pointer("neon")


def test_a_restarted_server_still_knows_its_names(web: WebStore, open_bucket: Open) -> None:
    put(web, "neon", b"one")
    before = open_bucket().pointer("neon")
    web.mode = "busy"
    assert open_bucket().pointer("neon").data == before.data


def test_a_store_that_does_not_answer_is_not_asked_by_everybody(
    web: WebStore, open_bucket: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "AGAIN_S", 3600.0)
    bucket = open_bucket()
    web.mode = "busy"
    for number in range(20):
        with pytest.raises(NotNow):
            bucket.pointer(f"style-{number}")
    assert web.calls == 1 + stores.RETRIES


def test_credentials_that_are_refused_stop_nobody_else(web: WebStore, open_bucket: Open, manifest: Manifest) -> None:
    """Stores say so also of names that aren't there, to whom may not list: a stranger's typo is no outage."""
    bucket = open_bucket()
    web.mode = "forbids"
    with pytest.raises(NoAnswer, match="refuses this to the server's credentials; they must be allowed to read and"):
        Registry(bucket).look_up("neon")
    web.mode = "fine"
    assert Registry(bucket).look_up("neon" if put(web, "neon", b"one") else "").digest


def test_other_bytes_than_the_digest_says_are_never_used(web: WebStore, open_bucket: Open, manifest: Manifest) -> None:
    data = toy.adapter_bytes(2)
    digest = put(web, "neon", data)
    registry = Registry(open_bucket())
    for wrong in (data[:-8], data[:-1] + bytes([data[-1] ^ 1]), data + b"?", b""):
        web.files[f"objects/{digest}.safetensors"] = wrong
        with pytest.raises(InvalidArgument, match="neon.*has other bytes than its digest says"):
            registry.load(digest, "neon", manifest)
        assert not registry.has(digest)
    web.files[f"objects/{digest}.safetensors"] = data
    assert isinstance(registry.load(digest, "neon", manifest), Adapter)


def test_a_lost_object_is_not_found(web: WebStore, open_bucket: Open, manifest: Manifest) -> None:
    with pytest.raises(NotFound, match="points to an object that isn't in the registry"):
        Registry(open_bucket()).load("0" * 64, "lost", manifest)


def test_a_damaged_pointer_is_refused(web: WebStore, open_bucket: Open) -> None:
    registry = Registry(open_bucket())
    for pointer in (b"", b"{", b'{"digest": "short"}', b"[" * 5000):
        web.files["names/neon.json"] = pointer
        with pytest.raises(InvalidArgument, match="neon.*doesn't point to a digest"):
            registry.look_up("neon")


def test_a_damaged_copy_is_downloaded_anew(
    web: WebStore, open_bucket: Open, manifest: Manifest, tmp_path: Path
) -> None:
    digest = put(web, "neon", toy.adapter_bytes(2))
    registry = Registry(open_bucket())
    registry.load(digest, "neon", manifest)
    copy = tmp_path / "cache/objects" / f"{digest}.safetensors"
    for damage in (copy.read_bytes()[:-3], b"?" * 5000, b""):
        copy.write_bytes(damage)
        assert isinstance(registry.load(digest, "neon", manifest), Adapter)
    assert web.asked[f"objects/{digest}.safetensors"] == 4


def test_an_answer_that_breaks_off_goes_on_where_it_did(web: WebStore, open_bucket: Open) -> None:
    data = bytes(range(256)) * 4096
    digest = put(web, "large", data)
    web.mode, web.after = "cuts", 400_000
    assert held(open_bucket(), digest) == data


def test_an_answer_that_stops_half_way_is_no_answer(web: WebStore, open_bucket: Open, tmp_path: Path) -> None:
    digest = put(web, "large", bytes(1 << 20))
    web.mode, web.after = "stalls", 1000
    with pytest.raises(NotNow):
        held(open_bucket(), digest)
    assert not list((tmp_path / "cache/objects").glob(".*.part"))


def test_what_is_too_large_is_not_downloaded(web: WebStore, open_bucket: Open, tmp_path: Path) -> None:
    digest = put(web, "large", bytes(10_000))
    with pytest.raises(ValueError, match="has 10000 bytes, more than the 9999 that it can need"):
        held(open_bucket(), digest, most=9_999)
    with pytest.raises(ValueError, match="more than the server's cache of 9000; raise it with --registry-cache-bytes"):
        held(open_bucket(most_bytes=9_000), digest)


def test_copies_that_were_used_longest_ago_make_room(web: WebStore, open_bucket: Open) -> None:
    digests = [put(web, f"style-{number}", bytes([number]) * 1000) for number in range(4)]
    bucket = open_bucket(most_bytes=3_000)
    for digest in (*digests[:3], digests[0]):
        held(bucket, digest)
    held(bucket, digests[3])
    assert [bucket.has(digest) for digest in digests] == [True, False, True, True]


def test_a_copy_that_is_being_read_stays(web: WebStore, open_bucket: Open) -> None:
    digests = [put(web, f"style-{number}", bytes([number]) * 1000) for number in range(3)]
    bucket = open_bucket(most_bytes=2_000)
    with bucket.object(digests[0], MOST, Attempt()):
        held(bucket, digests[1])
        held(bucket, digests[2])
        assert [bucket.has(digest) for digest in digests] == [True, False, True]


DOWNLOADER = """
import sys
from pathlib import Path
from impasto_server.adapters.access import MAX_THREADS, Attempt
from impasto_server.adapters.bucket import Bucket
from impasto_server.adapters.store import Store
bucket = Bucket(Store.at(sys.argv[1]), Path(sys.argv[2]), 1 << 30, 0.0)
print("ready", flush=True)
sys.stdin.readline()
with bucket.object(sys.argv[3], 1 << 30, Attempt()) as file:
    print(len(file.read()), flush=True)
"""


def downloader(web: WebStore, cache: Path, digest: str) -> subprocess.Popen[str]:
    """A process that downloads an object when it is sent a line, and prints how many bytes it got."""
    command = [sys.executable, "-c", DOWNLOADER, web.address, str(cache), digest]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def told(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=PATIENCE_S)
    return out.strip()


def test_a_machine_downloads_an_object_once(web: WebStore, open_bucket: Open, tmp_path: Path) -> None:
    """50 requests: 16 threads in each of two processes, and 18 in this one, in one bucket or two."""
    data = bytes(3 << 20)
    digest = put(web, "large", data)
    processes = [downloader(web, tmp_path / "cache", digest) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    mine = [open_bucket(), open_bucket()]
    with ThreadPoolExecutor(48) as threads:
        found = list(threads.map(lambda number: held(mine[number % 2], digest) == data, range(48)))
    assert all(found)
    assert [told(process) for process in processes] == [str(len(data))] * 2
    assert web.asked[f"objects/{digest}.safetensors"] == 1


def test_a_download_that_was_killed_is_taken_over(web: WebStore, open_bucket: Open, tmp_path: Path) -> None:
    """By whoever waits for it, at once: the lock goes with its process."""
    data = bytes(range(256)) * 8192
    digest = put(web, "large", data)
    web.mode, web.after = "stalls", 1 << 20
    draft = tmp_path / "cache/objects" / f".{digest}.part"
    process = downloader(web, tmp_path / "cache", digest)
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    eventually(lambda: draft.exists() and draft.stat().st_size > 0)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(held, open_bucket(), digest)
        web.mode = "fine"
        process.send_signal(SIGKILL)
        assert waiting.result(PATIENCE_S) == data
    told(process)
    assert not draft.exists()


def test_whoever_waits_for_the_store_is_in_nobodys_way(
    web: WebStore, open_bucket: Open, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All threads that there may be hang; a known name is resolved meanwhile, and a copy on this machine loaded."""
    go, stats = Event(), Stats()

    def hang(*args: object) -> NoReturn:
        assert go.wait(PATIENCE_S)
        raise NotNow("'s store does not answer")

    digest = put(web, "neon", toy.adapter_bytes(2))
    residency = Residency(Registry(open_bucket(fresh_s=3600.0)), manifest, 1, stats)  # keeps nothing in memory
    assert residency.resolve("neon").result(PATIENCE_S).digest == digest
    assert residency.load([Named("neon", digest)])[digest].result(PATIENCE_S)
    monkeypatch.setattr(Store, "read", hang)
    monkeypatch.setattr(Store, "stream", hang)
    monkeypatch.setattr(buckets, "NEW_S", PATIENCE_S)
    cold = [residency.load([Named("cold", f"{number:064}")])[f"{number:064}"] for number in range(MAX_THREADS + 2)]
    unknown = [residency.resolve(f"unknown-{number}") for number in range(MAX_THREADS + 2)]
    assert residency.resolve("neon").result(PATIENCE_S).digest == digest
    assert residency.load([Named("neon", digest)])[digest].result(PATIENCE_S)
    go.set()
    assert all(isinstance(future.exception(PATIENCE_S), NoAnswer) for future in cold)
    assert all(isinstance(future.exception(PATIENCE_S), NoAnswer) for future in unknown)
    assert stats.read()["adapter_fetches"] == 1 + len(cold)
    residency.close()


def test_only_threads_of_their_own_call_the_store(
    web: WebStore, open_bucket: Open, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the one that asks, which may be Triton's or the step loop's."""
    callers, calling = set[str](), Store._calling

    def noted(self: Store) -> AbstractContextManager[None]:
        callers.add(current_thread().name)
        return calling(self)

    monkeypatch.setattr(Store, "_calling", noted)
    digest = put(web, "neon", toy.adapter_bytes(2))
    residency = Residency(Registry(open_bucket()), manifest, 1 << 20, Stats())
    for _ in range(2):
        assert residency.resolve("neon").result(PATIENCE_S).digest == digest
    assert residency.load([Named("neon", digest)])[digest].result(PATIENCE_S)
    with pytest.raises(NotFound):
        residency.resolve("nein").result(PATIENCE_S)
    residency.close()
    assert callers == {"store", "fetch", "new-names"}  # the last lists names that are like an unknown one


def test_calls_are_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waited = 100.0, list[float]()
    monkeypatch.setattr(buckets, "monotonic", lambda: now)
    monkeypatch.setattr(buckets, "sleep", waited.append)
    pace = buckets.Pace(10)
    for _ in range(3):
        pace.wait()
    now = 200.0
    pace.wait()
    assert waited == pytest.approx([0.0, 0.1, 0.2, 0.0])


def test_a_store_lists_its_names_and_what_they_point_to_now(tmp_path: Path) -> None:
    memory = MemoryStore()
    bucket = Bucket(Store("memory", memory), tmp_path, MOST, 3600.0, fresh_s=3600.0)
    for name in ("neon", "glass"):
        obstore.put(memory, f"names/{name}.json", name.encode())
        assert bucket.pointer(name).data == name.encode()
    obstore.put(memory, "names/neon.json", b"another")
    obstore.put(memory, "names/.draft", b"")
    assert bucket.pointer("neon").data == b"neon"
    assert sorted(bucket.names()) == ["glass", "neon"]
    assert bucket.pointer("neon").data == b"another"
    assert Registry(bucket).names() == ["glass", "neon"]


def test_a_catalogue_reads_headers_alone(web: WebStore, open_bucket: Open) -> None:
    data = toy.adapter_bytes(2)
    digest = put(web, "neon", data + bytes(1 << 20))
    bucket = open_bucket()
    assert bucket.start(digest, MOST, 1 << 20) == (data + bytes(1 << 20))[: 64 << 10]
    assert Registry(bucket).header(digest, "neon").kind == "lora"
    assert not bucket.has(digest)


def test_s3_by_the_usual_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manifest: Manifest) -> None:
    with s3_server() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        settings = Settings(tmp_path, f"s3://{BUCKET}/adapters/", registry_cache=tmp_path / "cache")
        shelf, store = shelf_of(settings), Store.at(f"s3://{BUCKET}")
        data = toy.adapter_bytes(2)
        digest = hashlib.sha256(data).hexdigest()
        obstore.put(store._store, f"adapters/objects/{digest}.safetensors", data)
        obstore.put(store._store, "adapters/names/neon.json", json.dumps({"digest": digest}).encode())
        registry = Registry(shelf)
        assert registry.names() == ["neon"]
        assert isinstance(registry.load(registry.look_up("neon").digest, "neon", manifest), Adapter)
        with pytest.raises(NotFound, match="no adapter 'neo'; did you mean 'neon'"):
            registry.look_up("neo")


@pytest.mark.parametrize(
    "address", ["s3://", "s3//bucket/styles", "s3:/bucket", "ftp://host/path", "az://container/path"]
)
def test_an_address_that_is_none(address: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="^registry: .* can't be opened .*; pass s3://BUCKET/PREFIX"):
        shelf_of(Settings(tmp_path, place_of(address)))


def test_obstore_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(SetupError, match=r"registry: s3://styles needs obstore, .* pip install 'impasto\[store\]'"):
        shelf_of(Settings(tmp_path, "s3://styles"))
    assert shelf_of(Settings(tmp_path, tmp_path)).names() == []


@pytest.mark.parametrize(
    ("address", "environment", "plain"),
    [
        ("s3://styles", {}, False),
        ("s3://styles", {"AWS_ENDPOINT_URL": "http://minio:9000"}, True),
        ("s3://styles", {"AWS_ENDPOINT_URL": "https://minio:9000"}, False),
        ("s3://styles", {"AWS_ALLOW_HTTP": "true"}, True),
        ("https://host/styles", {}, False),
        ("http://host/styles", {}, True),
    ],
)
def test_unencrypted_only_where_the_operator_says_so(address: str, environment: dict[str, str], plain: bool) -> None:
    assert allows_http(address, environment) == plain
