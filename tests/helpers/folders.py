"""Folders that tests spoil, and what is left in them."""

from __future__ import annotations

import json
from pathlib import Path


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def leftovers(folder: Path) -> list[str]:
    """Names of what was to be hidden until it is whole."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
