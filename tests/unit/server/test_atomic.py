"""A file is there whole, or what was there before is."""

from __future__ import annotations

from pathlib import Path

import pytest

from impasto_server import atomic


def test_a_new_file_takes_the_old_ones_place(tmp_path: Path) -> None:
    target = tmp_path / "spec.json"
    for data in (b"old", b"new"):
        atomic.write(target, data)
        assert target.read_bytes() == data
    assert list(tmp_path.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o644


def test_what_was_not_finished_was_never_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError("no space left")

    target = tmp_path / "spec.json"
    atomic.write(target, b"old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        atomic.write(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
