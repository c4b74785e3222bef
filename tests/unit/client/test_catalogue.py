"""What a server has: from JSON to dataclasses, and as `impasto models` shows it."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import asdict, replace
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from impasto_client import (
    AsyncClient,
    AsyncFakeTransport,
    Catalogue,
    Client,
    FakeTransport,
    ProtocolError,
    ServerUnavailable,
    cli,
)
from impasto_client.catalogue import Adapter, Unread, Weighted, decode_catalogue
from impasto_client.connection import Connection
from impasto_client.example import EXAMPLE

PHOTO = replace(EXAMPLE.bundles[0], name="photo", family="diffusion", control=("edges", "depth"))
MUSE = replace(
    PHOTO,
    name="muse",
    family="masked",
    samplers=("maskgit", "amused"),
    pinned=((Weighted("a", "b", 0.5),),),
    stages=("base", "upscale"),
    zoom=2,
)
HAS = Catalogue(
    default="photo",
    bundles=(PHOTO, MUSE),
    adapters=(
        Adapter(
            "glass",
            "d" * 64,
            "bottleneck",
            "masked",
            "",
            "{context} in [glass] style",
            4,
            0,
            ("base", "upscale"),
            ("muse",),
        ),
        Adapter("sks03", "e" * 64, "embedding", "diffusion", "<sks03>", "", 0, 6, (), ("photo", "muse")),
        Adapter("lost", "f" * 64, "lora", "diffusion", "", "", 16, 0, ("base",), ()),
    ),
    unread=(Unread("broken", "adapter 'broken' can't be used: it's truncated"),),
)


def sent(document: Any) -> dict[str, Any]:
    return {"CATALOGUE": np.array([json.dumps(document).encode()], np.object_)}


def test_it_arrives_typed() -> None:
    fake = FakeTransport(catalogue=HAS)
    with Client(transport=fake, timeout=7) as client:
        assert client.catalogue() == HAS
        assert client.catalogue(timeout=2.5) == HAS
    assert fake.timeouts == [7, 2.5]


def test_it_arrives_typed_for_asyncio() -> None:
    async def ask() -> Catalogue:
        async with AsyncClient(transport=AsyncFakeTransport(FakeTransport(catalogue=HAS))) as client:
            return await client.catalogue()

    assert asyncio.run(ask()) == HAS


def test_what_a_newer_server_adds_is_left() -> None:
    document = asdict(HAS) | {"gpus": 8}
    document["bundles"] = [one | {"licence": "MIT"} for one in document["bundles"]]
    assert decode_catalogue(sent(document)) == HAS


def test_a_bundle_that_tells_no_stages_has_one() -> None:
    document = asdict(HAS)
    for bundle in document["bundles"]:
        del bundle["stages"], bundle["zoom"]
    photo, muse = decode_catalogue(sent(document)).bundles
    assert photo == PHOTO
    assert (muse.stages, muse.zoom) == (("base",), 1)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"default": None}, "CATALOGUE.default has the wrong type NoneType"),
        ({"adapters": {}}, "CATALOGUE.adapters has the wrong type dict"),
        ({"bundles": [{"name": "photo"}]}, r"CATALOGUE.bundles\[0\] has no family"),
        ({"unread": [{"name": "x", "problem": True}]}, r"CATALOGUE.unread\[0\].problem has the wrong type bool"),
    ],
)
def test_an_answer_that_is_not_understood_says_where(changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(ProtocolError, match=problem):
        decode_catalogue(sent(asdict(HAS) | changed))


def test_an_answer_that_is_no_json_says_so() -> None:
    with pytest.raises(ProtocolError, match="CATALOGUE is not JSON"):
        decode_catalogue({"CATALOGUE": np.array([b"{"], np.object_)})
    with pytest.raises(ProtocolError, match="no CATALOGUE of type bytes"):
        decode_catalogue({})


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, on a fake."""
    monkeypatch.setenv("COLUMNS", "300")
    entry = EntryPoint("models", "impasto_client.listing:models", cli.GROUP)
    monkeypatch.setattr(cli, "entry_points", lambda group: [entry])

    def run(*args: str, fake: FakeTransport) -> Result:
        connection = Connection(lambda url: fake)
        return CliRunner().invoke(cli.app, ["models", *args], obj=connection, prog_name="impasto")

    return run


def test_the_command_shows_bundles_and_styles_in_tables(models: Any) -> None:
    result = models(fake=FakeTransport(catalogue=HAS))
    assert result.exit_code == 0, result.output
    lines = [re.split(r" {2,}", line.strip()) for line in result.stdout.splitlines()]
    assert ["photo (default)", "diffusion", "128 x 128", "dpmpp_2m", "cfg", "edges, depth"] in lines
    assert ["muse", "masked", "128 x 128 (base 64 x 64)", "maskgit, amused", "cfg", "edges, depth"] in lines
    assert ["glass", "bottleneck pair", "{context} in [glass] style", "muse"] in lines
    assert ["sks03", "embedding", "<sks03>", "photo, muse"] in lines
    assert ["lost", "lora", "no bundle of this server"] in lines
    assert "warning  adapter 'broken' can't be used: it's truncated" in result.stderr


def test_no_name_is_cut_short_in_a_narrow_window(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    names = ("dreamstyler", "dreamstyler-code", "styledrop-compose")
    bundle = replace(PHOTO, rules=tuple(replace(PHOTO.rules[0], name=name) for name in names))
    result = models(fake=FakeTransport(catalogue=replace(HAS, bundles=(bundle, MUSE))))
    assert "…" not in result.stdout
    assert all(name in result.stdout.split() for name in names)


def test_the_command_prints_json(models: Any) -> None:
    result = models("--json", fake=FakeTransport(catalogue=HAS))
    assert decode_catalogue(sent(json.loads(result.stdout))) == HAS


def test_the_command_reports_an_error_in_one_line(models: Any) -> None:
    result = models(fake=FakeTransport(error=ServerUnavailable("the server is stopping")))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error  the server is stopping" in result.stderr
