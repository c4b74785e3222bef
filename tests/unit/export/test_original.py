"""Single files in the original layout: graphs point into the file itself; what it doesn't say is known or asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_export import manifest, matching
from impasto_export.architecture import SHIPPED, load, read_json
from impasto_export.checkpoints import fitting, folders
from impasto_export.checkpoints.checkpoint import Said
from impasto_export.errors import CheckpointError, ExportError, MisfitCheckpoint, UnknownArchitecture
from impasto_export.link import link
from impasto_export.weights import encode
from tests.helpers import originals
from tests.helpers.originals import LAYOUT, OPEN_CLIP, Value
from tests.helpers.stored import values

NOTHING = "F16", np.zeros(0, np.float16)


def trained(noise: Any = originals.LAYOUT["scheduler"]) -> NDArray[np.float64]:
    """ᾱ, as the layout's scheduler has it."""
    betas = np.linspace(noise["beta_start"] ** 0.5, noise["beta_end"] ** 0.5, noise["num_train_timesteps"]) ** 2
    return np.cumprod(1 - betas)


def zero_snr(cumulative: NDArray[np.float64]) -> NDArray[np.float64]:
    """Algorithm 1 of arXiv 2305.08891."""
    roots = np.sqrt(cumulative)
    return np.asarray(((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2)


EXTRAS = {
    "model_ema.diffusion_modelinput_blocks00weight": ("F32", np.ones(3, np.float32)),
    "model_ema.num_updates": ("I32", np.array(1, np.int32)),
    "alphas_cumprod": ("F32", trained().astype(np.float32)),
    "sqrt_one_minus_alphas_cumprod": ("F32", np.ones(1000, np.float32)),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": ("I64", np.arange(32)[None]),
    "embedding_manager.embedder.weight": ("F32", np.ones(3, np.float32)),
    "cond_stage_model.logit_scale": ("F32", np.array(1, np.float32)),
}


@pytest.fixture(scope="module")
def skeletons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mini-diffusion as SD 1.x lays it out."""
    return originals.skeleton(tmp_path_factory.mktemp("skeletons") / "mini", LAYOUT)


@pytest.fixture(scope="module")
def tensors(checkpoint: Path, skeletons: Path) -> dict[str, Value]:
    return originals.tensors(checkpoint, skeletons)


@pytest.fixture
def said(checkpoint: Path) -> Said:
    return Said(tokenizer=checkpoint)


def test_graphs_read_the_same_bytes_as_from_the_folder(
    tensors: dict[str, Value], skeletons: Path, said: Said, bundle: Path, tmp_path: Path
) -> None:
    file = originals.write(tmp_path / "painted.safetensors", {**tensors, **EXTRAS})
    made = link(file, tmp_path / "bundle", [skeletons], said)
    assert made.notes == (
        "its model_ema.* are not read: averaged weights; the plain ones are linked, as diffusers does",
        "its embedding_manager.* are not read: a textual inversion's vectors; import its file with `impasto adapters "
        "import`",
    )
    record = manifest.load(made.folder)
    assert values(made.folder) == values(bundle)
    assert list(record["weights"]) == ["checkpoint.safetensors"]
    assert (made.folder / "checkpoint.safetensors").samefile(file)
    assert (record["name"], record["source"]) == ("painted", {"checkpoint": "painted.safetensors"})
    assert record["architecture"] == manifest.load(bundle)["architecture"], "adapters of the one fit the other"
    assert record["latents"] == manifest.load(bundle)["latents"]
    assert record["scheduler"]["prediction_type"] == "epsilon"
    assert record["image"]["width"] == 128


def test_the_names_of_the_first_merges(
    tensors: dict[str, Value], skeletons: Path, said: Said, bundle: Path, tmp_path: Path
) -> None:
    older = {name.replace(".text_model.", "."): value for name, value in tensors.items()}
    assert older.keys() != tensors.keys()
    file = originals.write(tmp_path / "x.safetensors", older)
    assert values(link(file, tmp_path / "bundle", [skeletons], said).folder) == values(bundle)


def test_open_clip_is_read_by_thirds(checkpoint: Path, said: Said, bundle: Path, tmp_path: Path) -> None:
    place = originals.skeleton(tmp_path / "skeleton", OPEN_CLIP)
    tensors = originals.tensors(checkpoint, place)
    assert "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight" in tensors
    file = originals.write(tmp_path / "v2.safetensors", tensors)
    with pytest.raises(CheckpointError, match="does not say what its UNet predicts; give --prediction v_prediction"):
        link(file, tmp_path / "bundle", [place], said)
    sizes = {}
    for prediction in ("epsilon", "v_prediction"):
        answer = Said(prediction=prediction, tokenizer=said.tokenizer)
        made = link(file, tmp_path / "bundle", [place], answer)
        record = manifest.load(made.folder)
        assert (made.reused, record["scheduler"]["prediction_type"]) == (False, prediction)
        assert values(made.folder) == values(bundle)
        sizes[prediction] = record["image"]["width"]
    assert sizes == {"epsilon": 128, "v_prediction": 192}


def test_a_file_may_say_that_it_predicts_v(
    tensors: dict[str, Value], skeletons: Path, said: Said, tmp_path: Path
) -> None:
    file = originals.write(tmp_path / "x.safetensors", {**tensors, "v_pred": NOTHING})
    record = manifest.load(link(file, tmp_path / "bundle", [skeletons], said).folder)
    assert record["scheduler"]["prediction_type"] == "v_prediction"
    with pytest.raises(CheckpointError, match="--prediction: got 'epsilon', but the file's v_pred says v_prediction"):
        link(file, tmp_path / "bundle", [skeletons], Said(prediction="epsilon"))
    with pytest.raises(CheckpointError, match="--prediction: got 'x0'; choose epsilon, v_prediction"):
        link(file, tmp_path / "bundle", [skeletons], Said(prediction="x0"))
    originals.write(file, {**tensors, "v_pred": NOTHING, "ztsnr": NOTHING})
    with pytest.raises(CheckpointError, match="ztsnr says that it was trained to zero SNR"):
        link(file, tmp_path / "other", [skeletons], said)


def test_how_a_turbos_timesteps_are_spaced_is_said(
    tensors: dict[str, Value], skeletons: Path, said: Said, tmp_path: Path
) -> None:
    file = originals.write(tmp_path / "turbo.safetensors", tensors)
    answer = replace(said, spacing="trailing", defaults={"scheduler": "euler_a", "steps": 1, "guidance_scale": 0.0})
    record = manifest.load(link(file, tmp_path / "bundle", [skeletons], answer).folder)
    assert record["scheduler"]["timestep_spacing"] == "trailing"
    assert record["defaults"] == answer.defaults
    plain = manifest.load(link(file, tmp_path / "plain", [skeletons], said).folder)
    assert plain["scheduler"]["timestep_spacing"] == "leading"
    with pytest.raises(CheckpointError, match="--spacing: got 'even'; choose leading, linspace, trailing"):
        link(file, tmp_path / "bundle", [skeletons], replace(said, spacing="even"))


@pytest.mark.parametrize(
    ("stated", "size", "noted"),
    [
        ("64x96", (64, 96), False),
        ("", (128, 128), False),
        ("100x100", (128, 128), True),
        ("64", (128, 128), True),
        ("2048x2048", (128, 128), True),
    ],
)
def test_a_header_may_say_the_size(
    stated: str,
    size: tuple[int, int],
    noted: bool,
    tensors: dict[str, Value],
    skeletons: Path,
    said: Said,
    tmp_path: Path,
) -> None:
    file = tmp_path / "turbo.safetensors"
    file.write_bytes(encode(tensors, {"modelspec.resolution": stated}))
    made = link(file, tmp_path / "bundle", [skeletons], said)
    image = manifest.load(made.folder)["image"]
    assert (image["width"], image["height"]) == size
    expected = f"its header's modelspec.resolution is {stated!r}, which mini-diffusion cannot have: its "
    assert [note.startswith(expected) for note in made.notes] == [True] * noted
    told = link(file, tmp_path / "told", [skeletons], replace(said, size=(96, 64)))
    image = manifest.load(told.folder)["image"]
    assert (image["width"], image["height"], told.notes) == (96, 64, ()), "what the user says counts"


@pytest.mark.parametrize(("stated", "meant"), [("v", "v_prediction"), ("epsilon", "epsilon"), ("", "epsilon")])
def test_a_header_may_say_the_prediction(
    stated: str, meant: str, tensors: dict[str, Value], skeletons: Path, said: Said, tmp_path: Path
) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(encode(tensors, {"modelspec.prediction_type": stated}))
    record = manifest.load(link(file, tmp_path / "bundle", [skeletons], said).folder)
    assert record["scheduler"]["prediction_type"] == meant
    told = link(file, tmp_path / "told", [skeletons], replace(said, prediction="epsilon"))
    assert manifest.load(told.folder)["scheduler"]["prediction_type"] == "epsilon", "what the user says counts"


def test_a_header_may_say_what_no_sampler_knows(
    tensors: dict[str, Value], skeletons: Path, said: Said, tmp_path: Path
) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(encode(tensors, {"modelspec.prediction_type": "x0"}))
    with pytest.raises(CheckpointError, match="prediction_type is 'x0', .*; if that is wrong, give --prediction"):
        link(file, tmp_path / "bundle", [skeletons], said)
    assert link(file, tmp_path / "bundle", [skeletons], replace(said, prediction="epsilon")).folder.is_dir()


def test_what_does_not_fit_is_named_as_the_file_names_it(
    tensors: dict[str, Value], skeletons: Path, tmp_path: Path
) -> None:
    conv_in, stranger = "model.diffusion_model.input_blocks.0.0.weight", "intruder.weight"
    spoilt = {**tensors, stranger: NOTHING, conv_in: ("F16", np.zeros((64, 6, 3, 3), np.float16))}
    del spoilt["first_stage_model.quant_conv.bias"]
    file = originals.write(tmp_path / "x.safetensors", spoilt)
    with pytest.raises(MisfitCheckpoint, match="does not fit mini-diffusion, the nearest architecture") as raised:
        link(file, tmp_path / "bundle", [skeletons])
    assert raised.value.missing == ("first_stage_model.quant_conv.bias",)
    assert raised.value.unused == (stranger,)
    assert raised.value.misfit[0].startswith(f"{conv_in}: F16 [64, 6, 3, 3], the architecture has float [")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", "a FLUX checkpoint, a family"),
        ("model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias", "a Stable Diffusion 3"),
        ("conditioner.embedders.0.model.text_projection", "an SDXL refiner; only base checkpoints"),
        ("single_transformer_blocks.0.proj_mlp.weight", "a FLUX transformer"),
        ("model.diffusion_model.input_blocks.1.0.time_stack.emb_layers.1.bias", "a Stable Video Diffusion .* video"),
        ("lora_unet_mid_block_attentions_0_proj_in.lora_up.weight", "an adapter; import it with `impasto"),
        ("down_blocks.0.resnets.0.conv1.weight", "one part of a checkpoint in the diffusers layout; give the folder"),
    ],
)  # fmt: skip
def test_something_else_is_called_by_its_name(key: str, message: str, skeletons: Path, tmp_path: Path) -> None:
    file = originals.write(tmp_path / "x.safetensors", {key: ("F16", np.zeros(4, np.float16))})
    with pytest.raises(UnknownArchitecture, match=message):
        link(file, tmp_path / "bundle", [skeletons])


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (5, "x.safetensors is a depth-to-image checkpoint, whose UNet takes a depth map beside the sample; only those"),
        (7, "is an upscaler, whose UNet takes the picture to be enlarged"),
        (8, "is an InstructPix2Pix checkpoint, whose UNet takes the picture to be edited"),
        (9, "is an inpainting checkpoint, whose UNet takes a mask and the masked picture"),
    ],
)
def test_what_takes_more_than_the_sample_is_called_by_its_first_convolution(
    channels: int, message: str, tensors: dict[str, Value], skeletons: Path, tmp_path: Path
) -> None:
    first = "model.diffusion_model.input_blocks.0.0.weight"
    wider = {**tensors, first: ("F16", np.zeros((64, channels, 3, 3), np.float16))}
    with pytest.raises(UnknownArchitecture, match=message):
        link(originals.write(tmp_path / "x.safetensors", wider), tmp_path / "bundle", [skeletons])


# What the file's buffers and header say


@pytest.mark.parametrize(("dtype", "stored"), [("F32", np.float32), ("F16", np.float16)])
def test_the_schedule_it_was_trained_with_must_be_ours(
    dtype: str, stored: type, tensors: dict[str, Value], skeletons: Path, said: Said, tmp_path: Path
) -> None:
    file = tmp_path / "x.safetensors"
    originals.write(file, {**tensors, "alphas_cumprod": (dtype, trained().astype(stored))})
    assert link(file, tmp_path / "bundle", [skeletons], said).notes == ()
    originals.write(file, {**tensors, "alphas_cumprod": (dtype, zero_snr(trained()).astype(stored))})
    problem = "at the last timestep 0.0000 where 0.0047 is expected; it was trained to zero SNR or with other betas"
    with pytest.raises(CheckpointError, match=f"its alphas_cumprod belong to another noise schedule, {problem}"):
        link(file, tmp_path / "other", [skeletons], said)
    originals.write(file, {**tensors, "alphas_cumprod": (dtype, np.full(1000, np.nan, stored))})
    with pytest.raises(CheckpointError, match="its alphas_cumprod belong to another noise schedule"):
        link(file, tmp_path / "other", [skeletons], said)


@pytest.mark.parametrize(
    ("stated", "meant"),
    [
        ({"modelspec.predict_key": "v"}, "v_prediction"),
        ({"modelspec.predict_key": "epsilon"}, "epsilon"),
        ({"ss_v_parameterization": "True"}, "v_prediction"),
        ({"ss_v_parameterization": "False"}, "epsilon"),
        ({"modelspec.prediction_type": "v", "modelspec.predict_key": "v"}, "v_prediction"),
    ],
)
def test_a_header_says_the_prediction_in_several_ways(
    stated: dict[str, str], meant: str, tensors: dict[str, Value], skeletons: Path, said: Said, tmp_path: Path
) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(encode(tensors, stated))
    record = manifest.load(link(file, tmp_path / "bundle", [skeletons], said).folder)
    assert record["scheduler"]["prediction_type"] == meant


def test_a_header_that_contradicts_itself(
    tensors: dict[str, Value], skeletons: Path, said: Said, tmp_path: Path
) -> None:
    file = tmp_path / "x.safetensors"
    stated = {"modelspec.prediction_type": "epsilon", "ss_v_parameterization": "True"}
    file.write_bytes(encode(tensors, stated))
    with pytest.raises(
        CheckpointError, match="says epsilon, its header's ss_v_.* says v_prediction; give --prediction"
    ):
        link(file, tmp_path / "bundle", [skeletons], said)
    record = manifest.load(link(file, tmp_path / "b", [skeletons], replace(said, prediction="epsilon")).folder)
    assert record["scheduler"]["prediction_type"] == "epsilon"
    file.write_bytes(encode(tensors, {"ss_zero_terminal_snr": "True"}))
    with pytest.raises(CheckpointError, match="its header's ss_zero_terminal_snr says that it was trained to zero SNR"):
        link(file, tmp_path / "b", [skeletons], said)


@pytest.mark.parametrize(("layer", "noted"), [("1", False), ("2", True), ("None", False)])
def test_clip_skip_in_a_header_is_named(
    layer: str, noted: bool, tensors: dict[str, Value], skeletons: Path, said: Said, tmp_path: Path
) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(encode(tensors, {"modelspec.encoder_layer": layer}))
    notes = link(file, tmp_path / "bundle", [skeletons], said).notes
    assert [note.startswith("its header's modelspec.encoder_layer (CLIP skip) is '2'") for note in notes] == [
        True
    ] * noted


def test_a_vae_beside_it_is_named(tensors: dict[str, Value], skeletons: Path, said: Said, tmp_path: Path) -> None:
    file = originals.write(tmp_path / "x[1].safetensors", tensors)
    (tmp_path / "x[1].vae.safetensors").touch()
    (tmp_path / "y.vae.safetensors").touch()
    (note,) = link(file, tmp_path / "bundle", [skeletons], said).notes
    assert note.startswith("x[1].vae.safetensors beside it is not read, though web UIs take it for its VAE")


def test_a_file_that_was_cut_short(tensors: dict[str, Value], skeletons: Path, tmp_path: Path) -> None:
    file = originals.write(tmp_path / "x.safetensors", tensors)
    with file.open("r+b") as cut:
        cut.truncate(file.stat().st_size // 2)
    with pytest.raises(ExportError, match="x.safetensors is cut short"):
        link(file, tmp_path / "bundle", [skeletons])


def test_what_no_single_file_has(tensors: dict[str, Value], skeletons: Path, tmp_path: Path) -> None:
    file = originals.write(tmp_path / "x.safetensors", tensors)
    with pytest.raises(CheckpointError, match="--variant: got 'fp16'; a single file has no variants, leave it out"):
        link(file, tmp_path / "bundle", [skeletons], Said("fp16"))


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin"])
def test_pickles_are_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match="a pickle, which can run any code .*; if you trust it, save it as"):
        link(tmp_path / name, tmp_path / "bundle")


def test_another_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(CheckpointError, match="neither a checkpoint nor a known style net; give a folder"):
        link(tmp_path / "model.gguf", tmp_path / "bundle")


def stable() -> list[Path]:
    """The shipped skeletons of public diffusion checkpoints, which come as single files, too."""
    found = matching.skeletons([SHIPPED]).items()
    return [path for path, made in found if "unet" in made.components and not path.name.startswith("mini-")]


@pytest.mark.parametrize("folder", stable(), ids=lambda folder: folder.name)
def test_shipped_layouts_name_every_part(folder: Path) -> None:
    layout, made = read_json(folder / fitting.NAME), load(folder)
    texts = {part for part in made.components if part in folders.TOKENIZERS}
    assert layout["parts"].keys() == made.components.keys()
    assert layout["pads"].keys() == texts
    assert all(made.components[part].config["vocab_size"] == 49408 for part in texts)
    assert {stated["names"] for stated in layout["parts"].values()} <= fitting.TABLES.keys()
    stated = [layout["configs"], *layout["predictions"].values()]
    assert all("sample_size" in {**stated[0].get("unet", {}), **one.get("unet", {})} for one in stated[1:] or stated)
