"""NAME.yaml beside a single file: what bears on the picture is read, what contradicts is refused, the rest is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from impasto_export import manifest
from impasto_export.architecture import SHIPPED, load, read_json
from impasto_export.bundles import Linked
from impasto_export.checkpoints import fitting, sidecar
from impasto_export.checkpoints.checkpoint import Said
from impasto_export.errors import CheckpointError
from impasto_export.link import link
from impasto_export.weights import encode
from tests.helpers import originals

# The public ones, shortened: nothing of them may be refused or named.
V1 = """
model:
  base_learning_rate: 1.0e-04
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    num_timesteps_cond: 1
    log_every_t: 200
    timesteps: 1000
    first_stage_key: "jpg"
    cond_stage_key: "txt"
    image_size: 64
    channels: 4
    cond_stage_trainable: false   # Note: different from the one we trained before
    conditioning_key: crossattn
    monitor: val/loss_simple_ema
    scale_factor: 0.18215
    use_ema: False
    scheduler_config:
      target: ldm.lr_scheduler.LambdaLinearScheduler
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params: {image_size: 32, in_channels: 4, num_heads: 8, context_dim: 768, use_checkpoint: True, legacy: False}
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
"""
V2 = """
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    parameterization: "v"
    linear_start: 0.00085
    linear_end: 0.0120
    timesteps: 1000
    image_size: 64
    channels: 4
    conditioning_key: crossattn
    scale_factor: 0.18215
    unet_config: {params: {num_head_channels: 64, num_heads: -1, use_linear_in_transformer: True}}
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder
      params: {freeze: True, layer: "penultimate"}
"""
XL = """
model:
  target: sgm.models.diffusion.DiffusionEngine
  params:
    scale_factor: 0.13025
    disable_first_stage_autocast: True
    denoiser_config:
      target: sgm.modules.diffusionmodules.denoiser.DiscreteDenoiser
      params:
        num_idx: 1000
        weighting_config: {target: sgm.modules.diffusionmodules.denoiser_weighting.EpsWeighting}
        scaling_config: {target: sgm.modules.diffusionmodules.denoiser_scaling.EpsScaling}
        discretization_config: {target: sgm.modules.diffusionmodules.discretizer.LegacyDDPMDiscretization}
    network_config: {params: {num_head_channels: 64, adm_in_channels: 2816}}
    conditioner_config: {target: sgm.modules.GeneralConditioner}
    first_stage_config: {target: sgm.models.autoencoder.AutoencoderKLInferenceWrapper}
