"""What a server says it has: bundles, and the registry's adapters, whatever state their files are in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from impasto_server import catalogue as module
from impasto_server.adapters.header import Header
from impasto_server.adapters.registry import Pointed, Registry
from impasto_server.bundle import Manifest
from impasto_server.catalogue import Catalogue
from impasto_server.families import open_bundle
from tests.helpers import toy, toy_masked

Read = Callable[[], dict[str, Any]]


@pytest.fixture
def read(bundle: Path, masked_bundle: Path, registry: Path) -> Iterator[Read]:
    """The catalogue of `photo` and `muse`, read anew each time, as JSON."""
    toy.register(registry, "glass", toy_masked.bottleneck_bytes(1, rank=4, header={"prompt": toy_masked.TEMPLATE}))
    toy.register(registry, "wide", toy.embedding_bytes(7, width=toy.WIDTH + 4))
    toy.register(registry, "foreign", toy.adapter_bytes(8).replace(b"a" * 64, b"b" * 64))
    catalogue = Catalogue([open_bundle(bundle, "photo"), open_bundle(masked_bundle, "muse")], registry)
    yield lambda: dict(json.loads(json.dumps(catalogue.read())))
    catalogue.close()


def by_name(found: dict[str, Any], what: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in found[what]}


def test_bundles_say_what_may_be_asked_of_them(read: Read) -> None:
    found = read()
    photo, muse = by_name(found, "bundles").values()
    assert (found["default"], photo["name"], muse["name"]) == ("photo", "photo", "muse")
    assert (photo["family"], muse["family"]) == ("diffusion", "masked")
    assert muse["samplers"] == ["maskgit", "amused"]
    assert muse["defaults"] == {"scheduler": "amused", "steps": 12}
    assert set(muse["size"]) == {"width", "height", "multiple_of", "max_pixels"}
    assert ("TEMPERATURE" in muse["fields"], "TEMPERATURE" in photo["fields"]) == (True, False)
    assert set(photo["control"]) == {"edges", "depth"}
    assert muse["control"] == []


def test_rules_have_their_strengths_with_defaults_and_bounds(read: Read) -> None:
    photo, muse = read()["bundles"]
    rules = {rule["name"]: rule["strengths"] for rule in photo["rules"]}
    assert list(rules) == ["cfg", "dreamstyler", "dreamstyler-code", "styledrop", "styledrop-compose"]
    assert rules["cfg"] == [{"field": "GUIDANCE_SCALE", "default": 3.0, "low": 0.0, "high": 50.0}]
    assert [one["field"] for one in rules["styledrop-compose"]] == ["STYLE_STRENGTH", "TEXT_STRENGTH", "GAMMA"]
    assert muse["rules"][0]["strengths"][0]["default"] == 10.0


def test_adapters_say_their_words_and_what_they_fit(read: Read) -> None:
    adapters = by_name(read(), "adapters")
    facts = {name: (one["kind"], one["rank"], one["stages"], one["fits"]) for name, one in adapters.items()}
    assert facts["neon"] == ("lora", 3, 0, ["photo"])
    assert facts["glass"] == ("bottleneck", 4, 0, ["muse"])
    assert facts["foreign"][3] == []
    assert facts["wide"][3] == []
    assert (adapters["sks03"]["kind"], adapters["sks03"]["trigger"]) == ("embedding", "<sks03>")
    assert adapters["glass"]["prompt"] == toy_masked.TEMPLATE


def test_an_embedding_fits_every_bundle_whose_text_encoders_are_as_wide(read: Read) -> None:
    assert by_name(read(), "adapters")["sks03"]["fits"] == ["photo", "muse"]


def test_the_registry_is_read_anew(read: Read, registry: Path) -> None:
    before = by_name(read(), "adapters")["neon"]["digest"]
    after = toy.register(registry, "neon", toy.adapter_bytes(9))
    assert by_name(read(), "adapters")["neon"]["digest"] == after != before


def test_what_cannot_be_read_is_told_and_the_rest_is_there(read: Read, registry: Path) -> None:
    digest = Registry(registry).look_up("sks05").digest
    (registry / "objects" / f"{digest}.safetensors").unlink()
    (registry / "names" / "stained-glass.json").write_text("{")
    digest = Registry(registry).look_up("neon").digest
    (registry / "objects" / f"{digest}.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    found = read()
    assert {one["name"]: one["problem"] for one in found["unread"]} == {
        "neon": "adapter 'neon' can't be used: it has no impasto header; import it again from its source file",
        "sks05": "adapter 'sks05' points to an object that isn't in the registry; "
        "import it again with `impasto adapters import`",
        "stained-glass": "adapter 'stained-glass' can't be used: its name in the registry doesn't point to a digest; "
        "import it again from its source file",
    }
    assert {"deep", "glass", "sks03"} < by_name(found, "adapters").keys()


@pytest.mark.parametrize("shape", ["[Infinity, 1, 8]", "[true, 1, 8]", "[-1, 1, 8]", "[1, 8]", '{"a": 1}', "5"])
def test_an_embedding_of_impossible_shapes_is_told_and_the_rest_is_there(
    read: Read, registry: Path, shape: str
) -> None:
    toy.register(registry, "odd", header({"kind": "embedding"}, f', "text_encoder.vectors": {{"shape": {shape}}}'))
    found = read()
    problem = "adapter 'odd' can't be used: its tensors have no shapes; import it again from its source file"
    assert found["unread"] == [{"name": "odd", "problem": problem}]
    assert {"deep", "glass", "sks03"} < by_name(found, "adapters").keys()


def test_what_a_header_says_is_always_of_its_kind(read: Read, registry: Path) -> None:
    """Else a client could read nothing of the whole catalogue, or not print it."""
    toy.register(registry, "odd", header({"kind": 5, "rank": True, "trigger": "a \ud800 b", "prompt": ["x"]}))
    odd = by_name(read(), "adapters")["odd"]
    assert (odd["kind"], odd["rank"], odd["trigger"], odd["prompt"]) == ("", 0, "a ? b", "")
    assert type(odd["rank"]) is int


def test_a_fault_of_reading_one_file_leaves_the_rest(
    read: Read, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fits = Header.fits

    def fail(self: Header, manifest: Manifest) -> bool:
        if self.rank == 3:
            raise ZeroDivisionError
        return fits(self, manifest)

    monkeypatch.setattr(Header, "fits", fail)
    found = read()
    assert [(one["name"], "ZeroDivisionError" in one["problem"]) for one in found["unread"]] == [("neon", True)]
    assert {"deep", "glass", "sks03"} < by_name(found, "adapters").keys()


def test_files_that_no_name_leads_to_are_left_out(read: Read, registry: Path) -> None:
    before = read()
    for name in (b"", b"UPPER", b"new\nline", b"b\xff"):
        (registry / "names" / os.fsdecode(name + b".json")).write_text("{}")
    assert read() == before


def test_a_name_that_leaves_while_it_is_listed_is_left_out(
    read: Read, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, names = read(), Registry.names
    monkeypatch.setattr(Registry, "names", lambda self: [*names(self), "zzz"])
    assert read() == before


def header(said: Mapping[str, object], tensors: str = "") -> bytes:
    """A file that has nothing but a header, of these JSON `tensors`."""
    metadata = json.dumps({"impasto": json.dumps({"format": 1, **said})})
    text = f'{{"__metadata__": {metadata}{tensors}}}'.encode()
    return len(text).to_bytes(8, "little") + text


def test_a_registry_that_is_gone_is_empty(read: Read, registry: Path) -> None:
    registry.rename(registry.with_name("away"))
    found = read()
    assert (found["adapters"], found["unread"], len(found["bundles"])) == ([], [], 2)


def test_a_file_that_never_answers_holds_nobody_up_for_long(
    bundle: Path, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.5)
    monkeypatch.setattr(module, "STALL_S", 0.1)
    pipe = os.pipe()
    resolve = Registry.pointed

    def hang(self: Registry, name: str) -> Pointed:
        if name == "neon":
            os.read(pipe[0], 1)  # until the test is over
        return resolve(self, name)

    monkeypatch.setattr(Registry, "pointed", hang)
    catalogue = Catalogue([open_bundle(bundle)], registry)
    begun = monotonic()
    found = catalogue.read()
    assert monotonic() - begun < 30
    assert [(one["name"], "did not answer within 0.5 s" in one["problem"]) for one in found["unread"]] == [
        ("neon", True)
    ]
    assert "stained-glass" in by_name(found, "adapters")
    os.write(pipe[1], b"!")
    catalogue.close()
    for end in pipe:
        os.close(end)
