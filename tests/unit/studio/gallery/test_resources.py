"""Qt's resource files are read as a tree, and an activity's files are unpacked once."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from studio.gallery.resources import Resource, files

COMPRESSED, FOLDER = 1, 2


def rcc(plain: dict[str, bytes], packed: dict[str, bytes]) -> bytes:
    """A resource file, version 1, with the folder `resource` in its root and these files in that."""
    names, data = b"", b""
    offsets: dict[str, int] = {}
    for name in ("resource", *plain, *packed):
        offsets[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    tree = struct.pack(">IHII", 0, FOLDER, 1, 1)
    tree += struct.pack(">IHII", offsets["resource"], FOLDER, len(plain) + len(packed), 2)
    for name, content in (plain | packed).items():
        blob = struct.pack(">I", len(content)) + zlib.compress(content) if name in packed else content
        tree += struct.pack(">IHHHI", offsets[name], COMPRESSED if name in packed else 0, 0, 0, len(data))
        data += struct.pack(">I", len(blob)) + blob
    start = 20
    at = (start, start + len(tree), start + len(tree) + len(data))
    return b"qres" + struct.pack(">4I", 1, *at) + tree + data + names


@pytest.fixture
def package(tmp_path: Path) -> Path:
    home = tmp_path / "usr/share/gcompris-qt/rcc"
    home.mkdir(parents=True)
    (home / "paintings.rcc").write_bytes(rcc({"a.webp": b"one"}, {"b.webp": b"two" * 50, "c.qml": b"three"}))
    return tmp_path


def test_plain_and_compressed_files_are_read(package: Path) -> None:
    found = dict(Resource.read(package / "usr/share/gcompris-qt/rcc/paintings.rcc").walk())
    assert found == {"/resource/a.webp": b"one", "/resource/b.webp": b"two" * 50, "/resource/c.qml": b"three"}


def test_files_of_an_activity_are_unpacked_once(package: Path) -> None:
    found = files(package, "paintings", "*.webp")
    assert {name: path.read_bytes() for name, path in found.items()} == {"a.webp": b"one", "b.webp": b"two" * 50}
    (package / "usr/share/gcompris-qt/rcc/paintings.rcc").unlink()
    assert files(package, "paintings", "*.qml")["c.qml"].read_bytes() == b"three"


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.rcc").write_bytes(b"PK\3\4")
    with pytest.raises(ValueError, match=r"x\.rcc: it does not begin with `qres`; give a Qt resource file"):
        Resource.read(tmp_path / "x.rcc")
