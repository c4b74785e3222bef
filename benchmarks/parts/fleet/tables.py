"""What fleet.py found, as Markdown for benchmarks/README.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Report = Mapping[str, Any]


def markdown(report: Report) -> str:
    """The tables, one after another."""
    return "\n".join([*_routing(report), *_faults(report)])


def _routing(report: Report) -> Iterator[str]:
    if "real" not in report:
        return
    costs = report["costs"]
    yield (
        f"A request {1000 * costs['request_s']:.0f} ms in a crowd, {1000 * costs['alone_s']:.0f} ms alone; a load "
        f"{1000 * costs['load_s']:.0f} ms; room for {costs['seats']} of {report['scale']['adapters']} adapters in each."
    )
    for title, key in (("real", "real"), ("the same in simulated time", "simulated_real"), ("simulated", "simulated")):
        found = report[key]
        yield f"\n{found['replicas']} replicas, {title}{_seats(found)}:\n"
        yield "| routing | loads / 100 requests | p50, s | p95, s | goodput, 1/s | busiest ÷ mean | hottest on |"
        yield "|---|---|---|---|---|---|---|"
        for name, side in found["sides"].items():
            yield _row(name, side)
        for peer, ratios in found["ratios"].items():
            figures = (_ratio(ratios[figure]) for figure in ("loads", "p50", "p95", "goodput"))
            yield f"| ÷ {peer} | {' | '.join(figures)} | | |"
    yield "\nSimulated, ours ÷ round-robin by the banks' room:\n"
    yield "| replicas | room each | loads | p95 |"
    yield "|---|---|---|---|"
    for found in report["simulated_banks"]:
        over = found["ratios"]["round-robin"]
        yield f"| {found['replicas']} | {found['seats']} | {over['loads']['ratio']:.2f} | {over['p95']['ratio']:.2f} |"


def _seats(found: Report) -> str:
    return f", room for {found['seats']} in each" if "seats" in found else ""


def _row(name: str, side: Report) -> str:
    latency, hottest = side["latency_s"], f"{side['hottest_replicas']} ({side['hottest_most_on_one']:.0%} on one)"
    figures = (
        f"{side['loads_per_100']:.1f}",
        f"{latency['p50']:.3f}",
        f"{latency['p95']:.3f}",
        f"{side['goodput_rps']:.2f}",
        f"{side['busiest_over_mean']:.2f}",
        hottest,
    )
    return f"| {name} | {' | '.join(figures)} |"


def _ratio(found: Report) -> str:
    low, high = found["range"]
    spread = "" if low == high else f" [{low:.2f}, {high:.2f}]"
    return f"**{found['ratio']:.2f}**{spread}"


def _faults(report: Report) -> Iterator[str]:
    if "faults" not in report:
        return
    found = report["faults"]
    happened = [one["what"] for one in found["events"]]
    yield f"\nFaults, {found['replicas']} replicas:\n"
    yield "| what | how often |"
    yield "|---|---|"
    for what in dict.fromkeys(happened):
        yield f"| {what} | {happened.count(what)} |"
    yield f"| requests | {found['requests']} |"
    yield f"| lost | **{found['lost']}** |"
    yield f"| identical to the quiet run's, of {found['pictures']} different pictures | **{found['identical']}** |"
    latency, before = found["latency_s"], found["quiet_latency_s"]
    yield f"| p50, p95, longest, s | {latency['p50']:.2f}, {latency['p95']:.2f}, {found['longest_s']:.2f} |"
    yield f"| p50, p95 in quiet, s | {before['p50']:.2f}, {before['p95']:.2f} |"
