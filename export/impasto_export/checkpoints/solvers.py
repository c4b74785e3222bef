"""Notes on the settings of a scheduler's config that no sampler of impasto follows: solver, spacing, unknown keys."""

from __future__ import annotations

import math

from impasto_export.architecture import Json
from impasto_export.checkpoints import schedule
from impasto_export.checkpoints.checkpoint import Checkpoint, Said

# Settings of each scheduler's own solver, with its class's defaults. impasto's solvers correspond to these defaults.
DPM: Json = {
    "solver_order": 2,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lower_order_final": True,
    "euler_at_final": False,
    "lambda_min_clipped": -math.inf,
    "variance_type": None,
}
SOLVERS: dict[str, Json] = {
    "DPMSolverMultistepScheduler": DPM,
    "DPMSolverSinglestepScheduler": {**DPM, "lower_order_final": False},
    "DEISMultistepScheduler": {**DPM, "algorithm_type": "deis", "solver_type": "logrho"},
    "DDPMScheduler": {"variance_type": "fixed_small"},
    "UniPCMultistepScheduler": {
        "solver_order": 2,
        "solver_type": "bh2",
        "lower_order_final": True,
        "predict_x0": True,
        "disable_corrector": [],
        "solver_p": None,
    },
}
# Keys that only matter to settings that are refused, and keys that no scheduler reads any more.
IDLE = {
    "clip_sample_range", "dynamic_thresholding_ratio", "flow_shift", "sample_max_value", "shift_terminal",
    "skip_prk_steps", "time_shift_type", "use_dynamic_shifting",
}  # fmt: skip
# Keys of a masked checkpoint's scheduler.
MASKING = {"mask_token_id", "masking_schedule"}


def notes(checkpoint: Checkpoint, said: Said) -> tuple[str, ...]:
    """Notes on the settings of the scheduler's config that no sampler of impasto follows, each by its name."""
    config, own = checkpoint.scheduler, SOLVERS.get(schedule.kind(checkpoint), {})
    solver, spaced = (_asked(config, plain) for plain in (own, schedule.SPACED))
    known = {
        *schedule.DEFAULTS,
        *schedule.BOUNDS,
        *schedule.HONOURED,
        *schedule.REFUSED,
        *schedule.SPACED,
        *IDLE,
        *MASKING,
        *(key for one in SOLVERS.values() for key in one),
    }
    strange = [
        key for key, value in config.items() if key[:1] != "_" and key not in known and value not in (None, False)
    ]
    found = {
        "for its own solver, which impasto does not use": solver,
        f"ignored, since --scheduler {said.defaults.get('scheduler')} was chosen": spaced,
        "not known, and ignored": strange,
    }
    return tuple(f"{schedule.CONFIG}: {', '.join(keys)}: {why}" for why, keys in found.items() if keys)


def _asked(config: Json, plain: Json) -> list[str]:
    """The settings that differ from the plain ones."""
    return [
        f"{key} {config[key]!r}" for key, value in plain.items() if key in config and schedule.asks(config[key], value)
    ]
