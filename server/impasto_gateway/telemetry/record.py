"""What is known of one HTTP request: the middleware makes it, handlers fill it, the middleware logs and counts it."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter, time_ns
from typing import Any

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
DENOISE = "denoise"
PHASES = ("queue", "encode", DENOISE, "decode")  # of META's timings, in this order


@dataclass
class Record:
    """One request.

    `key` is the key's name, never the key. `lanes` are pictures, each a lane of the server's batches. Times are in
    milliseconds: `queue_ms` until the first forward pass, as the server says, `first_step_ms` until that step was
    heard of here, `total_ms` until the answer's last byte. `outcome` is one word, which follows from `status` unless a
    handler knows better. `phases_ms` are the server's, for traces. `replays` counts why it was sent again. `trace` is
    the trace's id, if there is one. `began_s` is on perf_counter's clock; `began_ns` and `answered_ns` are Unix time.
    """

    id: str
    route: str = ""
    key: str = "-"
    bundle: str = "-"
    adapters: tuple[str, ...] = ()
    lanes: int = 0
    queue_ms: float = 0
    first_step_ms: float = 0
    total_ms: float = 0
    steps: int = 0
    outcome: str = ""
    status: int = 0
    prompt: str = ""
    trace: str = ""
    phases_ms: dict[str, float] = field(default_factory=dict)
    replays: Counter[str] = field(default_factory=Counter)
    answered_ns: int = 0
    began_s: float = field(default_factory=perf_counter)
    began_ns: int = field(default_factory=time_ns)

    def age_ms(self) -> float:
        """Since the request arrived."""
        return 1000 * (perf_counter() - self.began_s)

    def stepped(self) -> None:
        """Call at each Progress; the first one counts."""
        self.first_step_ms = self.first_step_ms or self.age_ms()

    def replayed(self, reason: str) -> None:
        """Call when it is sent again."""
        self.replays[reason] += 1

    def answered(self, meta: Mapping[str, Any]) -> None:
        """Take over what the server's META says: bundle, adapters, steps and timings."""
        self.answered_ns = time_ns()
        timings = meta.get("timings", {})
        self.bundle = str(meta.get("model", self.bundle))
        self.adapters = _names(meta.get("adapters", ())) or self.adapters
        self.steps = int(meta.get("steps", self.steps))
        phases = {name: float(timings[f"{name}_ms"]) for name in PHASES if f"{name}_ms" in timings}
        self.phases_ms = dict(_by_stage(phases, meta.get("stages_ms", {})))
        self.queue_ms = self.phases_ms.get("queue", self.queue_ms)


def id_of(said: str | None) -> str:
    """A request's id: the caller's own if it is one word that is safe in a log, else a new one."""
    return said if said and _ID.fullmatch(said) else f"req-{secrets.token_hex(12)}"


def _by_stage(phases: Mapping[str, float], stages: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """The phases, with one for each stage of denoising in its place if there are several."""
    for name, took_ms in phases.items():
        if name == DENOISE and stages:
            yield from ((f"{DENOISE} {stage}", float(ms)) for stage, ms in stages.items())
        else:
            yield name, took_ms


def _names(listed: Iterable[Any]) -> tuple[str, ...]:
    return tuple(str(one["name"]) for one in listed if isinstance(one, Mapping) and one.get("name"))
