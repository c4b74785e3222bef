"""A registry in an object store, by its functions and through the commands."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore
from typer.testing import CliRunner

from impasto_export import cli
from impasto_export.adapters import bucket as buckets
from impasto_export.adapters.bucket import Bucket
from impasto_export.adapters.check import problems
from impasto_export.cli.printed import registry_in
from impasto_export.errors import RegistryError, StoreError
from impasto_export.stores import About, Store
from tests.helpers.stores import BUCKET, S3, WebStore, s3_server, web_store
from tests.unit.export.test_registry import adapter

DAY = timedelta(days=1)


@pytest.fixture
def memory() -> Store:
    return Store("memory://", MemoryStore())


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as found:
        yield found


@pytest.fixture
def address(s3: S3, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A place of the test's own in an S3."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}/adapters"


def objects(store: Store) -> list[str]:
    return sorted(file.removesuffix(".safetensors") for file in store.names("objects"))


def test_names_are_pointers_to_content(address: str) -> None:
    registry = Bucket(Store.at(address))
    first, second = registry.put("one", adapter(1), "ink.safetensors"), registry.put("two", adapter(1))
    assert first == second
    assert objects(registry.store) == [first]
    assert registry.names() == ["one", "two"]
    assert registry.holds("one")
    assert not registry.holds("three")
    assert registry.show("one").record["rank"] == 2
    assert problems(registry, "one") == []
    third = registry.put("one", adapter(2))
    assert registry.show("one").digest == third != first


def test_what_is_there_is_not_sent_again(memory: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, sent = Bucket(memory), list[str]()
    put = obstore.put

    def noted(store: MemoryStore, path: str, *args: Any, **named: Any) -> Any:
        sent.append(path.partition("/")[0])
        return put(store, path, *args, **named)

    monkeypatch.setattr(obstore, "put", noted)
    registry.put("one", adapter(1))
    assert sent == ["objects", "names"]
    registry.put("two", adapter(1))
    assert sent == ["objects", "names", "names"]


def test_a_half_written_object_is_written_again(memory: Store) -> None:
    registry, digest = Bucket(memory), hashlib.sha256(adapter(1)).hexdigest()
    obstore.put(memory.store, f"objects/{digest}.safetensors", adapter(1)[:-4])
    registry.put("one", adapter(1))
    assert problems(registry, "one") == []


def meanwhile(registry: Bucket, monkeypatch: pytest.MonkeyPatch, *others: Callable[[], object]) -> None:
    """Have others write just before each of the registry's own writes of a name."""
    waiting, put = list(others), Store.put

    def late(store: Store, path: str, data: Any, seen: About | None = None, new: bool = False) -> None:
        if path.startswith("names/") and waiting:
            waiting.pop(0)()
        put(store, path, data, seen, new)

    monkeypatch.setattr(Store, "put", late)


