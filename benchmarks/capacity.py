"""How many replicas, and what they cost: from the times of one replica to a fleet that meets a p95.

python benchmarks/capacity.py                       for what capacity.json beside it says: devices, workloads, demand
python benchmarks/capacity.py --input FILE          for figures of your own, in that form
python benchmarks/capacity.py --check fleet.json    beside what benchmarks/fleet.py measured on 1, 2 and 4 replicas

Nothing is measured here.

docs/capacity.md has the formulas. `Replica` is what one was measured at, `Demand` what is asked of all; `plan` puts
them together.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DAY_S, HOUR_S = 86400.0, 3600.0
TAIL = 0.05  # of requests that may take longer than the p95
ADAPTERS, TURNS = "adapters", "round-robin"  # ways to route
MOST = 10_000_000  # replicas; more isn't an answer


class BadInput(ValueError):
    """A figure that can't be; str() says which, and what to give."""


@dataclass(frozen=True)
class Replica:
    """What one replica does: `work_s` seconds of its time for a picture in a crowd, `alone_s` from a request to its
    picture when nothing else runs, `load_s` to load an adapter; `seats` adapters are resident, and a pass has room for
    `batch` pictures. `measured` says whether the times were measured on such a machine, or are worked out from its data
    sheet.
    """

    work_s: float
    alone_s: float
    load_s: float
    seats: int
    batch: float = 1.0
    price_per_hour: float = 0.0
    spare: int = 0  # replicas beyond those needed: one may die, or be replaced
    measured: bool = False

    def __post_init__(self) -> None:
        for name in ("work_s", "alone_s"):
            _checked(name, getattr(self, name), above=0.0)
        for name in ("load_s", "price_per_hour", "seats", "spare"):
            _checked(name, getattr(self, name), least=0.0)
        _checked("batch", self.batch, least=1.0)

    def painting_s(self, per_second: float) -> float:
        """Seconds that a picture takes beside the others of an even stream, by Little's law.

        n pictures at once take alone_s + (n - 1) x slope each, up to batch x work_s for a full batch; and there are
        n = per_second x that long.
        """
        if self.batch == 1:
            return self.alone_s
        slope = max(0.0, (self.batch * self.work_s - self.alone_s) / (self.batch - 1))
        return max(self.alone_s, (self.alone_s - slope) / (1 - min(per_second * slope, 1 - 1e-12)))


@dataclass(frozen=True)
class Demand:
    """What is asked: pictures a second at the busiest time, how long 95 % of them may take, and under which adapters.

    The k-th popular of `adapters` is asked for in proportion to k^-zipf. `utilization` is the largest share of their
    time that replicas may be busy, `variation` the squared coefficient of variation of `work_s`.
    """

    per_second: float
    p95_s: float
    adapters: int = 1
    zipf: float = 1.1
    routing: str = ADAPTERS
    utilization: float = 0.8
    variation: float = 1.0

    def __post_init__(self) -> None:
        for name in ("per_second", "p95_s"):
            _checked(name, getattr(self, name), above=0.0)
        for name in ("zipf", "variation"):
            _checked(name, getattr(self, name), least=0.0)
        _checked("adapters", self.adapters, least=1.0)
        _checked("utilization", self.utilization, above=0.0, below=1.0)
        if self.routing not in (ADAPTERS, TURNS):
            raise BadInput(f"routing: {self.routing!r} is unknown; say {ADAPTERS} or {TURNS}")


@dataclass(frozen=True)
class Plan:
    """A fleet: `replicas` with the spare ones; the rest is without those, at the busiest time."""

    replicas: int
    utilization: float
    hit_rate: float
    p95_s: float
    dollars_per_day: float


def erlang_c(servers: int, offered: float) -> float:
    """The probability that a request waits in M/M/c; `offered` = arrivals a second x seconds of work < servers."""
    if not 0 <= offered < servers:
        raise BadInput(f"offered: {offered:g} is not below {servers} servers; the queue would grow for ever")
    blocked = 1.0  # Erlang B, by its recursion
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


