"""Writes the ConfigMap with Grafana's dashboard, which components/monitoring has, from deploy/grafana/impasto.json.

python deploy/kubernetes/dashboard.py
"""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

HERE = Path(__file__).parent
SOURCE = HERE.parent / "grafana/impasto.json"
TARGET = HERE / "components/monitoring/dashboard.yaml"

HEAD = """\
# Generated from deploy/grafana/impasto.json: `python deploy/kubernetes/dashboard.py`.
apiVersion: v1
kind: ConfigMap
metadata:
  name: impasto-dashboard
  labels: {grafana_dashboard: "1"}
data:
  impasto.json: |
"""


def manifest() -> str:
    """The ConfigMap's text."""
    return HEAD + indent(SOURCE.read_text(), "    ")


if __name__ == "__main__":
    TARGET.write_text(manifest())
