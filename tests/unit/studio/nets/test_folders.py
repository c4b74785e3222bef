from __future__ import annotations

from pathlib import Path

import pytest
from studio.nets.folders import replaced


def fill(folder: Path, text: str) -> None:
    with replaced(folder) as fresh:
        fresh.mkdir()
        (fresh / f"{text}.txt").write_text(text)


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for text in ("one", "other"):
        fill(tmp_path / "model", text)
        assert [path.name for path in (tmp_path / "model").iterdir()] == [f"{text}.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_could_not_be_written_replaces_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "model", "one")
    with pytest.raises(OSError, match="such file"):
        fill(tmp_path / "model", "elsewhere/other")
    assert (tmp_path / "model" / "one.txt").read_text() == "one"
    fill(tmp_path / "model", "other")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
