"""Benchmarks are started as scripts, `python benchmarks/NAME.py`: what they share is found then, too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from benchmarks.common.bench import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


def first(script: Path, kind: type[ast.stmt], words: str) -> int:
    """The line of the first statement of a kind that has these words; one behind the last where there is none."""
    text = script.read_text()
    lines = [node.lineno for node in ast.parse(text).body if isinstance(node, kind) and words in ast.unparse(node)]
    return min(lines, default=len(text.splitlines()) + 1)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.stem))
def test_the_repository_is_on_the_path_before_anything_of_it_is_imported(script: Path) -> None:
    imported = first(script, ast.ImportFrom, "from benchmarks")
    if imported <= len(script.read_text().splitlines()):
        assert first(script, ast.Expr, "sys.path.insert") < imported
