"""What was wished of figures, and whether they are so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

Report = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """Of the figure `key` of these backbones."""

    key: str
    backbones: tuple[str, ...]
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


def held_against_bars(figures: Mapping[str, Report], bars: Sequence[Bar]) -> list[Report]:
    """Every bar whose backbone was measured: the figure, the bar, whether it's met."""
    found: list[Report] = []
    for bar in bars:
        for name in bar.backbones:
            if name in figures:
                value = figures[name][bar.key]
                assert isinstance(value, float)
                found.append({"key": bar.key, "backbone": name, "value": value, "bar": str(bar), "met": bar.met(value)})
    return found


def table(bars: Sequence[Report]) -> Table:
    shown = Table("figure", "backbone", "value", "bar", "")
    for row in bars:
        mark = "[green]met[/]" if row["met"] else "[red]missed[/]"
        shown.add_row(str(row["key"]), str(row["backbone"]), f"{row['value']:.3f}", str(row["bar"]), mark)
    return shown
