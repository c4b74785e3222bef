"""Bundles that a server can't serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from impasto_server.errors import SetupError
from impasto_server.families import open_bundle
from tests.helpers import toy


def test_a_bundle_of_an_older_impasto_is_linked_again(tmp_path: Path) -> None:
    """Its graphs took a slot of the adapter bank."""
    folder, manifest = toy.write_bundle(tmp_path / "bundle"), dict[str, Any](toy.manifest())
    manifest["graphs"]["unet"]["inputs"].append(toy.port("slot", "lanes", dtype="int64"))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SetupError, match=r"graphs\.unet: .*it has the input `slot`, .*; link the checkpoint again"):
        open_bundle(folder)


def test_weights_that_lost_bytes_are_named(tmp_path: Path) -> None:
    folder, manifest = toy.write_bundle(tmp_path / "bundle"), dict[str, Any](toy.manifest())
    manifest["weights"] = {"unet.safetensors": {"sha256": "0" * 64, "bytes": 100}}
    toy.write_manifest(folder, manifest)
    with pytest.raises(SetupError, match=r"lacks unet\.safetensors; link the checkpoint again"):
        open_bundle(folder)
    weights = folder / "unet.safetensors"
    weights.write_bytes(bytes(36))
    with pytest.raises(SetupError, match=r"unet\.safetensors has 36 bytes, not 100; link the checkpoint again"):
        open_bundle(folder)
    weights.write_bytes(bytes(100))
    assert open_bundle(folder).folder == folder
