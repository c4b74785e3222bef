"""Where a bundle's weights lie, by its graphs, against the checkpoint's own files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from impasto_export import manifest, parameters
from impasto_export.errors import BundleError
from impasto_export.weights import read_header, read_tensor


@pytest.mark.parametrize(("graph", "prefix"), [("unet", ""), ("text_encoder", "text_model.")])
def test_every_tensor_is_found_where_the_checkpoint_has_it(graph: str, prefix: str, bundle: Path) -> None:
    """The text encoder's file leaves its prefix out."""
    header = read_header(bundle / f"{graph}.safetensors")
    found = parameters.of(bundle, manifest.load(bundle))[graph]
    assert {name.removeprefix(prefix): parameter.tensor for name, parameter in found.items()} == header.tensors
    assert {parameter.file for parameter in found.values()} == {header.path.name}
    for name in list(found)[:5]:
        assert np.array_equal(
            parameters.values(bundle, name, found[name]), read_tensor(header, name.removeprefix(prefix))
        )


def test_graphs_of_one_component_share_its_file(bundle: Path) -> None:
    found = parameters.of(bundle, manifest.load(bundle))
    assert {parameter.file for name in ("vae_decoder", "vae_encoder") for parameter in found[name].values()} == {
        "vae.safetensors"
    }
    assert "decoder.conv_in.weight" in found["vae_decoder"]
    assert "decoder.conv_in.weight" not in found["vae_encoder"]


def test_graphs_that_are_damaged_or_missing(bundle: Path, tmp_path: Path) -> None:
    facts = manifest.load(bundle)
    shutil.copytree(bundle, tmp_path / "bundle", copy_function=shutil.copyfile)
    (tmp_path / "bundle" / "unet.onnx").write_bytes(b"not protobuf at all")
    with pytest.raises(BundleError, match="unet.onnx is not an ONNX graph; link"):
        parameters.of(tmp_path / "bundle", facts)
    (tmp_path / "bundle" / "unet.onnx").unlink()
    with pytest.raises(BundleError, match="unet.onnx is missing; link"):
        parameters.of(tmp_path / "bundle", facts)


def test_weights_that_are_cut_short(bundle: Path, tmp_path: Path) -> None:
    (name, parameter), *_ = parameters.of(bundle, manifest.load(bundle))["unet"].items()
    (tmp_path / parameter.file).write_bytes(b"short")
    with pytest.raises(BundleError, match=r"unet.safetensors is missing or cut short, and .* lies in it"):
        parameters.values(tmp_path, name, parameter)
