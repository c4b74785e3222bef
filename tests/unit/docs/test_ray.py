"""docs/ray.md is true: its table has the application's options, and what it says to run is understood."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

import yaml  # type: ignore[import-untyped]

from impasto_deploy.ray.options import Options
from tests.helpers.pages import page

RAY = page("docs/ray.md")


def row(option: Any) -> str:
    default = "" if option.default in (MISSING, "") else f"`{str(option.default).lower()}`"
    return f"| `{option.name}` | {default} | {option.metadata['help']} |"


def test_the_table_has_the_applications_options() -> None:
    table = RAY.text.partition("## Options")[2].partition("\n## ")[0]
    assert [line for line in table.splitlines() if line.startswith("| `")] == [row(one) for one in fields(Options)]


def test_the_commands_options_are_known() -> None:
    lines = [line for block in RAY.blocks for line in block.text.splitlines() if "app:build" in line and "=" in line]
    assert lines
    for line in lines:
        Options.of(dict(word.split("=", 1) for word in line.split() if "=" in word))


def test_the_file_is_understood() -> None:
    (text,) = [block.text for block in RAY.blocks if block.language == "yaml"]
    (application,) = yaml.safe_load(text)["applications"]
    assert application["import_path"] == "impasto_deploy.ray.app:build"
    assert Options.of(application["args"]).replicas == 4
