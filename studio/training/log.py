"""What a training says while it goes on."""

from __future__ import annotations

import time

from studio.places import RUNS


def note(line: str) -> None:
    """A line to who watches, and to the log under runs/."""
    line = f"- {time.strftime('%H:%M')}: {line}"
    with (RUNS / "log.md").open("a") as log:
        print(line, file=log)
    print(line, flush=True)
