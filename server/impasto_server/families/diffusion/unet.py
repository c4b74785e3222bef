"""Rows → the feeds of a UNet, with the residuals of a ControlNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.seat import SeatedEngine
from impasto_server.backbone import Feeds, Row, samples
from impasto_server.bundle import Graph
from impasto_server.families.diffusion.hints import Hint
from impasto_server.families.diffusion.manifest import GUIDANCE, RESIDUAL, DiffusionManifest
from impasto_server.families.spoken import hidden, pooled
from impasto_server.steps import Ask
from impasto_server.words.embeds import Embeds
from impasto_server.words.prompt import Staged

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Context:
    """The context of a row: the words of its lane, and the ControlNet's hint, if any.

    `scale` is the guidance scale for a backbone with an input for it; 1 is none. With `ramp` it rises from 1.
    """

    words: Staged
    hint: Hint | None = None
    scale: float = 1.0
    ramp: bool = False

    def scale_at(self, ask: Ask) -> float:
        return 1 + (ask.progress if self.ramp else 1.0) * (self.scale - 1)


class UNetFeeds:
    """Rows → the UNet's feeds: sample, timestep, prompt embeds, and whatever else it has ports for.

    text_embeds    the pooled text.
    time_ids       the size of the original picture, the crop's corner, and the picture's own size.
    timestep_cond  the guidance scale.
    residuals      the ControlNet's outputs. It runs first, on a batch of the rows that have a hint; the UNet runs all
                   rows together. The other rows get zeros; if no row has a hint, they are only [rows, C, 1, 1].
    """

    def __init__(self, manifest: DiffusionManifest, controlnet: SeatedEngine | None) -> None:
        factor, guidance = manifest.latents.factor, manifest.port("unet", GUIDANCE)
        self._timesteps = manifest.scheduler.num_train_timesteps
        conditions: dict[str, Callable[[Sequence[Row]], Array]] = {
            "text_embeds": lambda rows: pooled(self._said(rows)),
            "time_ids": lambda rows: _sizes(rows, factor),
        }
        if guidance is not None:
            width = int(guidance.shape[-1])
            conditions[GUIDANCE] = lambda rows: scale_embeddings([row.context.scale_at(row.ask) for row in rows], width)
        self._graph = manifest.graphs["unet"]
        self._conditions = {port.name: conditions[port.name] for port in self._graph.inputs if port.name in conditions}
        self._controlnet = controlnet

    def __call__(self, rows: Sequence[Row]) -> Feeds:
        conditions = {name: of(rows) for name, of in self._conditions.items()}
        return {**self._lanes(rows), **conditions, **self._residuals(rows)}

    def _residuals(self, rows: Sequence[Row]) -> Feeds:
        hinted = [i for i, row in enumerate(rows) if row.context.hint is not None]
        plain = unsteered(self._graph, len(rows))
        if not hinted:
            return plain
        assert self._controlnet is not None, "a request with a hint was let in without a ControlNet"
        found = self._controlnet.run(self._hinted([rows[i] for i in hinted]))
        if len(hinted) == len(rows):
            return dict(zip(plain, found, strict=True))
        spread: Feeds = {}
        for name, residual in zip(plain, found, strict=True):
            spread[name] = np.zeros((len(rows), *residual.shape[1:]), np.float32)
            spread[name][hinted] = residual
        return spread

    def _said(self, rows: Sequence[Row]) -> list[Embeds]:
        return [row.context.words.at(row.ask.timestep, self._timesteps) for row in rows]

    def _lanes(self, rows: Sequence[Row]) -> Feeds:
        timesteps: NDArray[Any] = np.array([row.ask.timestep for row in rows], np.float32)
        return {"sample": samples(rows), "timestep": timesteps, "encoder_hidden_states": hidden(self._said(rows))}

    def _hinted(self, rows: Sequence[Row]) -> Feeds:
        hints: list[Hint] = [row.context.hint for row in rows]
        return {
            **self._lanes(rows),
            "hint": np.stack([hint.pixels for hint in hints]),
            "conditioning_scale": np.array([hint.scale for hint in hints], np.float32),
        }


def unsteered(graph: Graph, rows: int) -> Feeds:
    """The feeds that stand in for a ControlNet's residuals: zeros [rows, C, 1, 1]."""
    ports = [port for port in graph.inputs if RESIDUAL in port.name]
    return {port.name: np.zeros((rows, int(port.shape[1]), 1, 1), np.float32) for port in ports}


def scale_embeddings(scales: Sequence[float], width: int) -> Array:
    """[rows, width]: sines and cosines of 1000·(s - 1)·10000^(-i / (⌊width / 2⌋ - 1)); an odd width ends in a zero.

    As diffusers' get_guidance_scale_embedding, but in float64, since float32 is too coarse for such large angles.
    """
    half = width // 2
    angles = 1000 * (np.array(scales)[:, None] - 1) * np.power(10000.0, -np.arange(half) / (half - 1))
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    return np.pad(waves, ((0, 0), (0, width % 2)))


def _sizes(rows: Sequence[Row], factor: int) -> Array:
    """time_ids [rows, 6]: height, width, the crop's corner (0, 0), height, width; so nothing was cropped or reduced."""
    height, width = (size * factor for size in rows[0].ask.sample.shape[1:])
    return np.tile(np.array([height, width, 0, 0, height, width], np.float32), (len(rows), 1))
