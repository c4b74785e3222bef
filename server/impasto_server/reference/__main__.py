"""`python -m impasto_server.reference`: write the files of a checkout that come from the table of fields."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from impasto_server.reference.files import generated

ROOT = Path(__file__).parents[3]

OPTIONS = ROOT / "clients/impasto_client/fields.py"  # this process has imported it, and docs/commands.md tells of it

if __name__ == "__main__":
    texts, options = generated(ROOT), OPTIONS.read_text()
    for name, text in texts.items():
        (ROOT / name).write_text(text)
    if OPTIONS.read_text() != options:
        os.execv(sys.executable, [sys.executable, "-m", "impasto_server.reference"])
    print(*texts, sep="\n")