"""


@pytest.fixture(scope="module")
def skeletons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return originals.skeleton(tmp_path_factory.mktemp("skeletons") / "mini", originals.LAYOUT)


@pytest.fixture
def file(checkpoint: Path, skeletons: Path, tmp_path: Path) -> Path:
    return originals.write(tmp_path / "fluffy.safetensors", originals.tensors(checkpoint, skeletons))


def linked(file: Path, skeletons: Path, checkpoint: Path, text: str, said: Said | None = None) -> Linked:
    """With this beside it."""
    file.with_suffix(".yaml").write_text(text)
    said = replace(said or Said(), tokenizer=checkpoint)
    return link(file, file.parent / "bundle", [skeletons], said)


def params(text: str) -> str:
    return f"model:\n  params: {text}\n"


@pytest.mark.parametrize(
    ("name", "text", "predicted"), [("sd1", V1, None), ("sd2", V2, "v_prediction"), ("sdxl", XL, "epsilon")]
)
def test_the_public_configurations_say_what_is_served(
    name: str, text: str, predicted: str | None, tmp_path: Path
) -> None:
    layout, found = read_json(SHIPPED / name / fitting.NAME), load(SHIPPED / name)
    configs = {part: {**made.config, **layout["configs"].get(part, {})} for part, made in found.components.items()}
    path = tmp_path / "x.yaml"
    path.write_text(text)
    config = sidecar.load(path)
    assert config is not None
    assert config.prediction() == predicted
    assert config.zero_snr() is None
    assert config.check(layout["scheduler"], configs, "penultimate" if name == "sd2" else "last") == ()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ('{parameterization: "v"}', "v_prediction"),
        ("{parameterization: eps}", "epsilon"),
        ("{denoiser_config: {params: {scaling_config: {target: sgm.denoiser_scaling.VScaling}}}}", "v_prediction"),
        ("{linear_start: 8.5e-4, use_ema: True}", "epsilon"),
    ],
)
@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_what_the_unet_predicts_is_read(
    text: str, meant: str, suffix: str, file: Path, skeletons: Path, checkpoint: Path
) -> None:
    file.with_suffix(suffix).write_text(params(text))
    made = link(file, file.parent / "bundle", [skeletons], Said(tokenizer=checkpoint))
    assert manifest.load(made.folder)["scheduler"]["prediction_type"] == meant
    assert made.notes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{parameterization: x0}",
            "parameterization is 'x0'; impasto's samplers know eps and v; if that is wrong, correct or rename",
        ),
        (
            "{linear_end: 0.02}",
            "fluffy.yaml: model.params.linear_end is 0.02; impasto serves 0.012; if that is wrong, correct or ren",
        ),
        ("{linear_start: 1e-3}", "linear_start is '1e-3'"),
        ("{timesteps: 4000}", "timesteps is 4000; impasto serves 1000"),
        ("{beta_schedule: cosine}", "beta_schedule is 'cosine'"),
        ("{given_betas: [0.1, 0.2]}", "given_betas is"),
        ("{channels: 8}", "channels is 8"),
        ("{conditioning_key: hybrid}", "conditioning_key is 'hybrid'; impasto serves 'crossattn'"),
        ("{scale_factor: 0.13025}", "scale_factor is 0.13025; impasto serves 0.9"),
        (
            "{cond_stage_config: {params: {layer: penultimate}}}",
            "cond_stage_config.params.layer is 'penultimate'; impasto",
        ),
        (
            "{cond_stage_config: {params: {layer: hidden, layer_idx: 11}}}",
            "layer is 'hidden'; impasto serves 'last'",
        ),
        ("{cond_stage_config: {params: {layer_idx: 11}}}", "layer_idx is 11"),
        ("{unet_config: {params: {num_heads: 8}}}", "unet_config.params.num_heads is 8; impasto serves None"),
        ("{unet_config: {params: {num_head_channels: 64}}}", "num_head_channels is 64; impasto serves 32"),
        (
            "{denoiser_config: {params: {discretization_config: {target: sgm.discretizer.EDMDiscretization}}}}",
            "discretization_config.target is 'sgm.discretizer.EDMDiscretization'; impasto serves 'LegacyDDPM",
        ),
        ("{denoiser_config: {params: {scaling_config: {target: a.EDMScaling}}}}", "know EpsScaling and VScaling"),
        ("{ztsnr: True}", "fluffy.yaml's ztsnr says that it was trained to zero SNR"),
        ("{zero_terminal_snr: 1}", "zero_terminal_snr says"),
        ("{rescale_betas_zero_snr: true}", "rescale_betas_zero_snr says"),
    ],
)
def test_what_contradicts_what_is_served_is_refused(
    text: str, message: str, file: Path, skeletons: Path, checkpoint: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        linked(file, skeletons, checkpoint, params(text))
    assert not (file.parent / "bundle").exists()


def test_what_is_not_known_is_named(file: Path, skeletons: Path, checkpoint: Path) -> None:
    made = linked(file, skeletons, checkpoint, params("{magic: 3, image_size: 64, ztsnr: False, wonder: {a: 1}}"))
    assert made.notes == ("fluffy.yaml: model.params: magic, wonder: not known, and ignored",)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "title: fluffy\n", "model: fluffy\n", "model: {params: [1]}\n"])
def test_something_else_of_that_name_is_named(text: str, file: Path, skeletons: Path, checkpoint: Path) -> None:
    (note,) = linked(file, skeletons, checkpoint, text).notes
    assert note == "fluffy.yaml is not a configuration of Stable Diffusion, and is not read"


def test_the_user_decides_between_file_and_yaml(file: Path, skeletons: Path, checkpoint: Path) -> None:
    tensors = originals.tensors(checkpoint, skeletons)
    file.write_bytes(encode(tensors, {"modelspec.prediction_type": "epsilon"}))
    with pytest.raises(
        CheckpointError, match="says epsilon, fluffy.yaml says v_prediction; give --prediction epsilon or"
    ):
        linked(file, skeletons, checkpoint, params("{parameterization: v}"))
    made = linked(file, skeletons, checkpoint, params("{parameterization: v}"), Said(prediction="v_prediction"))
    assert manifest.load(made.folder)["scheduler"]["prediction_type"] == "v_prediction"


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nmodel: {params: {magic: *c}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {params: ", "fluffy.yaml: not YAML: "),
        ("model: !!python/object/apply:os.getcwd []\n", "not YAML: could not determine a constructor"),
        (BOMB, "it has aliases, which are not read; write their values out"),
        ("[" * 20_000, "not YAML: "),
        ("#" * (sidecar.MAX_BYTES + 1), "65537 bytes; a configuration has at most 65536"),
        ("model: \x00", "not YAML: "),
    ],
)
def test_what_is_broken_or_made_to_mislead(
    text: str, message: str, file: Path, skeletons: Path, checkpoint: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        linked(file, skeletons, checkpoint, text)
