"""What four lanes cost: pictures of dual guidance beside classifier-free ones, through one server, in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import TypeVar

import numpy as np
from benchmarks.common.bench import interval, prompt, timed

from impasto_client import Client, StyleContent

STEPS, SCALE = 25, 3.0
FOUR_LANES = StyleContent(style=1.0, content=2.0, scale=SCALE)  # no coefficient of Eq. 11 is 0
TWO_LANES = StyleContent(style=0.0, content=0.0, scale=SCALE)
WARM_UP = 3
SEED = 40_000

T = TypeVar("T")


@dataclass(frozen=True)
class Round:
    """Seconds of a classifier-free picture, one of dual guidance, and two of them at once; and whether the rule without
    λs and λc paints what classifier-free guidance does, byte for byte."""

    cfg_s: float
    dual_s: float
    pair_s: float
    identical: bool


@dataclass(frozen=True)
class Latency:
    """One server, and a style that all pictures are painted in."""

    client: Client
    style: str

    def rounds(self, count: int, done: Callable[[], object]) -> list[Round]:
        """`count` of them, after a warm-up; `done` is called after each, the warm-up's too."""
        found = []
        for number in range(WARM_UP + count):
            found.append(self._round(number))
            done()
        return found[WARM_UP:]

    def _round(self, number: int) -> Round:
        """Every picture has words of its own, so that its text is encoded; the order turns with the rounds."""
        rng = np.random.default_rng(SEED + number)
        words = [f"{prompt(rng)} number {4 * number + i}" for i in range(4)]
        turns: list[Callable[[], object]] = [
            lambda: self._paint(words[0], None),
            lambda: self._paint(words[1], FOUR_LANES),
            lambda: self._paint_both(words[2:]),
        ]
        order = [(number + i) % len(turns) for i in range(len(turns))]
        taken = {which: timed(turns[which]) for which in order}
        same = self._paint(words[0], TWO_LANES) == taken[0][1]
        return Round(taken[0][0], taken[1][0], taken[2][0], same)

    def _paint(self, words: str, guidance: StyleContent | None) -> bytes:
        scale = SCALE if guidance is None else None
        made = self.client.generate(
            words, style=self.style, steps=STEPS, guidance_scale=scale, guidance=guidance, seed=SEED, format="png"
        )
        return made.data

    def _paint_both(self, words: Sequence[str]) -> list[bytes]:
        with ThreadPoolExecutor(len(words)) as pool:
            return list(pool.map(partial(self._paint, guidance=FOUR_LANES), words))


def ratio(rounds: Sequence[Round]) -> float:
    """Four lanes over two."""
    return median(one.dual_s for one in rounds) / median(one.cfg_s for one in rounds)


def concurrent_ratio(rounds: Sequence[Round]) -> float:
    """Two pictures of four lanes at once over one."""
    return median(one.pair_s for one in rounds) / median(one.dual_s for one in rounds)


def report(rounds: Sequence[Round]) -> dict[str, object]:
    """Everything that --json holds of the figures."""
    return {
        "ratio": round(ratio(rounds), 4),
        "ratio_interval_95": interval(ratio, rounds),
        "concurrent_ratio": round(concurrent_ratio(rounds), 4),
        "concurrent_ratio_interval_95": interval(concurrent_ratio, rounds),
        "cfg_p50_ms": round(1000 * median(one.cfg_s for one in rounds), 3),
        "dual_p50_ms": round(1000 * median(one.dual_s for one in rounds), 3),
        "pair_p50_ms": round(1000 * median(one.pair_s for one in rounds), 3),
        "identical_images": sum(one.identical for one in rounds),
        "rounds": len(rounds),
        "steps": STEPS,
        "guidance": asdict(FOUR_LANES),
        "samples": [asdict(one) for one in rounds],
    }
