"""Qt resource files (.rcc): a tree of names over blobs, some of them compressed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

COMPRESSED, FOLDER, ZSTANDARD = 1, 2, 4


@dataclass(frozen=True)
class Resource:
    """The bytes of one .rcc file, and where its three tables begin."""

    content: bytes
    tree: int
    data: int
    names: int
    entry: int

    @classmethod
    def read(cls, path: Path) -> Resource:
        """
        Raises:
            ValueError: this is no resource file.
        """
        content = path.read_bytes()
        if content[:4] != b"qres":
            raise ValueError(f"{path}: it does not begin with `qres`; give a Qt resource file")
        version, tree, data, names = struct.unpack_from(">4I", content, 4)
        return cls(content, tree, data, names, 22 if version >= 2 else 14)

    def walk(self, index: int = 0, path: str = "") -> Iterator[tuple[str, bytes]]:
        """Every file's path and content."""
        at = self.tree + index * self.entry
        flags = struct.unpack_from(">H", self.content, at + 4)[0]
        if flags & FOLDER:
            count, first = struct.unpack_from(">2I", self.content, at + 6)
            for child in range(first, first + count):
                yield from self.walk(child, f"{path}/{self._name(child)}")
        elif not flags & ZSTANDARD:
            yield path, self._blob(struct.unpack_from(">I", self.content, at + 10)[0], bool(flags & COMPRESSED))

    def _name(self, index: int) -> str:
        offset = struct.unpack_from(">I", self.content, self.tree + index * self.entry)[0] + self.names
        length = struct.unpack_from(">H", self.content, offset)[0]
        return self.content[offset + 6 : offset + 6 + 2 * length].decode("utf-16-be")

    def _blob(self, offset: int, compressed: bool) -> bytes:
        start = self.data + offset + 4
        size = struct.unpack_from(">I", self.content, start - 4)[0]
        blob = self.content[start : start + size]
        return zlib.decompress(blob[4:]) if compressed else blob


def files(package: Path, activity: str, pattern: str) -> dict[str, Path]:
    """The files of one of gcompris' activities by name, unpacked beside the package's own once."""
    folder = package / "unpacked" / activity
    if not folder.exists():
        source = package / f"usr/share/gcompris-qt/rcc/{activity}.rcc"
        for path, content in Resource.read(source).walk():
            target = folder / path.rpartition("/resource/")[2].lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    found = sorted(path for path in folder.rglob("*") if fnmatch(str(path.relative_to(folder)), pattern))
    return {path.name: path for path in found}