def test_a_name_that_another_writer_points_elsewhere_is_left_at_that(
    memory: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, other = Bucket(memory), Bucket(memory)
    for before in (None, adapter(1)):
        if before is not None:
            registry.put("ink", before)
        with monkeypatch.context() as patch:
            meanwhile(registry, patch, lambda: other.put("ink", adapter(2)))
            with pytest.raises(
                RegistryError, match="another writer has pointed 'ink' to .* meanwhile, so it was left at"
            ):
                registry.put("ink", adapter(3))
        assert registry.show("ink").digest == hashlib.sha256(adapter(2)).hexdigest()
        registry.remove("ink")


def test_a_write_that_is_still_right_is_tried_again(memory: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, other = Bucket(memory), Bucket(memory)
    registry.put("ink", adapter(1))
    with monkeypatch.context() as patch:  # written anew, but the same; then removed
        meanwhile(registry, patch, lambda: other.put("ink", adapter(1), "again"), lambda: other.remove("ink"))
        digest = registry.put("ink", adapter(3))
    assert registry.show("ink").digest == digest
    with monkeypatch.context() as patch:  # both write the same
        meanwhile(registry, patch, lambda: other.put("ink", adapter(4)))
        registry.put("ink", adapter(4))


def test_of_two_writers_of_a_new_name_one_is_told(address: str) -> None:
    """At the same time, against an S3: as many as think so have written, and the name has what one of them wrote."""

    def write(number: int) -> str:
        try:
            return Bucket(Store.at(address)).put("ink", adapter(number), new=True)
        except RegistryError as error:
            return str(error)

    with ThreadPoolExecutor(4) as threads:
        told = sorted(threads.map(write, range(4)))
    taken = "'ink' is taken; choose another name, or import without --new"
    assert told == sorted([Bucket(Store.at(address)).show("ink").digest, *[taken] * 3])


def test_a_removal_leaves_objects_to_the_sweep(memory: Store) -> None:
    registry = Bucket(memory)
    shared, alone = registry.put("one", adapter(1)), registry.put("three", adapter(3))
    registry.put("two", adapter(1))
    assert registry.remove("one") == shared
    assert registry.remove("three") == alone
    assert registry.sweep(DAY) == []
    assert registry.sweep(-DAY) == [alone]
    assert objects(memory) == [shared]
    assert problems(registry, "two") == []
    with pytest.raises(RegistryError, match="no adapter named 'one' in memory://; did you mean|known: two"):
        registry.remove("one")


def test_what_is_old_is_written_anew_before_a_name_points_to_it(memory: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a sweep that is under way could take it in between."""
    registry = Bucket(memory)
    digest = registry.put("one", adapter(1))
    about = memory.about(f"objects/{digest}.safetensors")
    assert about is not None
    old = replace(about, written=datetime.now(UTC) - buckets.YOUNG)
    written = list[str]()
    monkeypatch.setattr(Store, "about", lambda self, path: old)
    monkeypatch.setattr(Store, "put", lambda self, path, *args, **named: written.append(path))
    registry.put("two", adapter(1))
    assert written.count(f"objects/{digest}.safetensors") == 2


def test_a_sweep_does_not_guess_what_a_damaged_name_meant(memory: Store) -> None:
    registry = Bucket(memory)
    registry.put("one", adapter(1))
    obstore.put(memory.store, "names/one.json", b"{")
    with pytest.raises(RegistryError, match="memory://.*one.json is damaged; import the adapter again"):
        registry.sweep(-DAY)
    assert registry.put("one", adapter(1))
    assert problems(registry, "one") == []


def test_a_sweep_tells_what_it_lost(memory: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Bucket(memory)
    digest = registry.put("one", adapter(1))
    registry.remove("one")
    pointer, delete = json.dumps({"digest": digest}).encode(), Store.delete

    def named_meanwhile(store: Store, path: str) -> None:
        obstore.put(memory.store, "names/ink.json", pointer)
        delete(store, path)

    monkeypatch.setattr(Store, "delete", named_meanwhile)
    with pytest.raises(RegistryError, match="ink got the adapter of a deleted object .*; import it again"):
        registry.sweep(-DAY)


def test_damaged_and_lost_objects(memory: Store) -> None:
    registry = Bucket(memory)
    digest = registry.put("one", adapter(1))
    obstore.put(memory.store, f"objects/{digest}.safetensors", adapter(2))
    assert [problem.partition(": ")[2] for problem in problems(registry, "one")] == [
        "its bytes do not match its digest; import the adapter again"
    ]
    obstore.put(memory.store, f"objects/{digest}.safetensors", adapter(1)[:-4])
    with pytest.raises(RegistryError, match="an object is damaged; import the adapter again: .* is cut short"):
        registry.show("one")
    memory.delete(f"objects/{digest}.safetensors")
    with pytest.raises(RegistryError, match="is missing; import the adapter again"):
        registry.show("one")


def test_a_long_header_is_read_whole_and_nothing_else(memory: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Bucket(memory)
    registry.put("one", adapter(1))
    monkeypatch.setattr(buckets, "FIRST", 9)
    monkeypatch.setattr(Store, "stream", lambda *args: pytest.fail("read whole"))
    assert registry.show("one").record["rank"] == 2


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.adapters, list(words))
    return result.exit_code, result.stdout, result.stderr


def test_the_commands_work_on_a_store(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("list", f"--registry={address}") == (0, "\n", "")
    digest = Bucket(Store.at(address)).put("ink", adapter(1))
    monkeypatch.setenv("IMPASTO_REGISTRY", address)
    assert run("list") == (0, f"ink  {digest[:12]}  rank 2, 1 sites\n", "")
    status, out, _ = run("show", "ink", "--json")
    assert (status, json.loads(out)["digest"]) == (0, digest)
    assert run("check", "ink") == (0, "ink: ok\n", "")
    assert run("rm", "ink") == (0, "removed ink\n", "")
    assert run("sweep") == (0, "0 deleted\n", "")
    assert run("show", "ink") == (1, "", f"error: no adapter named 'ink' in {address}; known: none\n")


def test_a_web_server_can_only_be_read() -> None:
    with web_store() as web:
        digest = fill(web, "ink", adapter(1))
        status, out, _ = run("show", "ink", "--json", f"--registry={web.address}")
        assert (status, json.loads(out)["digest"]) == (0, digest)
        assert run("check", "ink", f"--registry={web.address}") == (0, "ink: ok\n", "")
        for command in (("rm", "ink"), ("sweep",)):
            status, _, told = run(*command, f"--registry={web.address}")
            assert status == 1
            assert told.startswith(f"error: {web.address} can only be read, since it is a web server's; write through")
        with pytest.raises(StoreError, match="can only be read"):
            Bucket(Store.at(web.address)).put("ink", adapter(2))
        assert run("show", "nein", f"--registry={web.address}")[0] == 1


def fill(web: WebStore, name: str, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    web.files[f"objects/{digest}.safetensors"] = data
    web.files[f"names/{name}.json"] = json.dumps({"digest": digest}).encode()
    return digest


def test_a_store_that_is_not_there_or_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with web_store() as web:
        web.mode = "forbids"
        status, _, told = run("show", "ink", f"--registry={web.address}")
        assert status == 1
        assert "the store refuses this" in told
        assert "check the credentials in the environment, and what they may do" in told
    status, _, told = run("show", "ink", "--registry=s3://")
    assert told.startswith("error: s3:// can't be opened")
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    assert run("list", "--registry=s3://styles")[2] == (
        "error: s3://styles needs obstore, which isn't installed; install it with pip install 'impasto[store]', "
        "or pass a folder\n"
    )


def test_a_folder_is_swept_too(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / f"{'0' * 64}.safetensors").write_bytes(b"")
    assert run("sweep", f"--registry={tmp_path}") == (0, "0 deleted\n", "")

    os.utime(tmp_path / "objects" / f"{'0' * 64}.safetensors", (0, 0))
    assert run("sweep", f"--registry={tmp_path}") == (0, f"deleted {'0' * 12}\n1 deleted\n", "")


@pytest.mark.parametrize(
    "place", ["s3//bucket/styles", "s3:/bucket/styles", "s3:bucket", "http//host/styles", "s4://bucket"]
)
def test_a_mistyped_address_is_no_folder(place: str) -> None:
    """Adapters that are imported into ./s3/bucket would be found by no server."""
    with pytest.raises(StoreError, match=r"can't be opened .*; pass s3://BUCKET/PREFIX"):
        registry_in(place)
