"""The families of models: each has a folder, and an entry in FAMILIES here."""

from __future__ import annotations

from pathlib import Path

from impasto_server.bundle import Bundle
from impasto_server.families.diffusion import offer as diffusion
from impasto_server.families.diffusion.diffusion import Diffusion
from impasto_server.families.diffusion.manifest import DiffusionManifest
from impasto_server.families.family import Kind
from impasto_server.families.feedforward import offer as feedforward
from impasto_server.families.feedforward.feedforward import Feedforward
from impasto_server.families.feedforward.manifest import FeedforwardManifest
from impasto_server.families.masked import offer as masked
from impasto_server.families.masked.manifest import MaskedManifest
from impasto_server.families.masked.masked import Masked

FAMILIES: dict[str, Kind] = {
    "diffusion": Kind(DiffusionManifest, Diffusion, diffusion.OFFER),
    "masked": Kind(MaskedManifest, Masked, masked.OFFER),
    "feedforward": Kind(FeedforwardManifest, Feedforward, feedforward.OFFER),
}


def open_bundle(folder: Path, name: str | None = None) -> Bundle:
    """As Bundle.open, for any family. Raises SetupError."""
    return Bundle.open(folder, {family: kind.manifest for family, kind in FAMILIES.items()}, name)
