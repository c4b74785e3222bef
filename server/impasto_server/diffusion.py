"""The family of diffusion models: a UNet, and where the bundle has one its ControlNet, over a VAE's latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.backbone import Backbone, Embeds, Feeds, Hint, Row, hidden, samples, slots
from impasto_server.bundle import DiffusionManifest, Graph
from impasto_server.conditioning import Conditioner, Conditions
from impasto_server.engine import Engine
from impasto_server.image import Decoder, Encoder, Previewer
from impasto_server.request import Request
from impasto_server.samplers import SAMPLERS, Schedule, Start, Steps

Array = NDArray[np.float32]

RESIDUAL = "residual"  # in the name of every UNet input that the ControlNet fills


class Diffusion:
    """See Family."""

    def __init__(self, manifest: DiffusionManifest, compiled: Callable[[str], Engine]) -> None:
        self._manifest = manifest
        self._schedule = Schedule.of(manifest.scheduler)
        self.train_timesteps: float = manifest.scheduler.num_train_timesteps
        controlnet = compiled("controlnet") if "controlnet" in manifest.graphs else None
        self.backbone = Backbone(compiled("unet"), UNetFeeds(manifest.graphs["unet"], controlnet))
        self._decoder = Decoder(compiled("vae_decoder"), manifest.latents)
        self._previewer = Previewer(self._decoder, manifest.latents)
        self._conditioner = Conditioner(Encoder(compiled("vae_encoder"), manifest.latents), manifest.control)

    def warm(self, embeds: Embeds, max_lanes: int, weights_bytes: int) -> None:
        size = self._manifest.image
        latents = self.noise(0, size.width, size.height)
        self.decode(latents)
        row = Row(latents, 0, embeds, 0)
        self.backbone.prepare(row, max_lanes, weights_bytes)
        if self._manifest.control is not None:
            hint = Hint(np.zeros((3, size.height, size.width), np.float32), 1.0)
            self.backbone.run([replace(row, hint=hint)] * min(2, max_lanes))

    def condition(self, request: Request) -> Conditions:
        return self._conditioner.read(request)

    def begin(self, request: Request, seed: int, conditions: Conditions) -> Steps:
        start = Start(self.noise(seed, request.width, request.height), conditions.clean, request.strength)
        return SAMPLERS[request.scheduler](start, request.steps, self._schedule)

    def decode(self, sample: Array) -> NDArray[np.uint8]:
        return self._decoder.decode(sample)

    def preview(self, sample: Array) -> bytes:
        return self._previewer.preview(sample)

    def noise(self, seed: int, width: int, height: int) -> Array:
        """Unit Gaussian latents [C, h, w], a function of the seed and the size alone."""
        facts = self._manifest.latents
        shape = (facts.channels, height // facts.factor, width // facts.factor)
        return np.random.Generator(np.random.Philox(seed)).standard_normal(shape, np.float32)


class UNetFeeds:
    """Rows → what the UNet is fed.

    Rows that have a hint are seen by the ControlNet first, in a batch of their own; what it says is added in the UNet,
    which runs all rows together. The others get zeros there, one number wide.
    """

    def __init__(self, graph: Graph, controlnet: Engine | None) -> None:
        self._graph = graph
        self._controlnet = controlnet

    def __call__(self, rows: Sequence[Row]) -> Feeds:
        return {**_lanes(rows), "slot": slots(rows), **self._residuals(rows)}

    def _residuals(self, rows: Sequence[Row]) -> Feeds:
        hinted = [i for i, row in enumerate(rows) if row.hint is not None]
        plain = unsteered(self._graph, len(rows))
        if not hinted:
            return plain
        assert self._controlnet is not None, "a request with a hint was let in without a ControlNet"
        found = self._controlnet.run(_hinted([rows[i] for i in hinted]))
        if len(hinted) == len(rows):
            return dict(zip(plain, found, strict=True))
        spread: Feeds = {}
        for name, residual in zip(plain, found, strict=True):
            spread[name] = np.zeros((len(rows), *residual.shape[1:]), np.float32)
            spread[name][hinted] = residual
        return spread


def unsteered(graph: Graph, rows: int) -> Feeds:
    """What the UNet's `graph` is fed in the place of a ControlNet's residuals: zeros [rows, C, 1, 1]."""
    ports = [port for port in graph.inputs if RESIDUAL in port.name]
    return {port.name: np.zeros((rows, int(port.shape[1]), 1, 1), np.float32) for port in ports}


def _lanes(rows: Sequence[Row]) -> Feeds:
    timesteps: NDArray[Any] = np.array([row.timestep for row in rows], np.float32)
    return {"sample": samples(rows), "timestep": timesteps, "encoder_hidden_states": hidden(rows)}


def _hinted(rows: Sequence[Row]) -> Feeds:
    hints = [row.hint for row in rows if row.hint is not None]
    return {
        **_lanes(rows),
        "hint": np.stack([hint.pixels for hint in hints]),
        "conditioning_scale": np.array([hint.scale for hint in hints], np.float32),
    }
