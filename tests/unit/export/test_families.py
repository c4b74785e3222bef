"""Which family a checkpoint folder is of, by its model_index.json or by its folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from impasto_export import families, manifest
from impasto_export.errors import CheckpointError
from impasto_export.tracing import graphs
from tests.helpers import checkpoints

STUDIO = Path(__file__).parents[3] / "studio"


def folders(root: Path, **classes: str) -> Path:
    for part, kind in classes.items():
        checkpoints.write_json(root / part / "config.json", {"_class_name": kind})
    return root


@pytest.mark.parametrize("pipeline", [name for family in families.KNOWN for name in family.pipelines])
def test_the_index_decides(pipeline: str, tmp_path: Path) -> None:
    checkpoints.write_json(tmp_path / families.INDEX, {"_class_name": pipeline})
    found = families.of(tmp_path)
    assert found.name == ("masked" if pipeline.startswith("Amused") else "diffusion")
    assert ("text_encoder_2" in found.parts) == ("XL" in pipeline)


def test_what_the_studio_ships() -> None:
    assert families.of(STUDIO / "mini-diffusion") is families.DIFFUSION
    assert families.of(STUDIO / "mini-muse") is families.MASKED


def test_without_an_index_the_folders_decide(tmp_path: Path) -> None:
    diffusion = folders(tmp_path / "a", text_encoder="", unet="", vae="")
    masked = folders(tmp_path / "b", text_encoder="", transformer="", vqvae="")
    assert (families.of(diffusion), families.of(masked)) == (families.DIFFUSION, families.MASKED)
    folders(diffusion, text_encoder_2="")
    assert families.of(diffusion) is families.SDXL


@pytest.mark.parametrize("index", [True, False], ids=["index", "folders"])
def test_a_second_stage_is_told_by_its_folders(index: bool, tmp_path: Path) -> None:
    """aMUSEd's pipelines know nothing of it, and load the first stage as ever."""
    masked = folders(tmp_path, text_encoder="", transformer="", vqvae="")
    if index:
        checkpoints.write_json(tmp_path / families.INDEX, {"_class_name": "AmusedPipeline"})
    assert families.of(masked) is families.MASKED
    folders(masked, upscaler="MuseUpscaler")
    message = "it has upscaler but no upscaler_vqvae, and a second stage needs both; add upscaler_vqvae, or"
    with pytest.raises(CheckpointError, match=message):
        families.of(masked)
    folders(masked, upscaler_vqvae="VQModel")
    assert families.of(masked) is families.CASCADE
    (masked / "upscaler" / "config.json").unlink()
    (masked / "upscaler").rmdir()
    with pytest.raises(CheckpointError, match="it has upscaler_vqvae but no upscaler, and"):
        families.of(masked)


def test_a_second_stage_that_is_only_named_is_refused(tmp_path: Path) -> None:
    masked = folders(tmp_path, text_encoder="", transformer="", vqvae="")
    stage = {"upscaler": ["impasto", "MuseUpscaler"], "upscaler_vqvae": ["diffusers", "VQModel"]}
    checkpoints.write_json(masked / families.INDEX, {"_class_name": "AmusedPipeline", **stage})
    message = "names upscaler and upscaler_vqvae but has no such folder, and .*, also from model_index.json, to serve"
    with pytest.raises(CheckpointError, match=message):
        families.of(masked)
    checkpoints.write_json(masked / families.INDEX, {"_class_name": "AmusedPipeline", "upscaler": families.ABSENT})
    assert families.of(masked) is families.MASKED


@pytest.mark.parametrize("index", [True, False], ids=["index", "folders"])
def test_a_part_of_the_second_stage_that_is_no_folder_is_refused(index: bool, tmp_path: Path) -> None:
    masked = folders(tmp_path, text_encoder="", transformer="", vqvae="")
    if index:
        checkpoints.write_json(masked / families.INDEX, {"_class_name": "AmusedPipeline"})
    (masked / "upscaler").symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="names upscaler but has no such folder .upscaler: not a folder., and"):
        families.of(masked)
    folders(masked, upscaler_vqvae="VQModel")
    with pytest.raises(CheckpointError, match="has upscaler_vqvae but no upscaler .upscaler: not a folder., and"):
        families.of(masked)


@pytest.mark.parametrize(
    ("pipeline", "called"),
    [
        ("FluxPipeline", "FLUX;"),
        ("Flux2Pipeline", r"FLUX\.2;"),
        ("StableDiffusion3Img2ImgPipeline", "Stable Diffusion 3;"),
        ("KandinskyV22Pipeline", "Kandinsky;"),
        ("PixArtSigmaPipeline", "PixArt;"),
        ("WanPipeline", "Wan, which makes video;"),
        ("StableVideoDiffusionPipeline", "Stable Video Diffusion, which makes video;"),
        ("StableDiffusionInpaintPipeline", "inpainting, whose UNet takes the mask"),
        ("StableDiffusionXLInpaintPipeline", "inpainting, whose UNet takes the mask"),
        ("StableDiffusionUpscalePipeline", "an upscaler, whose UNet takes the picture to be enlarged"),
    ],
)
def test_pipelines_that_are_not_served_are_called_by_their_names(pipeline: str, called: str, tmp_path: Path) -> None:
    checkpoints.write_json(tmp_path / families.INDEX, {"_class_name": pipeline})
    with pytest.raises(CheckpointError, match=f"_class_name is '{pipeline}', {called}") as raised:
        families.of(tmp_path)
    assert "impasto serves Stable Diffusion 1.x and 2.x, SDXL" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("pipeline", ["DreamPipeline", None])
def test_unknown_pipelines_are_named(pipeline: str | None, tmp_path: Path) -> None:
    checkpoints.write_json(tmp_path / families.INDEX, {"_class_name": pipeline})
    with pytest.raises(CheckpointError, match=f"_class_name is '{pipeline}'; .*StableDiffusionPipeline.*Amused"):
        families.of(tmp_path)


def test_a_refiner_is_named(tmp_path: Path) -> None:
    index = {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None]}
    checkpoints.write_json(tmp_path / families.INDEX, index)
    with pytest.raises(CheckpointError, match="text_encoder is null; that is SDXL's refiner"):
        families.of(tmp_path)


def test_other_folders_are_named_with_their_classes(tmp_path: Path) -> None:
    held = folders(tmp_path, transformer="FluxTransformer2DModel", vae="AutoencoderKL")
    message = "holds transformer (FluxTransformer2DModel), vae (AutoencoderKL); StableDiffusionXLPipeline has text_enc"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        families.of(held)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no component"):
        families.of(tmp_path / "empty")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", '{"_class_name": "AutoencoderKL"}', "a AutoencoderKL alone; give the folder around it"),
        ("config.json", '{"_class_name": "ControlNetModel"}', "a ControlNetModel alone; give it with --controlnet"),
        ("manifest.json", "{}", "a bundle, which is linked already; give its checkpoint"),
        ("adapter_config.json", "{}", "an adapter; import it with `impasto adapters import`"),
        ("painted.safetensors", "", "painted.safetensors; give the file itself"),
    ],
)
def test_a_folder_of_one_thing_is_told_what_to_do_with_it(file: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(CheckpointError, match=f"is not a checkpoint: it holds {message}"):
        families.of(tmp_path)


def test_every_family_has_all_that_is_known_by_its_name() -> None:
    """But the one whose nets are read into graphs, not traced: its readers say all of it."""
    traced = families.FAMILIES - {families.FEEDFORWARD}
    assert traced == graphs.PLANS.keys() == manifest.FACTS.keys()
