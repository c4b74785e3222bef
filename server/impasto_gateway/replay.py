"""Ask for a picture until it is there: a request whose server is lost is sent again, to another or to the same one.

Its seed was fixed before (wish.py), so the picture is the same to the last byte, on servers that are alike. A stream
goes on with the first step that its caller wasn't told of.

How often, and how long, is bounded. A request that loses DEATHS servers is refused: it may be what they died of. One
that no server has had yet waits less long, and only where one of several is away, as when all are replaced in turn: if
nobody else may come to take it, that is told at once. What a server refuses for the
request's own sake, or since it is full, is never sent again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from impasto_client import AsyncClient, Progress
from impasto_client.errors import ConnectError, DeadlineExceeded, ServerDeclined, ServerLost
from impasto_gateway.asking import Answer
from impasto_gateway.errors import SERVER, Refusal
from impasto_gateway.turn import Reason, Turn, reason_of
from impasto_gateway.upstream import Upstream

DEATHS = 3
WAIT_S = 60.0  # for a server, where there is none, by a request that one has had
LEAST_S = 0.001  # what a server is told that a request has left
AWAY_S = 10.0  # the same by a request that none has had

Part = Progress | Answer
Ask = Callable[[AsyncClient, float], AsyncGenerator[Part, None]]  # with the seconds that are left
Tell = Callable[[Reason], None]


async def painted(upstream: Upstream, ask: Ask, timeout_s: float, turn: Turn, tell: Tell) -> AsyncGenerator[Part, None]:
    """What `ask` yields, by whichever server; each step once, and the answer last. `tell` hears why it is sent again.

    Raises errors of the ImpastoError tree, and Refusal (502) for a request that lost DEATHS servers.
    """
    ends_s, left_s = time.monotonic() + timeout_s, timeout_s
    while left_s > 0:
        try:
            async with upstream.painter(turn, ends_s) as client:
                if turn.failed:  # it has waited
                    left_s = max(ends_s - time.monotonic(), LEAST_S)
                async with aclosing(ask(client, left_s)) as parts:
                    async for part in parts:
                        if not isinstance(part, Progress):
                            yield part
                        elif part.step > turn.step:
                            turn.step = part.step
                            yield part
            return
        except (ConnectError, ServerDeclined, ServerLost) as error:
            await _passed_on(upstream, turn, error, ends_s)
            tell(reason_of(error))
            left_s = ends_s - time.monotonic()
    problem = f"its server was lost, and no other could finish it within {timeout_s:g} s"
    raise DeadlineExceeded(f"{problem}; send it again later, or with a longer timeout")


async def _passed_on(
    upstream: Upstream, turn: Turn, error: ConnectError | ServerDeclined | ServerLost, ends_s: float
) -> None:
    """Returns when there is a server to try. Raises `error` if there is none in time, or Refusal."""
    turn.failed[reason_of(error)] += 1
    turn.failed_at_s = min(turn.failed_at_s, time.monotonic())
    if isinstance(error, ServerLost):
        turn.lost_at_s = time.monotonic()
    if turn.deaths >= DEATHS:
        raise _deadly(turn.deaths)
    assert turn.server is not None, "one of them failed it"
    turn.passed.add(turn.server)
    if await upstream.another(turn):
        return
    turn.passed.clear()
    if not turn.deaths and not await upstream.is_short():
        raise error
    until_s = turn.lost_at_s + WAIT_S if turn.deaths else turn.failed_at_s + AWAY_S
    if not await upstream.back(min(ends_s, until_s)):
        raise error


def _deadly(deaths: int) -> Refusal:
    problem = f"its server, or the connection to it, was lost {deaths} times, of which this request may be the cause"
    fix = "ask for something else, or tell the operator this answer's x-request-id"
    return Refusal(502, f"{problem}; {fix}", "server_lost", kind=SERVER)
