"""A ControlNet's graph, and the UNet that takes its residuals, against eager diffusers with the same weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import checkpoints
from tests.helpers.engines import ENGINES, Array, Engine, relative_error, run

TOLERANCE = 1e-4
# (lanes, height, width) of the latents.
SIZES = [(1, 16, 16), (3, 12, 20)]
Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Case:
    """Inputs of a few lanes, each with a timestep of its own, and what eager diffusers makes of them."""

    sample: torch.Tensor
    timestep: torch.Tensor
    context: torch.Tensor
    hint: torch.Tensor
    scale: torch.Tensor
    residuals: Tensors
    plain: Array
    controlled: Array

    @property
    def lanes(self) -> dict[str, Array]:
        """What both graphs take."""
        feeds = {"sample": self.sample, "timestep": self.timestep, "encoder_hidden_states": self.context}
        return {name: value.numpy() for name, value in feeds.items()}


@pytest.fixture(scope="module", params=SIZES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    lanes, height, width = request.param
    draw = torch.Generator().manual_seed(lanes)
    sample = torch.randn(lanes, checkpoints.CHANNELS, height, width, generator=draw)
    timestep, context = torch.linspace(3.5, 900.0, lanes), torch.randn(lanes, 32, 128, generator=draw)
    hint, scale = torch.rand(lanes, 3, 8 * height, 8 * width, generator=draw), torch.linspace(0.8, 0.0, lanes)
    with torch.no_grad():
        residuals = eager_controlnet(sample, timestep, context, hint, scale)
        plain = eager_unet(sample, timestep, context, {})
        control = {"down_block_additional_residuals": residuals[:-1], "mid_block_additional_residual": residuals[-1]}
        controlled = eager_unet(sample, timestep, context, control)
    return Case(sample, timestep, context, hint, scale, residuals, plain, controlled)


def eager_unet(sample: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor, control: dict[str, Any]) -> Array:
    output: Array = checkpoints.model("unet", 1)(sample, timestep, context, **control, return_dict=False)[0].numpy()
    return output


def eager_controlnet(
    sample: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor, hint: torch.Tensor, scale: torch.Tensor
) -> Tensors:
    """Lane by lane, since diffusers' scale is one number; the middle block's residual last."""
    model = checkpoints.model("controlnet", 1)
    rows = []
    for row in range(len(sample)):
        one = slice(row, row + 1)
        down, mid = model(sample[one], timestep[one], context[one], hint[one], float(scale[row]), return_dict=False)
        rows.append((*down, mid))
    return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))


def names(case: Case) -> list[str]:
    return [*(f"down_residual_{index}" for index in range(len(case.residuals) - 1)), "mid_residual"]


def feeds(case: Case, residuals: Tensors) -> dict[str, Array]:
    """The UNet's."""
    given = {name: value.numpy() for name, value in zip(names(case), residuals, strict=True)}
    return {**case.lanes, **given}


@pytest.mark.parametrize("engine", ENGINES)
def test_residuals_scaled_lane_by_lane(engine: Engine, case: Case, controlled_bundle: Path) -> None:
    steering = {"hint": case.hint.numpy(), "conditioning_scale": case.scale.numpy()}
    found = run(engine, controlled_bundle, "controlnet", {**case.lanes, **steering})
    assert len(found) == 7
    for residual, expected in zip(found, case.residuals, strict=True):
        assert relative_error(residual, expected.numpy()) <= TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_the_unet_adds_residuals(engine: Engine, case: Case, controlled_bundle: Path) -> None:
    (found,) = run(engine, controlled_bundle, "unet", feeds(case, case.residuals))
    assert relative_error(found, case.controlled) <= TOLERANCE
    assert relative_error(case.controlled[:1], case.plain[:1]) > 0.05, "the residuals must matter"


@pytest.mark.parametrize("engine", ENGINES)
def test_zeros_of_one_pixel_are_no_controlnet(engine: Engine, case: Case, controlled_bundle: Path) -> None:
    nothing = tuple(torch.zeros(*residual.shape[:2], 1, 1) for residual in case.residuals)
    (found,) = run(engine, controlled_bundle, "unet", feeds(case, nothing))
    assert relative_error(found, case.plain) <= TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_steered_and_other_lanes_share_a_batch(engine: Engine, case: Case, controlled_bundle: Path) -> None:
    """The first lane is steered; the others' residuals are zeros of the full size."""
    first = tuple(residual.clone().index_fill_(0, torch.arange(1, len(residual)), 0.0) for residual in case.residuals)
    (found,) = run(engine, controlled_bundle, "unet", feeds(case, first))
    assert relative_error(found, np.concatenate([case.controlled[:1], case.plain[1:]])) <= TOLERANCE
