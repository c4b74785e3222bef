"""Which family a checkpoint folder is of, by its model_index.json or by its folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import checkpoints
from impasto_export import families, graphs, manifest
from impasto_export.errors import CheckpointError

STUDIO = Path(__file__).parents[3] / "studio"


def folders(root: Path, **classes: str) -> Path:
    for part, kind in classes.items():
        checkpoints.write_json(root / part / "config.json", {"_class_name": kind})
    return root


@pytest.mark.parametrize("pipeline", [name for family in families.FAMILIES.values() for name in family.pipelines])
def test_the_index_decides(pipeline: str, tmp_path: Path) -> None:
    checkpoints.write_json(tmp_path / families.INDEX, {"_class_name": pipeline})
    assert families.of(tmp_path).name == ("masked" if pipeline.startswith("Amused") else "diffusion")


def test_what_the_studio_ships() -> None:
    assert families.of(STUDIO / "mini-diffusion") is families.DIFFUSION
    assert families.of(STUDIO / "mini-muse") is families.MASKED


def test_without_an_index_the_folders_decide(tmp_path: Path) -> None:
    diffusion = folders(tmp_path / "a", text_encoder="", unet="", vae="")
    masked = folders(tmp_path / "b", text_encoder="", transformer="", vqvae="")
    assert (families.of(diffusion), families.of(masked)) == (families.DIFFUSION, families.MASKED)


@pytest.mark.parametrize("pipeline", ["FluxPipeline", "StableDiffusion3Pipeline", "StableDiffusionXLPipeline", None])
def test_other_pipelines_are_named(pipeline: str | None, tmp_path: Path) -> None:
    checkpoints.write_json(tmp_path / families.INDEX, {"_class_name": pipeline})
    with pytest.raises(
        CheckpointError, match=f"_class_name is {pipeline!r}; .*StableDiffusionPipeline.*AmusedPipeline"
    ):
        families.of(tmp_path)


def test_other_folders_are_named_with_their_classes(tmp_path: Path) -> None:
    held = folders(tmp_path, transformer="FluxTransformer2DModel", vae="AutoencoderKL")
    message = "holds transformer (FluxTransformer2DModel), vae (AutoencoderKL); diffusion has text_encoder, unet, vae"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        families.of(held)
    with pytest.raises(CheckpointError, match="holds no component"):
        families.of(tmp_path / "vae")


def test_every_family_has_all_that_is_known_by_its_name() -> None:
    assert families.FAMILIES.keys() == graphs.PLANS.keys() == manifest.FACTS.keys()
