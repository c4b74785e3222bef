"""The adapter that docs/formats.md writes by hand is one, and the manifest has the keys that the page lists."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from impasto_server.families import FAMILIES
from impasto_server.pipeline import Pipeline
from impasto_server.settings import Settings
from tests.helpers import toy
from tests.helpers.pages import page

PAGE = page("docs/formats.md")
FOR_PEOPLE = {"source", "trunk", "weights", "files"}  # keys that the server doesn't read


def test_an_adapter_written_by_hand_is_painted_with(tmp_path: Path) -> None:
    bundle, registry = toy.write_bundle(tmp_path / "bundle"), tmp_path / "registry"
    names: dict[str, Any] = {"manifest": json.loads((bundle / "manifest.json").read_text()), "registry": registry}
    for block in (*PAGE.python("Adapter"), *PAGE.python("Registry")):
        exec(block, names)
    pipeline = Pipeline.load(Settings(bundle, registry, "onnxruntime", "f32", threads=1))
    try:
        plain, styled = (
            pipeline.generate(pipeline.offer.request("a boat", adapters, steps=2, seed=1))
            for adapters in ({}, {"by-hand": 1.0})
        )
    finally:
        pipeline.close()
    assert plain.image != styled.image


def test_every_key_of_a_manifest_is_listed_and_no_other() -> None:
    section = PAGE.text.partition("### manifest.json")[2].partition("### Sites")[0]
    listed = {key for row in re.findall(r"^\| (.*?) \|", section, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    known = {key for kind in FAMILIES.values() for key in kind.manifest.model_fields}
    assert listed == known | FOR_PEOPLE
