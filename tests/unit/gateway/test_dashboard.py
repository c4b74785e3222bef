"""The Grafana dashboard asks for metrics that exist, and shows those that matter."""

from __future__ import annotations

import json

import pytest

from impasto_gateway.telemetry.metrics import Metrics
from impasto_gateway.telemetry.servers import UP
from impasto_server.stats import COUNTERS, GAUGES, HISTOGRAMS, INFO, RESTARTS
from tests.helpers.dashboard import names_in, queries_in
from tests.helpers.pages import ROOT

DASHBOARD = "deploy/grafana/impasto.json"
PARTS = ("_bucket", "_sum", "_count")  # of a histogram


def gateways() -> set[str]:
    """Names of its series; prometheus_client adds _total to a counter."""
    families = list(Metrics().registry.collect())
    plain = {f"{one.name}_total" if one.type == "counter" else one.name for one in families if one.type != "histogram"}
    return plain | {f"{one.name}{part}" for one in families for part in PARTS if one.type == "histogram"} | {UP}


def servers() -> set[str]:
    plain = {f"impasto_{name}" for name in (*COUNTERS, *GAUGES, INFO, RESTARTS)}
    return plain | {f"impasto_{name}{part}" for name in HISTOGRAMS for part in PARTS}


def test_every_metric_in_it_exists() -> None:
    assert names_in(DASHBOARD) <= gateways() | servers()


def test_every_histogram_is_shown_and_every_metric_of_the_gateway() -> None:
    buckets = {name for name in gateways() | servers() if name.endswith("_bucket")}
    others = {name for name in gateways() if not name.endswith(PARTS)}
    assert buckets | others <= names_in(DASHBOARD)


def test_a_wrong_name_would_be_found() -> None:
    assert "impasto_no_such_thing" not in gateways() | servers()
    assert {"impasto_lanes", "impasto_http_e2e_seconds_bucket"} <= names_in(DASHBOARD)


def test_panels_have_a_number_each_and_lie_beside_one_another() -> None:
    panels = json.loads((ROOT / DASHBOARD).read_text())["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (one["gridPos"] for one in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("query", queries_in(DASHBOARD))
def test_parentheses_are_closed(query: str) -> None:
    assert query.count("(") == query.count(")")
    assert query.count("{") == query.count("}")
