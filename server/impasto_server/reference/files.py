"""The generated files of a checkout, each with the text that it should have."""

from __future__ import annotations

from pathlib import Path

from impasto_server.reference import client, commands, configuration, guide, page
from impasto_server.reference.book import Book
from impasto_server.scoring.comparison import FIELDS as SCORED

LIST = "catalogue"  # the model without inputs
GUIDE = "docs/operating.md"


def generated(root: Path, book: Book | None = None) -> dict[str, str]:
    """The files' texts, by path under `root`. What is written by hand in a configuration or in the guide is kept."""
    book = book or Book()
    inputs = {"stylize": book.whole, "stylize_stream": book.inputs, "clip_score": SCORED}
    texts = {
        model: configuration.written(
            _configuration(root, model), inputs[model], _scored if model == "clip_score" else book.help
        )
        for model in inputs
    }
    return {
        **{_path(model): text for model, text in texts.items()},
        "docs/wire.md": page.written(book, SCORED, {**texts, LIST: _configuration(root, LIST)}),
        "docs/commands.md": commands.written(),
        GUIDE: guide.written((root / GUIDE).read_text()),
        "clients/impasto_client/fields.py": client.written(book),
    }


def _path(model: str) -> str:
    return f"model_repository/{model}/config.pbtxt"


def _configuration(root: Path, model: str) -> str:
    return (root / _path(model)).read_text()


def _scored(name: str) -> str:
    return SCORED[name].help
