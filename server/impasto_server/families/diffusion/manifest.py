"""What a diffusion model's bundle says of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import ClassVar, Literal

from pydantic import Field

from impasto_server.bundle import Frozen
from impasto_server.families.diffusion.samplers import SAMPLERS
from impasto_server.families.diffusion.schedule import Noise
from impasto_server.steps import BASE
from impasto_server.words.manifest import WordedManifest

GUIDANCE = "timestep_cond"  # a UNet's input: the guidance scale, embedded
RESIDUAL = "residual"  # in the name of every UNet input that the ControlNet fills


class Latents(Frozen):
    channels: int = Field(gt=0)
    factor: int = Field(gt=0)
    scaling_factor: float
    shift_factor: float = 0.0


class Control(Frozen):
    """What each channel of the ControlNet's hint carries; one that isn't `optional` must be there."""

    channels: tuple[Literal["edges", "depth"], ...]
    optional: tuple[Literal["edges", "depth"], ...] = ()


class DiffusionManifest(WordedManifest):
    """A UNet that predicts the noise in latents."""

    backbones: ClassVar[Mapping[str, str]] = MappingProxyType({BASE: "unet"})
    schedulers: ClassVar[Collection[str]] = SAMPLERS.keys()

    family: Literal["diffusion"]
    latents: Latents
    scheduler: Noise
    control: Control | None = None

    @property
    def told_of_guidance(self) -> bool:
        """Whether the UNet takes the guidance scale as an input and makes one pass do for all lanes."""
        return self.port("unet", GUIDANCE) is not None

    @property
    def channels(self) -> tuple[str, ...]:
        return () if self.control is None else self.control.channels
