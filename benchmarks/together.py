"""Two bundles in one server: how long does a picture of one take beside a crowd that saturates the other?

python benchmarks/together.py --json FILE

mini-muse paints one picture after another, in 12 and 8 steps of its two stages. In each round it does so alone, beside
a crowd that keeps mini-diffusion busy, and beside the same crowd in a process whose passes go through no turnstile, so
that two passes fight for the cores. The order turns with every round. Each picture beside a crowd is held against the
same alone.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Event
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from impasto_export.link import link
from impasto_server.errors import ImpastoError
from impasto_server.front import Asker, Front, opened
from impasto_server.outputs import Tensors
from impasto_server.pipeline import Pipeline
from impasto_server.settings import Settings
from impasto_server.shared import Shared
from impasto_server.turnstile import Share, Turnstile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are scripts, none is installed

from benchmarks.common.bench import ROOT, interval, machine, prompt, warning, write
from studio.reading.psnr import psnr_db

STEPS, UPSCALE_STEPS, CROWD_STEPS = 12, 8, 25
CROWD = 6  # with two lanes each: more than the eight of a usual batch
PICTURES = 4  # of mini-muse, each time
PATIENCE_S = 600.0
NOTES = [
    "beside_over_alone: median seconds of a mini-muse picture, in 12 and 8 steps of its stages, beside the crowd / the "
    "same alone, one by one.",
    "fighting_over_alone: the same in a process without a turnstile. *_interval_95: bootstrap over rounds.",
    "crowd_rps: pictures a second that the crowd had meanwhile, with the turnstile and without, and alone.",
    "parity_psnr_db_min: of mini-muse's pictures beside the crowd against those alone, in bf16 where the CPU has it; a "
    "picture has its passes for itself in both, so they are the same to the last bit.",
]


@dataclass(frozen=True)
class Round:
    """Seconds of each of mini-muse's pictures, pictures a second of the crowd, and the worst parity."""

    alone: tuple[float, ...]
    beside: tuple[float, ...]
    fighting: tuple[float, ...]
    crowd_alone_rps: float
    crowd_beside_rps: float
    crowd_fighting_rps: float
    parity_db: float


class Open(Turnstile):
    """Lets everybody in at once."""

    def enter(self, share: Share) -> None: ...

    def leave(self, share: Share) -> None: ...

    def rest(self, share: Share) -> None: ...


@dataclass(frozen=True)
class Bench:
    turned: Front
    fought: Front

    def round(self, number: int) -> Round:
        asked = [muse(1000 * number + i) for i in range(PICTURES)]
        sides = {"turned": self.turned, "fought": self.fought}
        alone = painted(self.turned, asked)
        found = {}
        for name in sorted(sides, reverse=bool(number % 2)):
            with crowd(sides[name], number) as rate:
                found[name] = painted(sides[name], asked), rate()
        with crowd(self.turned, number) as rate:
            painted_meanwhile(rate)
            rps = rate()
        parity = [
            psnr_db(pixels(one), pixels(other))
            for pictures, _ in found.values()
            for (_, one), (_, other) in zip(alone, pictures, strict=True)
        ]
        return Round(
            alone=tuple(seconds for seconds, _ in alone),
            beside=tuple(seconds for seconds, _ in found["turned"][0]),
            fighting=tuple(seconds for seconds, _ in found["fought"][0]),
            crowd_alone_rps=rps,
            crowd_beside_rps=found["turned"][1],
            crowd_fighting_rps=found["fought"][1],
            parity_db=min(parity),
        )


def muse(seed: int) -> dict[str, NDArray[Any]]:
    words = prompt(np.random.default_rng(seed))
    both = {"MODEL": np.array([b"muse"], np.object_), "UPSCALE_STEPS": np.array([UPSCALE_STEPS], np.int32)}
    return {**tensors(words, seed, STEPS), **both}


def tensors(words: str, seed: int, steps: int) -> dict[str, NDArray[Any]]:
    return {
        "PROMPT": np.array([words.encode()], np.object_),
        "SEED": np.array([seed], np.int64),
        "STEPS": np.array([steps], np.int32),
    }


def paint(front: Front, asked: Tensors) -> bytes:
    told: Future[Tensors | ImpastoError] = Future()
    front.submit(asked, 0, Asker(told.set_result))
    outcome = told.result(PATIENCE_S)
    if isinstance(outcome, ImpastoError):
        raise outcome
    image: bytes = outcome["IMAGE"][0]
    return image


