"""Every module of what ships says what it is: its docstring begins with one plain sentence."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ("server/impasto_server", "export/impasto_export", "export/impasto_fit", "clients/impasto_client", "model_repository")
MOST_WORDS = 25
MODULES = [str(path.relative_to(ROOT)) for folder in SHIPPED for path in sorted((ROOT / folder).rglob("*.py"))]


def wrong(source: str) -> str:
    """What is wrong with how a module begins; "" where nothing is."""
    docstring = ast.get_docstring(ast.parse(source))
    if not docstring:
        return "has no docstring"
    first = " ".join(docstring.partition("\n\n")[0].split())
    sentence = re.match(r".+?[.:?](?=$| [^a-z])", first)
    if sentence is None:
        return f"has no sentence in {first!r}"
    words = len(sentence[0].split())
    return f"begins with {words} words" if words > MOST_WORDS else ""


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is(name: str) -> None:
    assert not wrong((ROOT / name).read_text())


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import os", "has no docstring"),
        ('"""no stop"""', "has no sentence in 'no stop'"),
        (f'"""{"word " * 26}end."""', "begins with 27 words"),
        ('"""The bank: pages of factors.\n\nMore of it"""', ""),
    ],
)
def test_what_is_wrong_with_a_module(source: str, problem: str) -> None:
    assert wrong(source) == problem
