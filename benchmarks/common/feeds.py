"""Random rows as graphs are fed with them, for passes that are timed without a family around them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.bundle import Manifest, Port
from impasto_server.families.diffusion.manifest import DiffusionManifest
from impasto_server.families.masked.manifest import MaskedManifest


def batch(manifest: Manifest, lanes: int, slots: int) -> dict[str, NDArray[Any]]:
    """Random rows of the default image size, each at a timestep and with an adapter of its own, unsteered."""
    rng = np.random.default_rng(lanes)
    factor = factor_of(manifest)
    sizes = {"lanes": lanes, "h": manifest.image.height // factor, "w": manifest.image.width // factor}

    def values(port: Port) -> NDArray[Any]:
        shape = [size if isinstance(size, int) else sizes.get(size, 1) for size in port.shape]
        if port.name == "slot":
            return 1 + np.arange(lanes) % (slots - 1)
        if port.name == "timestep":
            return np.linspace(1, 999, lanes, dtype=np.float32)
        if port.dtype == "int64":
            return np.zeros(shape, np.int64)
        return rng.standard_normal(shape, np.float32)

    return {port.name: values(port) for port in manifest.graphs[manifest.backbone].inputs}


def factor_of(manifest: Manifest) -> int:
    """Pixels a side of what is sampled."""
    if isinstance(manifest, DiffusionManifest):
        return manifest.latents.factor
    assert isinstance(manifest, MaskedManifest)
    return manifest.tokens.factor
