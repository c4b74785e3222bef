"""The noise schedule: diffusers' own scheduler classes and ours agree on what a config means; the rest is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest

from impasto_export import manifest
from impasto_export.architecture import Json
from impasto_export.checkpoints import schedule, solvers
from impasto_export.checkpoints.checkpoint import Checkpoint, Said
from impasto_export.errors import CheckpointError
from impasto_export.families import DIFFUSION

STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def checkpoint(config: Json, index: Json | None = None, unet: Json | None = None) -> Checkpoint:
    """One that says no more than this."""
    return Checkpoint(
        name="some",
        origin=Path("some"),
        family=DIFFUSION.name,
        configs={"unet": unet or {}},
        weights={},
        tokenizers={},
        index=index or {"_class_name": "StableDiffusionXLPipeline"},
        scheduler=config,
        source={},
    )


# diffusers has these only where SciPy is.
SCIPY = {"DPMSolverSDEScheduler", "LMSDiscreteScheduler"}


@pytest.mark.parametrize("kind", sorted(schedule.KNOWN.keys() - SCIPY))
def test_what_a_config_leaves_out_means_what_diffusers_takes(kind: str) -> None:
    theirs: Any = getattr(diffusers, kind).from_config({"clip_sample": False}).config
    facts = schedule.facts(checkpoint({"_class_name": kind, "clip_sample": False}), spaced=False)
    assert {key: theirs.get(key, facts[key]) for key in facts} == facts


@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_ddim_from_another_schedulers_config(kind: str) -> None:
    """Their config has no set_alpha_to_one, and DDIM made of it takes its own default."""
    other: Any = getattr(diffusers, kind)(**{key: STABLE[key] for key in ("beta_start", "beta_end", "beta_schedule")})
    theirs: Any = diffusers.DDIMScheduler.from_config(other.config)
    facts = schedule.facts(checkpoint({**STABLE, "_class_name": kind}), spaced=False)
    assert facts["set_alpha_to_one"] == theirs.config.set_alpha_to_one


def test_the_class_is_what_the_pipeline_makes() -> None:
    index = {"_class_name": "StableDiffusionXLPipeline", "scheduler": ["diffusers", "EulerAncestralDiscreteScheduler"]}
    facts = schedule.facts(checkpoint({"_class_name": "PNDMScheduler"}, index), spaced=False)
    assert facts["timestep_spacing"] == "linspace"


def test_the_pipelines_of_sd_correct_old_configs() -> None:
    old = {"_class_name": "DDIMScheduler"}  # clip_sample and steps_offset from before there were pipelines
    facts = schedule.facts(checkpoint(old, {"_class_name": "StableDiffusionPipeline"}), spaced=False)
    assert facts["steps_offset"] == 1
    with pytest.raises(CheckpointError, match="clip_sample is set"):
        schedule.facts(checkpoint(old), spaced=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "TCDScheduler"}, "the scheduler is a TCDScheduler, which is not known; known are DDIM"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "a FlowMatchEulerDiscreteScheduler"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas is set"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is set"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule is 'squaredcos_cap_v2'; .* linear, scaled_linear"),
        ({"prediction_type": "sample"}, "prediction_type is 'sample'; .* know epsilon, v_prediction"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas True, which .* choose a sampler with --scheduler"),
        ({"final_sigmas_type": "sigma_min"}, "final_sigmas_type 'sigma_min'"),
        ({"sigma_max": 14.6}, "sigma_max 14.6"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0; a number from 1 to 100000 is expected"),
        ({"num_train_timesteps": "1000"}, "num_train_timesteps is '1000'"),
        ({"beta_start": None}, "beta_start is None; a number from 0.0 to 1.0"),
        ({"beta_end": float("nan")}, "beta_end is nan"),
        ({"steps_offset": 0.5}, "steps_offset is 0.5"),
    ],
)
def test_what_the_samplers_do_not_honour(changes: Json, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        schedule.facts(checkpoint({"_class_name": "EulerDiscreteScheduler", **changes}), spaced=False)


def test_a_chosen_sampler_takes_its_own_steps() -> None:
    config = {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}
    assert schedule.facts(checkpoint(config), spaced=True)["timestep_spacing"] == "linspace"


@pytest.mark.parametrize(("embedded", "scale"), [(256, 8.5), (None, 1.0)])
def test_a_consistency_models_requests(embedded: int | None, scale: float) -> None:
    model = checkpoint({"_class_name": "LCMScheduler"}, unet={"time_cond_proj_dim": embedded})
    assert manifest.defaults(model, Said()) == {"scheduler": "lcm", "steps": 4, "guidance_scale": scale}
    assert manifest.defaults(model, Said(defaults={"steps": 8}))["steps"] == 8
    facts = schedule.facts(model, spaced=False)
    assert (facts["original_inference_steps"], facts["timestep_scaling"]) == (50, 10.0)


def test_nothing_else_is_guessed() -> None:
    turbo = checkpoint({"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"})
    assert manifest.defaults(turbo, Said()) == {}
    assert "original_inference_steps" not in schedule.facts(turbo, spaced=False)


@pytest.mark.parametrize(
    ("config", "said", "expected"),
    [
        (
            {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 2, "algorithm_type": "dpmsolver++"},
            Said(),
            [],
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "algorithm_type": "sde-dpmsolver++"},
            Said(),
            ["solver_order 3, algorithm_type 'sde-dpmsolver++': for its own solver, which impasto does not use"],
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "predict_x0": False, "disable_corrector": [0]},
            Said(),
            ["predict_x0 False, disable_corrector [0]: for its own solver, which impasto does not use"],
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "sigma_max": 14.6},
            Said(defaults={"scheduler": "euler"}),
            ["use_karras_sigmas True, sigma_max 14.6: ignored, since --scheduler euler was chosen"],
        ),
        (
            {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "predict_epsilon": True, "waves": 3, "_x": 1},
            Said(),
            ["predict_epsilon, waves: not known, and ignored"],
        ),
        ({"_class_name": "AmusedScheduler", "mask_token_id": 1087, "masking_schedule": "linear"}, Said(), []),
    ],
)
def test_what_no_sampler_goes_by_is_named(config: Json, said: Said, expected: list[str]) -> None:
    found = solvers.notes(checkpoint({**STABLE, **config}), said)
    assert found == tuple(f"scheduler/scheduler_config.json: {note}" for note in expected)


@pytest.mark.parametrize("kind", sorted(schedule.KNOWN.keys() - SCIPY))
def test_of_what_diffusers_writes_by_itself_nothing_is_named(kind: str) -> None:
    theirs: Any = getattr(diffusers, kind)()
    assert solvers.notes(checkpoint({**theirs.config, "_class_name": kind}), Said()) == ()
