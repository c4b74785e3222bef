from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from impasto_server.adapters.access import Attempt
from impasto_server.adapters.adapter import MAX_PLACES, MAX_STAGES, Adapter, Embedding, heaviest
from impasto_server.adapters.form import MAX_RANK
from impasto_server.adapters.registry import MAX_COMPARED, Registry
from impasto_server.bundle import Manifest
from impasto_server.errors import InvalidArgument, NotFound
from tests.helpers import toy


def test_a_name_is_resolved_anew_each_time(registry: Path) -> None:
    names = Registry(registry)
    before = names.look_up("neon").digest
    after = toy.register(registry, "neon", toy.adapter_bytes(9))
    assert names.look_up("neon").digest == after != before


def test_an_unknown_name_is_answered_with_the_nearest(registry: Path) -> None:
    with pytest.raises(NotFound, match=r"^ADAPTER_NAMES: no adapter 'staned-glass'; did you mean 'stained-glass'"):
        Registry(registry).look_up("staned-glass")


def test_a_name_as_long_as_a_book_is_not_repeated(registry: Path) -> None:
    with pytest.raises(NotFound, match=f"no adapter '{64 * 'x'}…'; known: "):
        Registry(registry).look_up("x" * 8000)


def test_a_registry_that_is_gone_is_told(registry: Path) -> None:
    registry.rename(registry.with_name("away"))
    with pytest.raises(
        NotFound, match="^ADAPTER_NAMES: no adapter 'neon'; the server's registry is empty or missing; fill it with"
    ):
        Registry(registry).look_up("neon")


@pytest.mark.parametrize(
    "pointer", [b"", b"{", b"\xff\xfe", b"{}", b"[]", b"7", b'{"digest": 5}', b'{"digest": "../../neon"}']
)
def test_a_damaged_pointer_is_told(pointer: bytes, registry: Path) -> None:
    (registry / "names" / "neon.json").write_bytes(pointer)
    said = "adapter 'neon' can't be used: its name in the registry doesn't point to a digest; import it again"
    with pytest.raises(InvalidArgument, match=said):
        Registry(registry).look_up("neon")


def test_an_object_that_cannot_be_read_is_told(registry: Path, manifest: Manifest) -> None:
    digest = Registry(registry).look_up("neon").digest
    broken = registry / "objects" / f"{digest}.safetensors"
    broken.unlink()
    with pytest.raises(NotFound, match="adapter 'neon' points to an object that isn't in the registry"):
        Registry(registry).load(digest, "neon", manifest)
    broken.mkdir()
    with pytest.raises(InvalidArgument, match=r"its file can't be read \(Is a directory\); import it again"):
        Registry(registry).load(digest, "neon", manifest)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "UPPER", "a/b", "neon\n"])
def test_a_name_cannot_leave_the_registry(name: str, registry: Path) -> None:
    with pytest.raises(NotFound):
        Registry(registry).look_up(name)


def test_bytes_that_belie_their_digest_are_refused(registry: Path, manifest: Manifest) -> None:
    digest = Registry(registry).look_up("neon").digest
    (registry / "objects" / f"{digest}.safetensors").write_bytes(toy.adapter_bytes(7))
    with pytest.raises(InvalidArgument, match="digest"):
        Registry(registry).load(digest, "neon", manifest)


def test_names_that_are_links_are_followed(registry: Path) -> None:
    """As a folder that is put together of other volumes' files has them."""
    (registry / "names" / "neon.json").rename(registry / "elsewhere")
    (registry / "names" / "neon.json").symlink_to(registry / "elsewhere")
    (registry / "names" / "lost.json").symlink_to(registry / "nowhere")
    assert Registry(registry).look_up("neon").digest
    with pytest.raises(NotFound):
        Registry(registry).look_up("lost")


