"""The metrics that a Grafana dashboard asks for."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.helpers.pages import ROOT

METRIC = re.compile(r"\b(?:impasto|nv)_\w+")


def queries_in(path: str) -> list[str]:
    """Every expression of PromQL in it, those of variables, too."""
    dashboard: dict[str, Any] = json.loads((ROOT / path).read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    variables = [one["query"]["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    return panels + variables


def names_in(path: str) -> set[str]:
    """Names of time series, as they stand on a page of metrics."""
    return {name for query in queries_in(path) for name in METRIC.findall(query)}
