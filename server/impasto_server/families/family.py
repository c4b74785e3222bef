"""What a backbone's family decides: what is sampled and how, and how pictures come of it.

The step loop knows a family by this protocol alone. There are two: diffusion.py, masked.py.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from impasto_server.backbone import Backbone, Embeds
from impasto_server.families.conditioning import Conditions
from impasto_server.families.diffusion.samplers import Steps
from impasto_server.guidance import Rule
from impasto_server.request import Request
from impasto_server.turns import Work


class Family(Protocol):
    """Everything around the step loop that isn't the same for latents and for tokens."""

    backbone: Backbone
    train_timesteps: float  # what the timesteps that a sampler asks at are below

    def warm(self, embeds: Embeds, max_lanes: int, weights_bytes: int) -> None:
        """Run everything once on pictures of the usual size, and prepare the backbone for their batches."""
        ...

    def condition(self, request: Request) -> Work[Conditions]:
        """The request's pictures, as the sampler and the backbone take them; one a turn. Raises InvalidArgument."""
        ...

    def rule(self, request: Request) -> Rule:
        """The request's guidance, as this backbone takes it. Raises InvalidArgument."""
        ...

    def begin(self, request: Request, seed: int, conditions: Conditions) -> Steps:
        """The request's sampler, at its start."""
        ...

    def decode(self, sample: NDArray[Any]) -> NDArray[np.uint8]:
        """A finished sample → RGB uint8 [H, W, 3]."""
        ...

    def preview(self, sample: NDArray[Any]) -> bytes:
        """A sample → a small PNG of it."""
        ...
