"""Edit files in folders, and list leftovers."""

from __future__ import annotations

import json
from pathlib import Path


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def leftovers(folder: Path) -> list[str]:
    """Names of drafts, which begin with a dot."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
