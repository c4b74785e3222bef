"""A product's backend: pictures for many users, each with a deadline, retries, and metrics.

impasto serve --quiet --port 0 -- python docs/examples/backend.py "a red boat" "a fish" --adapter mosaic --out pictures

One AsyncClient serves all requests. A request has one deadline, with tries and pauses counted in; what is left of it
travels along, so the server stops when nobody waits any more. A full server says when it has room. What another try
can't mend, such as an unknown style, is raised at once. A second try paints what the first would have: the seed is
chosen here. The metrics are Prometheus's text.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path

from typing_extensions import Unpack

from impasto_client import AsyncClient, ConnectError, Generation, Options, ServerFull, ServerUnavailable


class Backend:
    """Paints within `deadline_s` seconds, or raises; `outcomes`, `retries` and `seconds` add up what became of it."""

    def __init__(self, client: AsyncClient, deadline_s: float) -> None:
        self._client, self._deadline_s = client, deadline_s
        self.outcomes, self.retries, self.seconds = Counter[str](), 0, 0.0

    async def paint(self, prompt: str, **options: Unpack[Options]) -> Generation:
        """Raises an ImpastoError: that of the last try."""
        begun, outcome = time.monotonic(), "painted"
        try:
            return await self._tried(prompt, options, begun + self._deadline_s)
        except BaseException as error:  # of one whose user has left, CancelledError
            outcome = type(error).__name__
            raise
        finally:
            self.outcomes[outcome] += 1
            self.seconds += time.monotonic() - begun

    async def _tried(self, prompt: str, options: Options, end: float) -> Generation:
        seeded: Options = {"seed": random.randrange(2**32), **options}
        longest_s = 0.1  # of the next pause
        while True:
            try:
                return await self._client.generate(prompt, timeout=max(end - time.monotonic(), 0.001), **seeded)
            except (ConnectError, ServerUnavailable) as error:
                pause_s = error.retry_after_s if isinstance(error, ServerFull) else random.uniform(0, longest_s)
                if time.monotonic() + pause_s >= end:
                    raise
            longest_s = min(2 * longest_s, 5.0)
            self.retries += 1
            await asyncio.sleep(pause_s)

    def metrics(self) -> str:
        """For a page that Prometheus reads."""
        requests = [f'pictures_total{{outcome="{name}"}} {count}' for name, count in sorted(self.outcomes.items())]
        return "\n".join([*requests, f"pictures_retries_total {self.retries}", f"pictures_seconds_sum {self.seconds}"])


async def main() -> None:
    """Paint every prompt, all at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--adapter")
    parser.add_argument("--deadline", type=float, default=30.0, help="seconds")
    parser.add_argument("--out", type=Path, default=Path("pictures"))
    parser.add_argument("--url", default=os.environ.get("IMPASTO_URL", "localhost:8001"))
    said = parser.parse_args()
    said.out.mkdir(parents=True, exist_ok=True)
    async with AsyncClient(said.url) as client:
        backend = Backend(client, said.deadline)
        asked = [backend.paint(prompt, adapters=said.adapter) for prompt in said.prompts]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    for number, (prompt, answer) in enumerate(zip(said.prompts, answers, strict=True)):
        if isinstance(answer, Generation):
            (said.out / f"{number}.png").write_bytes(answer.data)
        else:
            print(f"{prompt}: {answer}")
    print(backend.metrics())


if __name__ == "__main__":
    asyncio.run(main())
