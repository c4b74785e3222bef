"""Is this commit slower than another one? Two real servers in one run, one of each checkout.

python benchmarks/against.py OTHER --json FILE [--rounds 40]

OTHER is the folder of a checkout in which `make bundle` has run. Each side links the studio's small model and imports
its styles with its own `impasto`, and serves them with its own Triton. Every round asks both for the same picture, then
has eight users ask both for one each at once; the side that isn't asked is idle. The order turns with every round.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import track

from impasto_client import Client

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are scripts, none is installed

from benchmarks.common.bench import ROOT, interval, machine, seconds, warning, write

# Says where the server is, and keeps it until its own standard input ends.
TELL = "import os, sys; print(os.environ['IMPASTO_URL'], flush=True); sys.stdin.read()"
STYLES = ("stained-glass", "stipple", "halftone", "mosaic")
USERS, WARM_UP = 8, 3
STEPS = (16, 10, 12, 14, 18, 20, 22, 24)
NOTES = [
    "latency_ratio: median seconds of one user's picture over gRPC, this commit / the other one; crowd_ratio: the same "
    "of eight users at once, each with other steps, guidance and one of four styles, until the last has its picture. "
    "*_interval_95: bootstrap over rounds. Below 1 this commit is faster.",
    "identical_images: of the pictures that one user asked for, how many are the same bytes on both sides.",
]


@dataclass(frozen=True)
class Round:
    """Seconds of this commit and of the other one, and whether one user's pictures were the same."""

    alone: tuple[float, float]
    crowd: tuple[float, float]
    identical: bool


@contextmanager
def served(checkout: Path, scratch: Path) -> Iterator[Client]:
    """A client of the server that `checkout` makes of the studio's model and styles."""
    impasto, bundle = str(checkout / ".venv/bin/impasto"), str(scratch / "bundle")
    environment = {**os.environ, "IMPASTO_REGISTRY": str(scratch / "registry")}

    def run(*command: str) -> None:
        subprocess.run([impasto, *command], env=environment, check=True, stdout=subprocess.DEVNULL)

    run("link", str(ROOT / "studio/mini-diffusion"), "--out", bundle)
    for style in STYLES:
        run("adapters", "import", str(ROOT / "studio/styles" / style), "--name", style, "--bundle", bundle)
    command = [impasto, "serve", "--bundle", bundle, "--port", "0", "--quiet", "--", sys.executable, "-c", TELL]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        if not url:
            raise SystemExit(f"the server of {checkout} did not start; what it said is above")
        with Client(url) as client:
            yield client


def alone(client: Client, number: int) -> bytes:
    """One user's picture."""
    return client.generate(f"a red boat number {number}", adapters=STYLES[number % len(STYLES)], seed=number).data


def crowd(client: Client, number: int) -> None:
    """Eight users, until the last one has its picture."""

    def one(user: int) -> None:
        client.generate(
            f"a green house number {number}",
            adapters=STYLES[user % len(STYLES)],
            steps=STEPS[user],
            guidance_scale=2.0 + user,
            seed=number + user,
        )

    with ThreadPoolExecutor(USERS) as users:
        list(users.map(one, range(USERS)))


def measured(sides: Sequence[Client], number: int) -> Round:
    """Both sides in turn; whose turn is first changes with `number`."""
    order = (0, 1) if number % 2 else (1, 0)

    def both(work: Callable[[Client, int], object]) -> tuple[float, float]:
        taken = {side: seconds(work, sides[side], number) for side in order}
        return taken[0], taken[1]

    pictures: dict[Client, bytes] = {}

    def keep(client: Client, number: int) -> None:
        pictures[client] = alone(client, number)

    single = both(keep)
    return Round(single, both(crowd), len(set(pictures.values())) == 1)


def latency_ratio(rounds: Sequence[Round]) -> float:
    return median(one.alone[0] for one in rounds) / median(one.alone[1] for one in rounds)


def crowd_ratio(rounds: Sequence[Round]) -> float:
    return median(one.crowd[0] for one in rounds) / median(one.crowd[1] for one in rounds)


def report(rounds: Sequence[Round]) -> Mapping[str, object]:
    """Everything that --json holds of the figures."""
    return {
        "latency_ratio": round(latency_ratio(rounds), 4),
        "latency_ratio_interval_95": interval(latency_ratio, rounds),
        "crowd_ratio": round(crowd_ratio(rounds), 4),
        "crowd_ratio_interval_95": interval(crowd_ratio, rounds),
        "identical_images": sum(one.identical for one in rounds),
        "rounds": len(rounds),
        "notes": NOTES,
        "samples": [{"alone_s": one.alone, "crowd_s": one.crowd} for one in rounds],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the folder of the other checkout")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    parser.add_argument("--rounds", type=int, default=40, help="default 40")
    asked = parser.parse_args()
    facts, console = machine(), Console(stderr=True)
    console.print(warning(facts))
    with TemporaryDirectory(prefix="impasto-bench-") as scratch, ExitStack() as stack:
        sides = []
        for name, checkout in (("this", ROOT), ("other", asked.other.resolve())):
            (Path(scratch) / name).mkdir()
            sides.append(stack.enter_context(served(checkout, Path(scratch) / name)))
        for number in range(WARM_UP):
            measured(sides, number)
        numbers = range(WARM_UP, WARM_UP + asked.rounds)
        rounds = [measured(sides, number) for number in track(numbers, "rounds", console=console)]
    found = {**report(rounds), "machine": facts}
    write(found, asked.json)
    console.print_json(data={key: value for key, value in found.items() if key not in ("notes", "samples")})


if __name__ == "__main__":
    main()