def painted(front: Front, asked: Sequence[Tensors]) -> list[tuple[float, bytes]]:
    """One after another: how long each took, and the file."""
    found = []
    for one in asked:
        begun = perf_counter()
        image = paint(front, one)
        found.append((perf_counter() - begun, image))
    return found


def painted_meanwhile(rate: Any) -> None:
    """Wait until the crowd has had two pictures each."""
    while rate.done < 3 * CROWD:
        rate.moved.wait(PATIENCE_S)
        rate.moved.clear()


@dataclass
class Rate:
    """Pictures a second since the crowd's first ones were done."""

    done: int = 0
    begun: float = 0.0
    moved: Event = field(default_factory=Event)

    def __call__(self) -> float:
        return (self.done - CROWD) / (perf_counter() - self.begun)


@contextmanager
def crowd(front: Front, number: int) -> Iterator[Rate]:
    """Keeps mini-diffusion busy; entered once everybody has had a picture."""
    leaving, rate = Event(), Rate()

    def stay(place: int) -> None:
        seed = 100_000 * (number + 1) + 1000 * place
        while not leaving.is_set():
            seed += 1
            paint(front, tensors(prompt(np.random.default_rng(seed)), seed, CROWD_STEPS))
            rate.done += 1
            rate.moved.set()

    with ThreadPoolExecutor(CROWD) as pool:
        staying = [pool.submit(stay, place) for place in range(CROWD)]
        while rate.done < CROWD and not any(one.done() for one in staying):
            rate.moved.wait(PATIENCE_S)
            rate.moved.clear()
        rate.begun = perf_counter()
        try:
            yield rate
        finally:
            leaving.set()
    for one in staying:
        one.result()


def pixels(file: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(file)))


def report(rounds: Sequence[Round]) -> dict[str, object]:
    def over_alone(what: str) -> Any:
        return lambda rows: _median(rows, what) / _median(rows, "alone")

    found: dict[str, object] = {}
    for what in ("beside", "fighting"):
        found[f"{what}_over_alone"] = round(over_alone(what)(rounds), 3)
        found[f"{what}_over_alone_interval_95"] = interval(over_alone(what), rounds)
    return {
        **found,
        **{f"{what}_p50_ms": round(1000 * _median(rounds, what), 1) for what in ("alone", "beside", "fighting")},
        "crowd_rps": {
            what: round(median(getattr(one, f"crowd_{what}_rps") for one in rounds), 2)
            for what in ("alone", "beside", "fighting")
        },
        "parity_psnr_db_min": round(min(one.parity_db for one in rounds), 1),
        "rounds": len(rounds),
        "notes": NOTES,
        "samples": [vars(one) for one in rounds],
    }


def _median(rounds: Sequence[Round], what: str) -> float:
    return float(median(seconds for one in rounds for seconds in getattr(one, what)))


@contextmanager
def benches() -> Iterator[Bench]:
    with TemporaryDirectory(prefix="impasto-bench-") as folder:
        sources = {"photo": "studio/mini-diffusion", "muse": "studio/mini-muse"}
        bundles = {name: link(ROOT / source, Path(folder) / name).folder for name, source in sources.items()}
        settings = Settings(bundles, Path(folder) / "registry")
        found = opened(settings)
        shared = replace(Shared.of(settings, found), turnstile=Open())
        bench = Bench(Front.load(settings), Front([Pipeline(one, settings, shared) for one in found], shared))
        yield bench
        bench.turned.close()
        bench.fought.close()


def measure(count: int, bar: Progress) -> Mapping[str, object]:
    """Warm up, then `count` rounds, then figures."""
    with benches() as bench:
        bench.round(0)
        return report([bench.round(number) for number in bar.track(range(1, count + 1), description="rounds")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    parser.add_argument("--rounds", type=int, default=20, help="of four pictures each way (default 20)")
    asked = parser.parse_args()
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console, facts = Console(stderr=True), machine()
    console.print(warning(facts))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        found = {**measure(asked.rounds, bar), "machine": facts}
    write(found, asked.json)
    console.print_json(data={key: value for key, value in found.items() if key not in ("notes", "samples")})


if __name__ == "__main__":
    main()
