"""A folder with photos, and the command line run in it, without a server."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from impasto_client import FakeTransport, cli
from impasto_client.connection import Connection

COMMANDS = {
    "generate": "impasto_client.commands:generate",
    "stylize": "impasto_client.stylize:stylize",
    "sheet": "impasto_client.sheet:sheet",
    "show": "impasto_client.show:show",
    "reproduce": "impasto_client.reproduce:reproduce",
}
PHOTOS = ("boat.jpg", "album/a.png", "album/b.JPG", "album/c.webp", "album/inner/d.png", "painting.jpg")


def furnish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change into the folder, and write photos of 24 x 16, an album, masks, a painting, a folder without photos."""
    found = [EntryPoint(name, value, cli.GROUP) for name, value in COMMANDS.items()]
    monkeypatch.setattr(cli, "entry_points", lambda group: found if group == cli.GROUP else [])
    monkeypatch.chdir(folder)
    Path("album/inner").mkdir(parents=True)
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("no photo")
    for name in PHOTOS:
        Image.linear_gradient("L").resize((24, 16)).convert("RGB").save(name)
    for name in ("sky.png", "sea.png"):
        Image.new("L", (24, 16), 255).save(name)


def impasto(*args: str | Path, fake: FakeTransport | None = None) -> Result:
    connection = Connection(lambda url: fake or FakeTransport())
    return CliRunner().invoke(cli.app, [str(arg) for arg in args], obj=connection, prog_name="impasto")


def words_of(text: str) -> str:
    """The text on one line, without colours and boxes, which depend on the terminal."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│─╭╮╰╯]", "", text).split())


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())
