"""The sheet of a content in several styles: what is asked for, and how rows are called."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from impasto_client import ConnectError, FakeTransport, cli
from impasto_client.catalogue import Adapter
from impasto_client.composition import SHARED, Wish, labels_of, row_of, wishes_of
from impasto_client.connection import Connection
from impasto_client.example import EXAMPLE
from impasto_client.fields import TABLE
from impasto_client.wire import Tensors

GLASS = Adapter(
    name="glass",
    digest="0" * 64,
    kind="bottleneck",
    family="masked",
    trigger="",
    prompt="{context} in stained glass style",
    rank=4,
    stages=1,
    adapts=(),
    fits=("fake",),
)
CATALOGUE = replace(EXAMPLE, adapters=(GLASS, replace(GLASS, name="toy", prompt="")))


@pytest.fixture(autouse=True)
def _command(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [EntryPoint("compose", "impasto_client.composition:compose", cli.GROUP)]
    monkeypatch.setattr(cli, "entry_points", lambda group: found)


def impasto(*args: str, fake: FakeTransport) -> Result:
    return CliRunner().invoke(cli.app, ["compose", *args], obj=Connection(lambda url: fake), prog_name="impasto")


def said(request: Tensors) -> dict[str, Any]:
    names = ("PROMPT", "GUIDANCE", "STYLE", "CONTENT", "GAMMA", "SEED", "STYLE_STRENGTH")
    return {name: request[name].tolist()[0] for name in names if name in request}


def test_a_row_is_the_style_then_the_content_then_both(tmp_path: Path) -> None:
    fake, out = FakeTransport(catalogue=CATALOGUE), tmp_path / "sheet.png"
    words = ["--style", "glass", "--content", "toy", "--prompt", "a rocket", "--style-prompt", "a boat"]
    result = impasto(*words, "--gamma", "0.25", "--style-strength", "2", "--seed", "3", "--out", str(out), fake=fake)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out)
    alone = {"GUIDANCE": b"styledrop", "SEED": 3, "STYLE_STRENGTH": 2}
    composed = {"GUIDANCE": b"styledrop-compose", "STYLE": b"glass", "CONTENT": b"toy", "GAMMA": 0.25}
    expected = [
        {**alone, "PROMPT": b"a boat", "STYLE": b"glass"},
        {**alone, "PROMPT": b"a rocket", "STYLE": b"toy"},
        {**alone, **composed, "PROMPT": b"a rocket"},
    ]
    asked = [said(request) for request in fake.requests]
    assert len(asked) == len(expected)
    assert all(one in asked for one in expected)
    with Image.open(out) as sheet:
        assert sheet.width > 3 * 256 > sheet.height > 256


def test_every_row_has_a_seed_and_words_of_its_own() -> None:
    wishes = wishes_of(["glass", "neon"], ["a red rocket", "a blue rocket"], ["a boat"])
    assert wishes == [Wish("glass", "a red rocket", "a boat"), Wish("neon", "a blue rocket", "a boat")]
    cells = [list(row_of(wish, "toy", [0.5], {}, seed)) for seed, wish in enumerate(wishes)]
    assert [[cell.options["seed"] for cell in row] for row in cells] == [[0] * 3, [1] * 3]


@pytest.mark.parametrize("flag", ["--prompt", "--style-prompt"])
def test_words_are_said_once_or_for_each_style(flag: str) -> None:
    few, one = ["a boat", "a house"], ["a cat"]
    given = (few, one) if flag == "--prompt" else (one, few)
    with pytest.raises(typer.BadParameter, match="2 of them for 3 styles; give one, or one for each style") as error:
        wishes_of(["glass", "neon", "mosaic"], *given)
    assert error.value.param_hint == flag


def test_a_row_says_what_its_style_alone_paints_where_that_is_another_thing() -> None:
    assert Wish("glass", "a rocket", "a rocket").said == ("a rocket",)
    assert Wish("glass", "a rocket", "a house").said == ("a rocket", "style alone: a house")


def test_a_row_is_called_by_its_styles_words() -> None:
    assert labels_of(CATALOGUE, ["glass", "toy", "unknown"]) == ["in stained glass style", "toy", "unknown"]


def test_what_a_sheet_shares_are_options() -> None:
    assert {*SHARED} <= {field.word for field in TABLE.fields if field.flag}


def test_an_error_is_one_line_and_no_sheet(tmp_path: Path) -> None:
    words = ["--style", "glass", "--content", "toy", "--prompt", "a rocket", "--out", str(tmp_path / "sheet.png")]
    result = impasto(*words, fake=FakeTransport(error=ConnectError("nothing answers")))
    assert (result.exit_code, list(tmp_path.iterdir())) == (1, [])
    assert "nothing answers" in result.stderr
