"""The log: a JSON line for each request."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import UTC, datetime
from queue import Full, Queue
from threading import Thread
from typing import TextIO

from impasto_gateway.telemetry.record import Record

WAITING = 10_000  # lines; whoever reads the log may stop reading, and requests must not wait for that
TIMES = ("queue_ms", "first_step_ms", "total_ms")


class Log:
    """Writes lines to `out` on a thread of its own. `dropped` counts those that found too many others waiting.

    With `prompts`, what was asked for is logged too.
    """

    def __init__(self, prompts: bool = False, out: TextIO | None = None) -> None:
        self.dropped = 0
        self._prompts = prompts
        self._out = sys.stdout if out is None else out
        self._lines: Queue[str | None] = Queue(WAITING)
        self._writer = Thread(target=self._write, name="request-log", daemon=True)
        self._writer.start()

    def tell(self, record: Record) -> None:
        """Log a request that is over."""
        try:
            self._lines.put_nowait(line_of(record, self._prompts))
        except Full:
            self.dropped += 1

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is waiting, within `timeout_s`."""
        with suppress(Full):
            self._lines.put(None, timeout=timeout_s)
        self._writer.join(timeout_s)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._out.write(line + "\n")
                if self._lines.empty():
                    self._out.flush()
            except (OSError, ValueError):  # its reader has gone, or it is closed
                self.dropped += 1
        with suppress(OSError, ValueError):
            self._out.flush()


def line_of(record: Record, prompts: bool = False) -> str:
    """One line of JSON."""
    said = {
        "time": datetime.fromtimestamp(record.began_ns / 1e9, UTC).isoformat(timespec="milliseconds"),
        "id": record.id,
        "key": record.key,
        "route": record.route,
        "bundle": record.bundle,
        "adapters": list(record.adapters),
        "lanes": record.lanes,
        "steps": record.steps,
        **{name: round(getattr(record, name), 3) for name in TIMES},
        "outcome": record.outcome,
        "status": record.status,
        **({"replays": dict(record.replays)} if record.replays else {}),
        **({"trace": record.trace} if record.trace else {}),
        **({"prompt": record.prompt} if prompts else {}),
    }
    return json.dumps(said)