def emptied(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def inflated(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(6 << 30)


def nested(path: Path) -> None:
    path.write_bytes(b"[" * 4096)


Spoilt = Callable[[Path], None]


@pytest.mark.parametrize("spoilt", [emptied, inflated, nested])
def test_a_name_that_is_no_small_file_is_refused_unread(spoilt: Spoilt, registry: Path) -> None:
    spoilt(registry / "names" / "neon.json")
    with pytest.raises(
        InvalidArgument, match="^ADAPTER_NAMES: adapter 'neon' can't be used: its name in the registry doesn't"
    ):
        Registry(registry).look_up("neon")


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        (emptied, "its file is not a regular file"),
        (inflated, "its file has 6442450944 bytes, more than the [0-9]+ that it can need"),
    ],
)
def test_an_object_that_is_no_file_of_an_adapters_size_is_refused_unread(
    spoilt: Spoilt, why: str, registry: Path, manifest: Manifest
) -> None:
    digest = Registry(registry).look_up("neon").digest
    spoilt(registry / "objects" / f"{digest}.safetensors")
    tracemalloc.start()
    with pytest.raises(InvalidArgument, match=f"^ADAPTER_NAMES: adapter 'neon' can't be used: {why}; import it again"):
        Registry(registry, 16 << 30).load(digest, "neon", manifest)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_a_large_one_of_another_family_is_told_of_that(registry: Path, manifest: Manifest) -> None:
    """Its size is no fault: to import it again would not help."""
    data = toy.adapter_bytes(1, header={"family": "masked"})
    digest = toy.register(registry, "huge", data + bytes(heaviest(manifest)))
    with pytest.raises(InvalidArgument, match="adapter 'huge' is for a masked backbone, but '.*' is diffusion"):
        Registry(registry, 16 << 30).load(digest, "huge", manifest)


def test_what_changes_weights_is_bounded_by_them(registry: Path, manifest: Manifest) -> None:
    header = json.dumps({"format": 1, "kind": "delta", "family": "diffusion", "architecture": toy.ARCHITECTURE})
    text = json.dumps({"__metadata__": {"impasto": header}})
    digest = toy.register(registry, "delta", len(text).to_bytes(8, "little") + text.encode())
    inflated(registry / "objects" / f"{digest}.safetensors")
    with pytest.raises(InvalidArgument, match="its file has 6442450944 bytes, more than the 2000000"):
        Registry(registry, 2_000_000).load(digest, "delta", manifest)


def test_the_largest_adapters_that_a_backbone_can_take_are_read(registry: Path, manifest: Manifest) -> None:
    lora = toy.adapter_bytes(1, MAX_RANK, text_encoder=True)
    embedding = toy.embedding_bytes(2, MAX_STAGES, MAX_PLACES)
    kinds = (("lora", lora, Adapter), ("embedding", embedding, Embedding))
    for name, data, kind in kinds:
        assert len(data) <= heaviest(manifest)
        assert isinstance(Registry(registry).load(toy.register(registry, name, data), name, manifest), kind)


def test_whoever_reads_tells_of_every_part(registry: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(Attempt, "moved", lambda self: told.append("moved"))
    monkeypatch.setattr(Attempt, "read", lambda self: told.append("read"))
    monkeypatch.setattr("impasto_server.adapters.registry.MAX_HEADER", 1 << 10)
    monkeypatch.setattr("impasto_server.adapters.registry.CHUNK", 1 << 10)
    large = toy.adapter_bytes(rank=256)
    Registry(registry).load(toy.register(registry, "large", large), "large", manifest, Attempt())
    assert told == ["moved"] * -(-(len(large) - 8 - 1024) // 1024) + ["read"]


def test_among_very_many_names_the_nearest_of_those_that_begin_alike_is_found(registry: Path) -> None:
    for number in range(2 * MAX_COMPARED):
        (registry / "names" / f"style-{number:05d}.json").touch()
    with pytest.raises(NotFound, match="did you mean 'style-00007'"):
        Registry(registry).look_up("styel-00007")
    with pytest.raises(NotFound, match="did you mean 'stained-glass'"):
        Registry(registry).look_up("staned-glass")
