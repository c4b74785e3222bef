"""What every example has: words that say what it is, a place in the documents, commands that exist, light imports."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from impasto_client.cli import app
from tests.unit.test_imports import CLIENT_MAY, imported

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "examples.md").read_text()
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
WORDS = {path.name: ast.get_docstring(ast.parse(path.read_text())) or "" for path in EXAMPLES}
# A line of a docstring or of a block; a line that ends in a backslash goes on in the next one.
COMMANDS = sorted(
    line
    for text in (PAGE, *WORDS.values())
    for line in re.findall(r"^((?:impasto|python) .*)$", text.replace("\\\n", ""), re.MULTILINE)
)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_said_what_it_is_and_how_it_is_run(path: Path) -> None:
    assert f"(examples/{path.name})" in PAGE
    assert f"python docs/examples/{path.name}" in PAGE
    assert f"python docs/examples/{path.name}" in WORDS[path.name]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_needs_no_more_than_a_client(path: Path) -> None:
    others = {"impasto_gateway"} if path.stem == "checks" else set()  # it is called by one
    assert set(imported(path.read_text())) <= CLIENT_MAY | others | set(sys.stdlib_module_names)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_and_their_options_exist(line: str) -> None:
    """Of `impasto serve … -- COMMAND` both."""
    words = shlex.split(line)
    if words[0] == "impasto":
        place = words.index("--")
        group: Any = get_command(app)
        _, command, options = group.resolve_command(group.make_context("impasto", words[1:place]), words[1:place])
        assert flags(options) <= {option for parameter in command.params for option in parameter.opts}
        words = words[place + 1 :]
    assert words[0] == "python"
    usage = subprocess.run([sys.executable, words[1], "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert flags(words) <= set(re.findall(r"--[a-z-]+", usage.stdout.partition("options:")[2]))


def flags(words: list[str]) -> set[str]:
    return {word for word in words if word.startswith("--")}
