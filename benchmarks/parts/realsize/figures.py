"""Figures of realsize.py: what errors are, which bars there are, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from benchmarks.parts.realsize.children import PLAIN
from benchmarks.parts.realsize.feeds import ALPHA, LANES, RANK
from numpy.typing import NDArray
from rich.table import Table

Report = dict[str, Any]

NOTES = {
    "export": "`impasto export graphs` (or controlnet) on the public configs, in its own process. different_files: "
    "of the skeleton, those that aren't the shipped ones byte for byte. peak_gb: the largest resident memory, mapped "
    "files included; no process reads lower than the benchmark's own, floor_gb.",
    "checkpoint": "Random, in fp16, a safetensors file for each component: uniform noise of variance 1 / inputs, norms "
    "around 1, biases around 0.",
    "link": "`impasto link`, the checkpoint's files still in memory; link_cold: the same after they were dropped from "
    "the page cache, so it tells of the disk. beyond_links_mb: files of the bundle that share no bytes with another.",
    "relative_error": "|ours - reference| / |reference|, L2, of the worst output of the worst graph, without an "
    "adapter; of integers the share that differs. ours: the linked graph in onnxruntime on the CPU in float32, weights "
    "widened when they are read; reference: from_pretrained on the same folder, in float32. The residuals that a UNet "
    "takes from a ControlNet are noise of 1 x 1.",
    "adapted_error": f"The same of the batch's other lane, under a random LoRA of rank {RANK} and alpha {ALPHA:g} at "
    "some of the sites, by `impasto adapters import`; the reference has it added to its weights. adapter_effect: how "
    "far the LoRA moves the reference's output.",
}


@dataclass(frozen=True)
class Bar:
    """`path` leads into a backbone's report; `backbones` empty: all of them."""

    path: str
    at_most: float
    backbones: tuple[str, ...] = ()


BARS = (
    Bar("export.peak_gb", 2.0, ("sdxl",)),
    Bar("export.different_files", 0),
    Bar("link.seconds", 10.0, ("sdxl",)),
    Bar("relative_error", 1e-4),
    Bar("adapted_error", 1e-4),
)


# errors


def difference(ours: NDArray[Any], reference: NDArray[Any]) -> float:
    """|ours - reference| / |reference|; of integers the share that differs."""
    if np.issubdtype(reference.dtype, np.integer):
        return float(np.mean(ours != reference))
    wanted = reference.astype(np.float64)
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))


def compared(reference: Mapping[str, NDArray[Any]], ours: Mapping[str, NDArray[Any]]) -> Report:
    """By graph: the worst of its outputs."""
    found: dict[str, Report] = {}
    for key, array in ours.items():
        graph, plain = found.setdefault(key.partition("/")[0], {}), f"{key}/{PLAIN}"
        if plain not in reference:
            _raise_to(graph, "relative_error", difference(array, reference[key]))
            continue
        usual, adapted = slice(LANES - 1), slice(LANES - 1, None)
        _raise_to(graph, "relative_error", difference(array[usual], reference[key][usual]))
        _raise_to(graph, "adapted_error", difference(array[adapted], reference[key][adapted]))
        _raise_to(graph, "adapter_effect", difference(reference[key][adapted], reference[plain]))
    return found


def _raise_to(found: Report, key: str, value: float) -> None:
    """NaN is worse than anything."""
    found[key] = float(np.maximum(found.get(key, value), value))


def worst(graphs: Mapping[str, Report]) -> Report:
    """Of each error, over all graphs."""
    keys = ("relative_error", "adapted_error")
    values = {key: [found[key] for found in graphs.values() if key in found] for key in keys}
    return {key: float(np.max(errors)) for key, errors in values.items() if errors}


# the report


def at(found: Report, path: str) -> Any:
    """What lies at "key.inner"; None where it was not measured."""
    value: Any = found
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def held_against_bars(figures: Mapping[str, Report], bars: Sequence[Bar] = BARS) -> list[Report]:
    """Every figure that was measured and has a bar. What is not a number meets none."""
    rows = [(bar, name) for bar in bars for name in bar.backbones or figures if name in figures]
    held = [(bar, name, at(figures[name], bar.path)) for bar, name in rows]
    return [
        {"key": bar.path, "backbone": name, "value": value, "at_most": bar.at_most, "met": value <= bar.at_most}
        for bar, name, value in held
        if value is not None
    ]


ROWS: dict[str, tuple[str, str]] = {
    "parameters": ("checkpoint.parameters", ",d"),
    "export, s": ("export.seconds", ".0f"),
    "its peak, GB": ("export.peak_gb", ".2f"),
    "skeleton, MB": ("export.skeleton_mb", ".2f"),
    "files not as shipped": ("export.different_files", "d"),
    "checkpoint, GB": ("checkpoint.gb", ".2f"),
    "link, s": ("link.seconds", ".1f"),
    "from the disk, s": ("link_cold.seconds", ".1f"),
    "its peak, GB ": ("link.peak_gb", ".2f"),
    "beyond links, MB": ("link.beyond_links_mb", ".1f"),
    "relative error": ("relative_error", ".1e"),
    "with a LoRA": ("adapted_error", ".1e"),
}


def table(figures: Mapping[str, Report]) -> Table:
    shown = Table("", *figures)
    for title, (path, form) in ROWS.items():
        values = [at(found, path) for found in figures.values()]
        shown.add_row(title, *("-" if value is None else format(value, form) for value in values))
    return shown


def missed(figures: Mapping[str, Report]) -> list[str]:
    """A line for each bar that isn't met and each stage that failed."""
    apart = [row for row in held_against_bars(figures) if not row["met"]]
    bars = [f"{row['backbone']}: {row['key']} is {row['value']:.3g}, the bar {row['at_most']:g}" for row in apart]
    return bars + [
        f"{name}: {stage} failed: {why}" for name in figures for stage, why in figures[name]["failed"].items()
    ]
