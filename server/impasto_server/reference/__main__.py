"""`python -m impasto_server.reference`: write the files of a checkout that come from the table of fields."""

from __future__ import annotations

from pathlib import Path

from impasto_server.reference.files import generated

ROOT = Path(__file__).parents[3]

if __name__ == "__main__":
    for name, text in generated(ROOT).items():
        (ROOT / name).write_text(text)
        print(name)
