"""Pictures of both stages, as users of the cascade ask for them, whoever paints them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.common.bench import COLOURS, THINGS
from benchmarks.common.draws import Decoding

from impasto_client import Options
from impasto_server.families.masked.manifest import UPSCALE
from impasto_server.steps import BASE

SCHEDULER = "amused"


@dataclass(frozen=True)
class Wish:
    """Classifier-free at both stages, under one pair."""

    prompt: str
    pair: str
    seed: int
    steps: int = 12
    scale: float = 3.0
    temperature: float = 2.0
    upscale_steps: int = 8
    upscale_scale: float = 2.0
    upscale_temperature: float = 4.5

    @property
    def options(self) -> Options:
        """What a client says."""
        return {
            "adapters": {self.pair: 1.0},
            "seed": self.seed,
            "scheduler": SCHEDULER,
            "steps": self.steps,
            "guidance_scale": self.scale,
            "temperature": self.temperature,
            "upscale_steps": self.upscale_steps,
            "upscale_guidance_scale": self.upscale_scale,
            "upscale_temperature": self.upscale_temperature,
        }

    @property
    def decodings(self) -> dict[str, Decoding]:
        """By stage, in their order."""
        return {
            BASE: Decoding(self.steps, self.temperature, SCHEDULER),
            UPSCALE: Decoding(self.upscale_steps, self.upscale_temperature, SCHEDULER),
        }

    @property
    def scales(self) -> dict[str, float]:
        return {BASE: self.scale, UPSCALE: self.upscale_scale}


def wishes(pairs: Sequence[str], number: int) -> tuple[Wish, ...]:
    """One for each pair, with words and a seed of its own, that nobody has seen before the round `number`."""
    return tuple(
        Wish(f"a {COLOURS[user]} {THINGS[user]} at night, picture {number}", pair, 1000 * number + user)
        for user, pair in enumerate(pairs)
    )
