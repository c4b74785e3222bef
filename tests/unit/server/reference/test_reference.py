"""What is generated is what the table says; and another rule, and another field, is one entry."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from impasto_client.arguments import with_options
from impasto_client.encoding import encoded
from impasto_client.field import Table
from impasto_client.options import NamedGuidance
from impasto_client.words import options_of
from impasto_server.bundle import Manifest
from impasto_server.errors import InvalidArgument
from impasto_server.families.offers import OFFERS
from impasto_server.fields import Number, Option, Whole, given
from impasto_server.guidance import RULES, Guidance, Lane, Mixes, Need, Prompts, Rule
from impasto_server.offer import FamilyOffer, Offer, parse
from impasto_server.reference import client
from impasto_server.reference.book import Book
from impasto_server.reference.files import generated

ROOT = Path(__file__).parents[4]
HOLDING_TEMPERATURE = 4  # files, without those that are generated


@pytest.mark.parametrize("name", generated(ROOT))
def test_what_is_generated_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text() == generated(ROOT)[name], "run `python -m impasto_server.reference`"
    assert "enerated" in (ROOT / name).read_text()


def test_the_command_writes_what_is_there() -> None:
    before = {name: (ROOT / name).read_text() for name in generated(ROOT)}
    ran = subprocess.run([sys.executable, "-m", "impasto_server.reference"], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == list(before)
    assert {name: (ROOT / name).read_text() for name in before} == before


def test_a_familys_own_field_stands_in_few_files() -> None:
    """It stood in twelve: a family's own is in its folder."""
    places = ["server", "clients", "export", "model_repository"]
    found = subprocess.run(
        ["git", "grep", "-l", "TEMPERATURE", "--", *places], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert len({*found.stdout.split()} - {*generated(ROOT)}) <= HOLDING_TEMPERATURE


@dataclass(frozen=True)
class Pull(Rule):
    """A rule of one strength, which wants a style."""

    name: ClassVar[str] = "pull"
    about: ClassVar[str] = "away from the null"
    kin: ClassVar[str] = "Pull"
    needs: ClassVar[tuple[Need, ...]] = (Need(("STYLE",), "name an embedding"),)

    pull: float = given(Number("PULL", "How hard.", 1.5, option=Option(flag="With pull: how hard."), low=0.0, high=9.0))

    def __call__(self, prompts: Prompts, mixes: Mixes) -> Guidance:
        return Guidance.over((self.pull, 1, Lane(prompts.full, mixes.full)))


SHARPNESS = Whole("SHARPNESS", "How sharp.", option=Option("how sharp, 0 to 9.", "How sharp."), high=9)
TOY = FamilyOffer(
    "toy", ("once",), {"SCHEDULER": "once", "STEPS": 1, "SHARPNESS": 3}, own=(SHARPNESS,), unknown=("NEGATIVE_PROMPT",)
)
BOOK = Book((*RULES, Pull), (*OFFERS.values(), TOY))
WORDS = [b"a boat"]


@pytest.fixture
def offer(manifest: Manifest) -> Offer:
    return Offer.of(TOY, manifest, BOOK.rules)


@pytest.fixture(scope="module")
def table() -> Table:
    names: dict[str, Any] = {}
    exec(client.written(BOOK), names)
    found: Table = names["TABLE"]
    return found


def sent(**values: Any) -> dict[str, Any]:
    return {"PROMPT": np.array(WORDS, np.object_), **{name: np.array(value) for name, value in values.items()}}


def pulled(**values: Any) -> dict[str, Any]:
    return sent(GUIDANCE=np.array([b"pull"], np.object_), STYLE=np.array([b"oil"], np.object_), **values)


def test_both_are_parsed(offer: Offer) -> None:
    request = parse(pulled(PULL=np.array([2.5], np.float32), SHARPNESS=np.array([7], np.int32)), offer, BOOK.inputs)
    assert (request.rule, request.own) == (Pull(2.5), {"SHARPNESS": 7})
    usual = parse(pulled(), offer, BOOK.inputs)
    assert (usual.rule, usual.own, usual.sampling.steps) == (Pull(1.5), {"SHARPNESS": 3}, 1)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (pulled(PULL=np.array([9.5], np.float32)), "PULL: 9.5 is out of range; pass a finite number from 0 to 9"),
        (
            sent(PULL=np.array([1], np.float32)),
            "PULL: means nothing to GUIDANCE cfg; leave it out, or pass GUIDANCE pull",
        ),
        (sent(GUIDANCE=np.array([b"pull"], np.object_)), "STYLE: is missing, and GUIDANCE pull needs it; name an emb"),
        (sent(SHARPNESS=np.array([10], np.int32)), "SHARPNESS: 10 is out of range; pass 0 to 9"),
        (sent(NEGATIVE_PROMPT=np.array([b"x"], np.object_)), "NEGATIVE_PROMPT: means nothing to a toy backbone"),
        (sent(TEMPERATURE=np.array([1], np.float32)), "TEMPERATURE: means nothing to a toy backbone; leave it out"),
    ],
)
def test_both_are_checked(tensors: Mapping[str, Any], message: str, offer: Offer) -> None:
    with pytest.raises(InvalidArgument, match=f"^{re.escape(message)}"):
        parse(tensors, offer, BOOK.inputs)


def test_both_stand_in_what_is_generated() -> None:
    found = generated(ROOT, BOOK)
    for name in ("model_repository/stylize/config.pbtxt", "model_repository/stylize_stream/config.pbtxt"):
        assert (
            '  # pull: How hard. Allowed: 0 to 9. Default: 1.5.\n  { name: "PULL" data_type: TYPE_FP32' in found[name]
        )
        assert "  # How sharp. Allowed: 0 to 9. Only for toy bundles. Default: 3.\n" in found[name]
    assert "| `pull` | away from the null | `PULL` | embedding |" in found["docs/wire.md"]
    assert "`SHARPNESS`, optional | INT32 | `[1]` | How sharp." in found["docs/wire.md"]
    assert "    sharpness: how sharp, 0 to 9.\n" in found["clients/impasto_client/fields.py"]


def test_both_are_encoded(table: Table) -> None:
    words = {"sharpness": 7, "guidance": NamedGuidance("pull", {"pull": 2.5})}
    assert {name: tensor.tolist() for name, tensor in encoded(words, table).items()} == {
        "GUIDANCE": [b"pull"],
        "PULL": [2.5],
        "SHARPNESS": [7],
    }


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("--sharpness 7", {"sharpness": 7}),
        ("--pull 2.5", {"guidance": NamedGuidance("pull", {"pull": 2.5})}),
        ("--guidance pull", {"guidance": NamedGuidance("pull")}),
    ],
)
def test_both_are_on_the_command_line(words: str, options: Mapping[str, Any], table: Table) -> None:
    heard: list[Mapping[str, Any]] = []

    def command(prompt: Annotated[str, typer.Argument()], said: Mapping[str, Any]) -> None:
        heard.append(options_of(said, table))

    app = typer.Typer()
    app.command()(with_options(table)(command))
    ran = CliRunner().invoke(app, ["a boat", *words.split()])
    assert ran.exit_code == 0, ran.output
    assert heard == [options]
    assert "How sharp." in CliRunner().invoke(app, ["--help"]).output
