"""Rows → what a UNet is fed, and what a ControlNet says of them first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.seat import SeatedEngine
from impasto_server.backbone import Feeds, Row, hidden, pooled, samples
from impasto_server.bundle import GUIDANCE, DiffusionManifest, Graph

Array = NDArray[np.float32]

RESIDUAL = "residual"  # in the name of every UNet input that the ControlNet fills


class UNetFeeds:
    """Rows → what the UNet is fed: sample, timestep and context; and what else it has ports for.

    text_embeds    the text, pooled.
    time_ids       the size of the picture that it was cropped from, the crop's corner, and its own size.
    timestep_cond  the guidance scale.
    residuals      rows that have a hint are seen by the ControlNet first, in a batch of their own; what it says is
                   added in the UNet, which runs all rows together. The others get zeros there, one number wide.
    """

    def __init__(self, manifest: DiffusionManifest, controlnet: SeatedEngine | None) -> None:
        factor, guidance = manifest.latents.factor, manifest.port("unet", GUIDANCE)
        conditions: dict[str, Callable[[Sequence[Row]], Array]] = {
            "text_embeds": pooled,
            "time_ids": lambda rows: _sizes(rows, factor),
        }
        if guidance is not None:
            width = int(guidance.shape[-1])
            conditions[GUIDANCE] = lambda rows: scale_embeddings([row.scale for row in rows], width)
        self._graph = manifest.graphs["unet"]
        self._conditions = {port.name: conditions[port.name] for port in self._graph.inputs if port.name in conditions}
        self._controlnet = controlnet

    def __call__(self, rows: Sequence[Row]) -> Feeds:
        conditions = {name: of(rows) for name, of in self._conditions.items()}
        return {**_lanes(rows), **conditions, **self._residuals(rows)}

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


def scale_embeddings(scales: Sequence[float], width: int) -> Array:
    """[rows, width]: sines and cosines of 1000·(s - 1)·10000^(-i / (⌊width / 2⌋ - 1)), an odd width ending in a zero.

    As diffusers' get_guidance_scale_embedding, but in float64: float32 has few digits left of angles that large.
    """
    half = width // 2
    angles = 1000 * (np.array(scales)[:, None] - 1) * np.power(10000.0, -np.arange(half) / (half - 1))
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    return np.pad(waves, ((0, 0), (0, width % 2)))


def _sizes(rows: Sequence[Row], factor: int) -> Array:
    """[rows, 6]: height and width, a crop's corner at 0, height and width: nothing was cropped or made smaller."""
    height, width = (size * factor for size in rows[0].sample.shape[1:])
    return np.tile(np.array([height, width, 0, 0, height, width], np.float32), (len(rows), 1))


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
