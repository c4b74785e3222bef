"""The tables of the operator's guide that the code decides: variables and metrics. All else in it is people's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from impasto_server.settings import AUTO, Settings
from impasto_server.stats import COUNTERS, GAUGES, HISTOGRAMS, INFO, INFO_HELP, RESTARTS, RESTARTS_HELP

_TABLE = re.compile(r"^<!-- generated: (\w+) -->\n.*?^<!-- end -->\n", re.MULTILINE | re.DOTALL)
_KINDS = (
    ("counter", {**COUNTERS, RESTARTS: RESTARTS_HELP}),
    ("gauge", {**GAUGES, INFO: INFO_HELP}),
    ("histogram", HISTOGRAMS),
)
_REQUIRED = ("bundle", "registry")  # have no default here
_UNSAID = {"bank_bytes": AUTO}  # what None is called


def written(text: str) -> str:
    """The guide `text` with these tables as they are now. Raises KeyError for a table that isn't known."""
    tables = {"variables": _variables(), "metrics": _metrics()}
    return _TABLE.sub(lambda found: f"<!-- generated: {found[1]} -->\n{tables[found[1]]}<!-- end -->\n", text)


def _variables() -> str:
    """One for each setting, with the option of `impasto serve` that sets it."""
    plain = Settings(Path("bundle"), Path("registry")).to_env()
    lines = [
        f"| `IMPASTO_{one.name.upper()}` | `--{one.name.replace('_', '-')}` | {_default(one.name, plain)} |"
        for one in fields(Settings)
    ]
    return "\n".join(["| variable | option | default |", "|---|---|---|", *lines, ""])


def _default(name: str, plain: Mapping[str, str]) -> str:
    value = "" if name in _REQUIRED else plain[f"IMPASTO_{name.upper()}"] or _UNSAID.get(name, "")
    return f"`{value}`" if value else ""


def _metrics() -> str:
    lines = [f"| `impasto_{name}` | {kind} | {text} |" for kind, found in _KINDS for name, text in found.items()]
    return "\n".join(["| metric | kind | what it counts |", "|---|---|---|", *lines, ""])