@cache
def hit_rate(adapters: int, zipf: float, seats: int) -> float:
    """The share of requests whose adapter is among the `seats` used last (Che's approximation of an LRU cache)."""
    if seats >= adapters:
        return 1.0
    if seats == 0:
        return 0.0
    weights = [rank**-zipf for rank in range(1, adapters + 1)]
    shares = [weight / sum_ for sum_ in (math.fsum(weights),) for weight in weights]
    low, high = 0.0, 1.0
    while _resident(shares, high) < seats:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _resident(shares, middle) < seats else (low, middle)
    return math.fsum(share * -math.expm1(-share * high) for share in shares)


def hits(replica: Replica, demand: Demand, replicas: int) -> float:
    """By adapters, each replica keeps a part of them, so all their seats count; in turns, each sees all of them."""
    seats = replica.seats * (replicas if demand.routing == ADAPTERS else 1)
    return hit_rate(demand.adapters, demand.zipf, min(seats, demand.adapters))


def p95(replica: Replica, demand: Demand, replicas: int) -> float:
    """Seconds that 95 % of requests take at most; inf where the queue grows for ever."""
    missed = 1 - hits(replica, demand, replicas)
    work_s = replica.work_s + missed * replica.load_s
    offered = demand.per_second * work_s
    if offered >= replicas:
        return math.inf
    waits = erlang_c(replicas, offered)
    tail_s = max(0.0, math.log(waits / TAIL)) * work_s / (replicas - offered) if waits > 0 else 0.0
    painting_s = replica.painting_s(demand.per_second / replicas)
    return painting_s + (replica.load_s if missed > TAIL else 0.0) + tail_s * (1 + demand.variation) / 2


def plan(replica: Replica, demand: Demand) -> Plan:
    """The fewest replicas that do it. Raises BadInput where no number does."""

    def enough(replicas: int) -> bool:
        return _busy(replica, demand, replicas) <= demand.utilization and p95(replica, demand, replicas) <= demand.p95_s

    high = max(1, math.ceil(demand.per_second * replica.work_s))
    while not enough(high):
        if high >= MOST or (replica.alone_s > demand.p95_s):
            least = f"a picture alone takes {replica.alone_s:.3g} s"
            raise BadInput(f"p95_s: no number of replicas does it in {demand.p95_s:g} s; {least}: allow more")
        high *= 2
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    replicas = high + replica.spare
    return Plan(
        replicas=replicas,
        utilization=_busy(replica, demand, high),
        hit_rate=hits(replica, demand, high),
        p95_s=p95(replica, demand, high),
        dollars_per_day=replicas * replica.price_per_hour * DAY_S / HOUR_S,
    )


def _busy(replica: Replica, demand: Demand, replicas: int) -> float:
    missed = 1 - hits(replica, demand, replicas)
    return demand.per_second * (replica.work_s + missed * replica.load_s) / replicas


def _resident(shares: Sequence[float], seconds: float) -> float:
    """How many adapters were asked for within the last so many requests, on average."""
    return math.fsum(-math.expm1(-share * seconds) for share in shares)


@dataclass(frozen=True)
class Device:
    """A machine as its data sheet has it, but for what `measured` names. `efficiency` is the share of `flops` that a
    pass reaches.
    """

    what: str
    flops: float
    bytes_per_s: float
    efficiency: float
    overhead_s: float
    cores: int
    load_s: float
    bank_bytes: float
    price_per_hour: float
    spare: int
    measured: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("flops", "bytes_per_s", "bank_bytes", "cores"):
            _checked(name, getattr(self, name), above=0.0)
        _checked("efficiency", self.efficiency, above=0.0, below=1.0)


