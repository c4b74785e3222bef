"""A load test: requests arrive at random times, whether or not those before them are done (open loop).

impasto serve --quiet --port 0 -- python docs/examples/loadtest.py --rate 2 --requests 60 --adapter mosaic

Users don't wait for one another. A test in which they do slows down with the server, and hides that it is too slow. A
latency counts from when its request was due. The styles take turns. One picture in each comes first and isn't counted.
Prints JSON: raise --rate until p95_s is more than your users bear, or something is refused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle

from impasto_client import AsyncClient, ImpastoError


@dataclass(frozen=True)
class Outcome:
    """What became of a request: "painted" or the error's class, and seconds from when it was due."""

    kind: str
    latency_s: float


def due_times(rate: float, count: int, seed: int) -> list[float]:
    """Seconds from the start; `rate` of them a second in the mean (a Poisson process)."""
    draw = random.Random(seed)
    return list(accumulate(draw.expovariate(rate) for _ in range(count)))


async def ask(client: AsyncClient, due: float, prompt: str, adapter: str | None, steps: int | None) -> Outcome:
    """At time `due` of time.monotonic."""
    await asyncio.sleep(due - time.monotonic())
    try:
        await client.generate(prompt, adapters=adapter, steps=steps)
    except ImpastoError as error:
        return Outcome(type(error).__name__, time.monotonic() - due)
    return Outcome("painted", time.monotonic() - due)


async def load(
    client: AsyncClient, due: Sequence[float], prompt: str, styles: Sequence[str | None], steps: int | None
) -> list[Outcome]:
    """A request at each of `due`, in seconds from now."""
    begun = time.monotonic()
    asked = [ask(client, begun + after, prompt, style, steps) for after, style in zip(due, cycle(styles), strict=False)]
    return await asyncio.gather(*asked)


def report(outcomes: Sequence[Outcome], rate: float, took_s: float) -> dict[str, object]:
    """Rates are in requests a second, latencies in seconds and of what was painted; None where nothing was."""
    latencies = sorted(one.latency_s for one in outcomes if one.kind == "painted")

    def percentile(share: float) -> float | None:
        return latencies[math.ceil(share * len(latencies)) - 1] if latencies else None

    rates = {"offered_per_s": rate, "painted_per_s": len(latencies) / took_s}
    shares = {f"p{100 * share:g}_s": percentile(share) for share in (0.5, 0.95, 0.99)}
    return {"outcomes": Counter(one.kind for one in outcomes), **rates, **shares}


async def main() -> None:
    """Warm up, then load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--adapter", action="append", help="may be repeated; none is the plain backbone")
    parser.add_argument("--prompt", default="a red boat")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    parser.add_argument("--url", default=os.environ.get("IMPASTO_URL", "localhost:8001"))
    said = parser.parse_args()
    styles = said.adapter or [None]
    async with AsyncClient(said.url) as client:
        for style in styles:
            await client.generate(said.prompt, adapters=style, steps=said.steps)
        begun = time.monotonic()
        due = due_times(said.rate, said.requests, said.seed)
        outcomes = await load(client, due, said.prompt, styles, said.steps)
        print(json.dumps(report(outcomes, said.rate, time.monotonic() - begun), indent=2))


if __name__ == "__main__":
    asyncio.run(main())
