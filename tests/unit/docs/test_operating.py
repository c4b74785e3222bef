"""The operator's guide and the code agree: variables, metrics, options of `impasto serve`, statuses, exit statuses."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import typer
from benchmarks import bank
from typer.main import get_command

from impasto_server.errors import Code
from impasto_server.ops import commands, tritonserver
from impasto_server.ops.endpoints import Ports
from impasto_server.ops.serve import GRACE_S
from impasto_server.settings import Settings
from impasto_server.stats import COUNTERS, GAUGES, HISTOGRAMS, INFO, INFO_HELP, RESTARTS, RESTARTS_HELP
from tests.helpers.pages import ROOT, page

GUIDE = page("docs/operating.md")
METRICS = {**COUNTERS, **GAUGES, **HISTOGRAMS, INFO: INFO_HELP, RESTARTS: RESTARTS_HELP}
SHIPPED = ("server/impasto_server", "export/impasto_export", "clients/impasto_client", "model_repository")


def texts() -> Iterator[str]:
    """Every string of the packages that is no docstring."""
    for path in (path for folder in SHIPPED for path in (ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        docstrings = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
        for one in ast.walk(tree):
            if isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in docstrings:
                yield one.value


def test_every_variable_and_no_other() -> None:
    said = {name for text in texts() for name in re.findall(r"IMPASTO_[A-Z_]*[A-Z]", text)}
    known = said | Settings(Path("bundle"), Path("registry")).to_env().keys()
    assert {*re.findall(r"IMPASTO_[A-Z_]*[A-Z]", GUIDE.text)} == known


def test_every_metric_and_no_other() -> None:
    assert {*re.findall(r"`impasto_(\w+)`", GUIDE.text)} == METRICS.keys()


def test_every_metric_stands_in_a_table_with_its_meaning() -> None:
    for name, text in METRICS.items():
        assert re.search(
            rf"^\| `impasto_{name}` \| (counter|gauge|histogram) \| {re.escape(text)} \|$", GUIDE.text, re.MULTILINE
        )


def options() -> set[str]:
    """Those of `impasto serve`."""
    app = typer.Typer(add_completion=False)
    app.command()(commands.serve)
    return {name for one in get_command(app).params for name in (*one.opts, *one.secondary_opts) if name[:2] == "--"}


def test_every_option_of_serve() -> None:
    named = {*re.findall(r"(?<![\w-])--[a-z][a-z-]*", GUIDE.text)}
    assert not options() - named - {"--no-triton-http", "--restart"}  # the other halves of what is named


@pytest.mark.parametrize(("option", "default"), [("--grace", GRACE_S), ("--deaths", commands.DEATHS)])
def test_defaults_in_the_text(option: str, default: float) -> None:
    assert re.search(rf"{default:g}[^.|]*\(`{option}`\)|`{option}`[^.|]*\b{default:g}\b", GUIDE.text)


def test_the_ports_are_those_that_are_chosen() -> None:
    found = Ports("127.0.0.1", 8001, 8002, 8000)
    rows = dict(re.findall(r"^\| [^|]*?, (\d+) \| (gRPC|metrics|HTTP)", GUIDE.text, re.MULTILINE))
    assert rows == {str(found.grpc): "gRPC", str(found.metrics): "metrics", str(found.http): "HTTP"}


@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
def test_what_a_page_of_two_stages_takes(kind: str) -> None:
    layout = bank.layout_of("muse-512", 16, "bf16")
    second = replace(layout, sites={"upscaler": layout.sites["upscaler"]})
    whole, part = (one.page_bytes(kind) / bank.MIB for one in (layout, second))
    text = " ".join(GUIDE.text.split())
    assert f"takes {whole:.1f} MiB, of which {part:.1f} are" in text


def test_every_status() -> None:
    section = GUIDE.text.partition("## Statuses")[2]
    assert not [code for code in get_args(Code) if code not in section]


def test_every_exit_status() -> None:
    section = GUIDE.text.partition("## Exit statuses")[2]
    known = {0, 1, 2, commands.GAVE_UP, commands.CUT_OFF, commands.INTERRUPTED}
    assert {int(status) for status in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)} == known


def test_what_is_known_against_releases_of_triton() -> None:
    rows = re.findall(r"^\| ([\d.]+) \((\d+)\.(\d+)\) \| (.*) \|$", GUIDE.text, re.MULTILINE)
    assert [((int(major), int(minor)), image) for image, major, minor, _ in rows] == [
        (release, image) for release, image, _ in tritonserver.CURES
    ]
    for (_, _, what), (_, _, _, said) in zip(tritonserver.CURES[:2], rows, strict=False):
        assert re.findall(r"-\d{4,5}\b", what)[1:] == re.findall(r"-\d{4,5}\b", said)[1:]