@dataclass(frozen=True)
class Workload:
    """A kind of picture: `steps` passes of `rows` rows each, a full pass has `max_rows`; `rest_s` seconds of one core
    for files and the like.

    Measured are, by device, seconds of passes by rows (`passes`, as `impasto calibrate` prints them), or alone_s and
    work_s of whole pictures (`whole`).
    """

    what: str
    steps: int
    rows: int
    max_rows: int
    flop_per_row: float
    weight_bytes: float
    adapter_bytes: float
    rest_s: float
    passes: Mapping[str, Mapping[str, float]]
    whole: Mapping[str, Mapping[str, float]]

    def __post_init__(self) -> None:
        for name in ("steps", "rows", "flop_per_row", "adapter_bytes"):
            _checked(name, getattr(self, name), above=0.0)
        _checked("max_rows", self.max_rows, least=self.rows)

    def on(self, name: str, device: Device) -> Replica:
        """A replica on a device: by what was measured there, else by its data sheet."""
        passes = {int(rows): seconds for rows, seconds in self.passes.get(name, {}).items()}
        whole = self.whole.get(name) or self._times(passes or self._by_data_sheet(device), device)
        return Replica(
            **whole,
            load_s=device.load_s,
            seats=int(device.bank_bytes // self.adapter_bytes),
            batch=self.max_rows / self.rows,
            price_per_hour=device.price_per_hour,
            spare=device.spare,
            measured=name in self.passes or name in self.whole,
        )

    def _times(self, passes: Mapping[int, float], device: Device) -> Mapping[str, float]:
        """A pass of a picture alone is the one nearest to its rows; of a crowd, the largest one."""
        alone, (most, full) = passes[min(passes, key=lambda rows: abs(rows - self.rows))], max(passes.items())
        work_s = self.steps * self.rows * full / most + self.rest_s / device.cores
        return {"alone_s": self.rest_s + self.steps * alone, "work_s": work_s}

    def _by_data_sheet(self, device: Device) -> Mapping[int, float]:
        return {rows: self._pass_s(rows, device) for rows in (self.rows, self.max_rows)}

    def _pass_s(self, rows: int, device: Device) -> float:
        """As long as the slower of computing and of reading the weights takes."""
        computing = rows * self.flop_per_row / (device.flops * device.efficiency)
        return max(computing, self.weight_bytes / device.bytes_per_s) + device.overhead_s


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    workload: str
    images_per_day: float
    device: str
    replica: Replica
    plan: Plan


def rows(said: Mapping[str, Any]) -> Iterator[Row]:
    """For each workload, demand and device of such a file. Raises BadInput."""
    devices = {name: _made(Device, f"devices.{name}", one) for name, one in _part(said, "devices").items()}
    asked = dict(_part(said, "demand"))
    try:
        days, peak, within = asked.pop("images_per_day"), asked.pop("peak_to_mean"), asked.pop("p95_s")
    except KeyError as error:
        raise BadInput(f"demand: {error.args[0]} is missing; benchmarks/capacity.json has all of it") from None
    _checked("demand.peak_to_mean", peak, least=1.0)
    for name, one in _part(said, "workloads").items():
        workload = _made(Workload, f"workloads.{name}", one)
        if name not in within:
            raise BadInput(f"demand.p95_s: it has no {name}; say the seconds that its pictures may take")
        for images in days:
            for place, device in devices.items():
                replica = workload.on(place, device)
                words = {**asked, "per_second": images * peak / DAY_S, "p95_s": within[name]}
                yield Row(name, images, place, replica, plan(replica, _made(Demand, "demand", words)))


def table(found: Sequence[Row]) -> str:
    """In Markdown. A star marks times that were worked out and not measured."""
    lines = [
        "| pictures | a day | on | alone, s | replicas | busy | resident | p95, s | $ a day | $ per 1000 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        done, star = row.plan, "" if row.replica.measured else "*"
        cells = [
            row.workload,
            f"10^{round(math.log10(row.images_per_day))}",
            row.device,
            f"{row.replica.alone_s:.3g}{star}",
            f"{done.replicas:,}{star}",
            f"{done.utilization:.0%}",
            f"{done.hit_rate:.0%}",
            f"{done.p95_s:.3g}{star}",
            f"{done.dollars_per_day:,.0f}{star}",
            f"{1000 * done.dollars_per_day / row.images_per_day:.3g}{star}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Compared:
    """A figure that was predicted, beside the measured one."""

    what: str
    replicas: int
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured if self.measured else math.inf


def compared(fleet: Mapping[str, Any], zipf: float = 1.1) -> list[Compared]:
    """What the model says of the runs in benchmarks/fleet.py's JSON. Raises BadInput for what that isn't.

    `capacity_rps` are pictures a second by the number of replicas; `real` are runs of requests at `offered_rps`,
    `simulated` one in simulated time at `load` of what its replicas can do.
    """
    try:
        costs = fleet["costs"]
        replica = Replica(costs["request_s"], costs["alone_s"], costs["load_s"], costs["seats"])
        adapters, found = fleet["scale"]["adapters"], list[Compared]()
        for count, measured in fleet["capacity_rps"].items():
            found.append(Compared("pictures/s", int(count), int(count) / replica.work_s, measured))
        rates = {"real": sum(fleet["offered_rps"]) / len(fleet["offered_rps"])}
        if "simulated" in fleet:
            rates["simulated"] = fleet["load"] * fleet["simulated"]["replicas"] / replica.work_s
        for part, rate in rates.items():
            if part in fleet:
                found += _beside(part, fleet[part], replica, adapters, zipf, rate)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise BadInput(
            f"check: this is no JSON of benchmarks/fleet.py ({problem}); pass what its --json wrote"
        ) from None
    return found


def _beside(
    part: str, run: Mapping[str, Any], replica: Replica, adapters: int, zipf: float, rate: float
) -> Iterator[Compared]:
    replicas, seats = run["replicas"], run.get("seats", replica.seats)
    one = Replica(replica.work_s, replica.alone_s, replica.load_s, seats)
    for routing in (ADAPTERS, TURNS):
        demand = Demand(rate, math.inf, adapters, zipf, routing)
        side = run["sides"][routing]
        misses = 100 * (1 - hits(one, demand, replicas))
        yield Compared(f"{part}, {routing}: loads in 100", replicas, misses, side["loads_per_100"])
        yield Compared(f"{part}, {routing}: p95, s", replicas, p95(one, demand, replicas), side["latency_s"]["p95"])


def _part(said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = said.get(name)
    if not isinstance(found, Mapping):
        raise BadInput(f"{name}: it is missing; benchmarks/capacity.json shows the form")
    return found


def _made(kind: Any, name: str, said: Mapping[str, Any]) -> Any:
    """A dataclass of a part of the file."""
    known = {one.name for one in fields(kind)}
    if strange := sorted(said.keys() - known):
        raise BadInput(f"{name}.{strange[0]}: there is no such figure; choose from {', '.join(sorted(known))}")
    try:
        return kind(**said)
    except TypeError as error:
        raise BadInput(f"{name}: {str(error).partition('() ')[2] or error}") from None
    except BadInput as error:
        raise BadInput(f"{name}.{error}") from None


def _checked(
    name: str, value: object, *, least: float = -math.inf, above: float = -math.inf, below: float = math.inf
) -> None:
    if not isinstance(value, int | float) or math.isnan(value):
        raise BadInput(f"{name}: {value!r} is not a number; give one")
    if not (value >= least and value > above and (value <= below)):
        bound = f"at least {least:g}" if least > -math.inf else f"more than {above:g}"
        bound += f" and at most {below:g}" if below < math.inf else ""
        raise BadInput(f"{name}: {value:g} can't be; give {bound}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, default=HERE / "capacity.json", metavar="FILE")
    parser.add_argument("--check", type=Path, metavar="FILE", help="JSON that benchmarks/fleet.py wrote")
    asked = parser.parse_args()
    try:
        if asked.check is not None:
            for one in compared(json.loads(asked.check.read_text())):
                print(
                    f"{one.what:38} {one.replicas} replicas: predicted {one.predicted:8.3g}, "
                    f"measured {one.measured:8.3g}, ratio {one.ratio:.2f}"
                )
        else:
            print(table(list(rows(json.loads(asked.input.read_text())))))
    except (BadInput, OSError, json.JSONDecodeError) as error:
        parser.exit(1, f"error  {error}\n")


if __name__ == "__main__":
    main()
