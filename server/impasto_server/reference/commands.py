"""The page of the commands: every option with its default, in the words of `--help`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.main import get_command

GROUP = "impasto.commands"
MARK = "<!-- Generated from the commands themselves: `python -m impasto_server.reference`. -->\n"
_HEAD = f"""{MARK}# Commands and options

What `--help` says of every command, on one page. An option without a default may be left out, unless it is required.
What is left out of a request is the server's to choose ([wire reference](wire.md)).
"""
# By package, in the order in which people meet them.
_PARTS = {
    "impasto_server": "Serve",
    "impasto_gateway": "Serve over HTTP",
    "impasto_client": "Ask a server",
    "impasto_export": "Bundles and styles",
    "impasto_fit": "Styles of your own",
}
_COMMON = ("--help", "--install-completion", "--show-completion")
_EXTRA = re.compile(r"^(.*?) {2}\[(.*)\]$", re.DOTALL)


def written() -> str:
    """The page's text."""
    found = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    parts = [_HEAD]
    for package, title in _PARTS.items():
        parts.append(f"## {title}\n")
        for entry in found:
            if entry.value.startswith(f"{package}."):
                parts += _sections(f"impasto {entry.name}", _loaded(entry))
    return "\n".join(parts)


def _loaded(entry: EntryPoint) -> Any:
    """As `impasto` loads it: an entry is a group of commands, or the function of one."""
    target: typer.Typer | Callable[..., None] = entry.load()
    if isinstance(target, typer.Typer):
        return get_command(target)
    alone = typer.Typer(add_completion=False)
    alone.command(entry.name)(target)
    return get_command(alone)


def _sections(name: str, command: Any) -> Iterator[str]:
    """A command's, and those of the commands in it."""
    context = command.make_context(name, [], resilient_parsing=True)
    yield f"### {name}\n\n{command.help}\n"
    records = [record for one in command.get_params(context) if (record := one.get_help_record(context))]
    lines = [_line(*record) for record in records if not record[0].startswith(_COMMON)]
    if lines:
        yield "\n".join(["| option | | default |", "|---|---|---|", *lines, ""])
    for inner, sub in getattr(command, "commands", {}).items():
        yield from _sections(f"{name} {inner}", sub)


def _line(option: str, help: str) -> str:
    found = _EXTRA.match(f"  {help}" if help.startswith("[") else help)
    text, default = (found[1], found[2]) if found else (help, "")
    return f"| `{option.replace('|', ', ')}` | {_cell(text)} | {_cell(default.removeprefix('default: '))} |"


def _cell(text: str) -> str:
    """As a cell of a table holds it, on one line."""
    return " ".join(text.replace("|", "\\|").split())
