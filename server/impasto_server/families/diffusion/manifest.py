"""The manifest of diffusion bundles."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar, Literal

from pydantic import Field

from impasto_server.bundle import Frozen, Sides
from impasto_server.families.diffusion.samplers import SAMPLERS
from impasto_server.families.diffusion.schedule import Noise
from impasto_server.steps import BASE
from impasto_server.words.manifest import WordedManifest

GUIDANCE = "timestep_cond"  # a UNet's input: the guidance scale, embedded
RESIDUAL = "residual"  # stands in the name of every UNet input that the ControlNet fills


class Latents(Frozen):
    channels: int = Field(gt=0)
    factor: int = Field(gt=0)
    scaling_factor: float
    shift_factor: float = 0.0


class Control(Frozen):
    """What each channel of the ControlNet's hint carries. A channel that isn't `optional` must be given."""

    channels: tuple[Literal["edges", "depth"], ...]
    optional: tuple[Literal["edges", "depth"], ...] = ()


class DiffusionManifest(WordedManifest):
    """The manifest of a UNet that predicts the noise in latents."""

    schedulers: ClassVar[Collection[str]] = SAMPLERS.keys()

    family: Literal["diffusion"]
    latents: Latents
    scheduler: Noise
    control: Control | None = None

    @property
    def backbones(self) -> Mapping[str, str]:
        return {BASE: "unet"}

    @property
    def told_of_guidance(self) -> bool:
        """Whether the UNet takes the guidance scale as an input, so that one lane is enough."""
        return self.port("unet", GUIDANCE) is not None

    @property
    def channels(self) -> tuple[str, ...]:
        return () if self.control is None else self.control.channels

    @property
    def stepping(self) -> tuple[str, ...]:
        return *super().stepping, "controlnet"

    def dimensions(self, width: int, height: int) -> Mapping[str, int]:
        factor = self.latents.factor
        return {**super().dimensions(width, height), "w": width // factor, "h": height // factor}

    @property
    def sides(self) -> tuple[Sides, Sides]:
        """The ranges, with the residuals': up to the size of the latents or of a lower level, and 1 without a hint."""
        usual, every = ({**self._residuals(sides), **sides} for sides in super().sides)
        return usual, every

    def _residuals(self, sides: Sides) -> Sides:
        ports = [port.shape[-2:] for port in self.graphs["unet"].inputs if RESIDUAL in port.name]
        return {str(name): (1, 1, sides[side][2]) for port in ports for name, side in zip(port, "hw", strict=True)}
