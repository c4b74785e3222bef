"""A ControlNet for a checkpoint: what its hint's channels carry, and whether it fits the checkpoint's UNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto_export.architecture import Architecture, Json
from impasto_export.errors import ControlError, listing

NAME = "controlnet"
CARRIED = ("edges", "depth")
# To the ControlNet, a hint is an RGB picture.
CHANNELS = 3
# Config keys of both networks that must agree.
SHARED = ("in_channels", "cross_attention_dim", "block_out_channels")


@dataclass(frozen=True)
class Control:
    """The user's ControlNet. `place` names it, as `controlnet` reads it; `channels` says what each channel of its hint
    carries, `optional` which of these a request may leave out. Raises ControlError for channels that the server cannot
    make."""

    place: str | Path
    channels: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.channels) != CHANNELS or not set(self.channels) <= set(CARRIED):
            fix = f"give {CHANNELS} names, one for each channel of the hint ({' or '.join(CARRIED)}): edges,edges,depth"
            raise ControlError(f"--control: got {','.join(self.channels)!r}; {fix}")
        if not set(self.optional) <= set(self.channels):
            known = ", ".join(dict.fromkeys(self.channels))
            raise ControlError(f"--control-optional: got {','.join(self.optional)!r}; choose among {known}")

    @property
    def facts(self) -> Json:
        """The manifest's entry."""
        optional = {"optional": list(self.optional)} if self.optional else {}
        return {"channels": list(self.channels), **optional}


def check_fit(base: Architecture, found: Architecture) -> None:
    """Raises ControlError for a backbone that takes no ControlNet, or that names every size that differs."""
    if base.family != found.family:
        raise ControlError(f"--controlnet: {base.name} is a {base.family} backbone; only diffusion takes a ControlNet")
    unet, own = base.components["unet"].config, found.components[NAME].config
    sizes: Mapping[str, tuple[Any, Any]] = {
        **{key: (own.get(key), unet.get(key)) for key in SHARED},
        "residual channels": (_residuals(found, NAME), _residuals(base, "unet")),
        "hint pixels per latent": (found.sizes["latents"]["factor"], base.sizes["latents"]["factor"]),
    }
    apart = [f"{key}: ControlNet {have!r}, checkpoint {want!r}" for key, (have, want) in sizes.items() if have != want]
    if apart:
        fix = "take one for this backbone, or export the checkpoint's graphs again if they are old"
        raise ControlError(f"--controlnet: {found.name} does not fit {base.name}; {fix}:\n{listing(apart)}")


def _residuals(architecture: Architecture, graph: str) -> list[int | str]:
    """Channels of the residuals that the ControlNet puts out, or that the UNet takes."""
    facts = architecture.graphs[graph]
    ports = facts.outputs if graph == NAME else facts.inputs
    return [port.shape[1] for port in ports if "residual" in port.name]
