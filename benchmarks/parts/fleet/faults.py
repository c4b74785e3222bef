"""Is anything lost, or painted otherwise, while replicas die, are replaced, and connections break?

Users ask the gateway for pictures, one after another, once in quiet and then while faults happen. A user sends each
request once, and doesn't try again: what isn't answered with a picture is lost. Passes have one row, so that a picture
doesn't depend on who shares them, not even in its last bit.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from itertools import count
from time import perf_counter
from typing import Any

from benchmarks.common.bench import percentiles
from benchmarks.common.door import Caller, Door, gateway
from benchmarks.parts.fleet.replicas import HOST, Replica
from benchmarks.parts.fleet.store import Store
from benchmarks.parts.fleet.traffic import Asked
from benchmarks.parts.fleet.wire import Wire, wire

FIRST_S = 5.0
USERS = 4
LOOK_S = 0.25
KILLED, REPLICA_KILLED, CUT, ROLLED = "Triton killed", "replica killed", "connections cut", "rolling update"
DOWN, UP = "store out of reach", "store back"


@dataclass(frozen=True)
class Event:
    """A fault that is due `at_s` seconds after the start; of the replica with that number, where it is of one."""

    at_s: float
    what: str
    replica: int = 0


@dataclass(frozen=True)
class Answer:
    """What a user got: `status` of HTTP (0: the connection broke), the picture's sha256, and how long it took."""

    at_s: float
    took_s: float
    asked: int
    status: int
    sha256: str = ""
    said: str = ""


@dataclass
class Course:
    """The course of the run: what happened when, and which replicas were ready."""

    happened: list[Event] = field(default_factory=list)
    ready: list[tuple[float, tuple[bool, ...]]] = field(default_factory=list)


@dataclass(frozen=True)
class Fleet:
    """Replicas, the wires to them with the gateway at the other end, and the store of their registry."""

    replicas: Sequence[Replica]
    wires: Sequence[Wire]
    door: Door
    store: Store


def plan(kills: int, replicas: int, every_s: float, outage_s: float) -> list[Event]:
    """Triton and whole replicas are killed in turns, every so many seconds; between two kills, a wire is cut. After the
    second kill there is a rolling update, and later the store is out of reach for `outage_s`.
    """
    kinds = (KILLED, REPLICA_KILLED)
    killed = [Event(FIRST_S + every_s * n, kinds[n % 2], n % replicas) for n in range(kills)]
    cut = [Event(FIRST_S + every_s * (n + 0.5), CUT, (n + 1) % replicas) for n in range(kills)]
    down_s = FIRST_S + 1.75 * every_s
    others = [Event(FIRST_S + 1.25 * every_s, ROLLED), Event(down_s, DOWN), Event(down_s + outage_s, UP)]
    return sorted([*killed, *cut, *others], key=lambda one: one.at_s)


@asynccontextmanager
async def fleet(replicas: Sequence[Replica], store: Store) -> AsyncIterator[Fleet]:
    """A gateway in front of replicas that run already."""
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(wire(one.port)) for one in replicas]
        door = gateway(",".join(f"{HOST}:{one.port}" for one in wires), "--no-metadata")
        opened = await asyncio.to_thread(door.__enter__)
        try:
            yield Fleet(replicas, wires, opened, store)
        finally:
            await asyncio.to_thread(door.__exit__, None, None, None)


async def quiet(fleet: Fleet, asked: Sequence[Asked], answered: Callable[[], object]) -> list[Answer]:
    """Each picture once, with nothing else going on."""
    numbers = iter(range(len(asked)))
    return await _users(fleet, asked, lambda: next(numbers, None), answered)


async def disturbed(
    fleet: Fleet, asked: Sequence[Asked], events: Sequence[Event], least: int, answered: Callable[[], object]
) -> tuple[list[Answer], Course]:
    """The same pictures, again and again, until all events have happened, all replicas are well, and `least` requests
    were sent.
    """
    course, numbers, start = Course(), count(), perf_counter()
    happening = asyncio.create_task(_happen(fleet, events, course, start))
    watching = asyncio.create_task(_watch(fleet, course, start))

    def following() -> int | None:
        number = next(numbers)
        return None if happening.done() and number >= least else number % len(asked)

    try:
        answers = await _users(fleet, asked, following, answered)
        await happening
    finally:
        for task in (happening, watching):
            task.cancel()
    return answers, course


def report(quiet: Sequence[Answer], disturbed: Sequence[Answer], course: Course) -> dict[str, Any]:
    """What was lost, and what was painted otherwise than in quiet."""
    right = {one.asked: one.sha256 for one in quiet}
    lost = [one for one in disturbed if one.status != 200]
    answered = [one for one in disturbed if one.status == 200]
    return {
        "requests": len(disturbed),
        "lost": len(lost),
        "identical": sum(one.sha256 == right[one.asked] for one in answered),
        "different": sum(one.sha256 != right[one.asked] for one in answered),
        "pictures": len(right),
        "latency_s": percentiles([one.took_s for one in answered]),
        "longest_s": round(max(one.took_s for one in answered), 3),
        "quiet_latency_s": percentiles([one.took_s for one in quiet]),
        "events": [{"at_s": round(one.at_s, 2), "what": one.what, "replica": one.replica} for one in course.happened],
        "lost_answers": [{"at_s": round(one.at_s, 2), "status": one.status, "said": one.said} for one in lost],
        "answers": [[round(one.at_s, 3), round(one.took_s, 4), one.status] for one in disturbed],
        "ready": [[round(at_s, 2), *map(int, ready)] for at_s, ready in course.ready],
    }


def body(asked: Asked) -> bytes:
    """A request as the gateway takes it."""
    said = {"adapters": asked.name, "steps": asked.steps, "guidance_scale": 1.0, "seed": asked.seed, "format": "png"}
    return json.dumps({"prompt": asked.prompt, **said}).encode()


async def _users(
    fleet: Fleet, asked: Sequence[Asked], following: Callable[[], int | None], answered: Callable[[], object]
) -> list[Answer]:
    answers, start = list[Answer](), perf_counter()

    async def user() -> None:
        caller = Caller(fleet.door)
        while (number := following()) is not None:
            answers.append(await asyncio.to_thread(_ask, caller, body(asked[number]), number, start))
            answered()
        caller.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(USERS):
            group.create_task(user())
    return answers


def _ask(caller: Caller, said: bytes, number: int, start: float) -> Answer:
    began = perf_counter()
    try:
        status, answer = caller.ask(said)
    except (OSError, HTTPException) as error:
        caller.close()
        return Answer(began - start, perf_counter() - began, number, 0, said=repr(error)[:200])
    took_s = perf_counter() - began
    if status != 200:
        return Answer(began - start, took_s, number, status, said=answer.decode(errors="replace")[:200])
    return Answer(began - start, took_s, number, status, hashlib.sha256(picture(answer)).hexdigest())


def picture(answer: bytes) -> bytes:
    """The file in an answer of the gateway."""
    found: Mapping[str, Any] = json.loads(answer)
    return base64.b64decode(found["data"][0]["b64_json"])


async def _happen(fleet: Fleet, events: Sequence[Event], course: Course, start: float) -> None:
    """Each event when it is due. The rolling update goes on beside the others."""
    acts: Mapping[str, Callable[[int], Awaitable[object]]] = {
        KILLED: lambda number: _kill(fleet, number),
        REPLICA_KILLED: lambda number: _kill_replica(fleet, number),
        CUT: lambda number: _cut(fleet, number),
        ROLLED: lambda number: _roll(fleet),
        DOWN: lambda number: _reach(fleet.store, False),
        UP: lambda number: _reach(fleet.store, True),
    }
    async with asyncio.TaskGroup() as group:
        for event in events:
            await asyncio.sleep(max(0.0, start + event.at_s - perf_counter()))
            if event.what in (KILLED, REPLICA_KILLED):
                await _until_ready(fleet, event.replica, others=1)
            course.happened.append(Event(perf_counter() - start, event.what, event.replica))
            group.create_task(_awaited(acts[event.what](event.replica)))
    await _until_ready(fleet, 0, others=len(fleet.replicas) - 1)


async def _awaited(act: Awaitable[object]) -> None:
    await act


async def _kill(fleet: Fleet, number: int) -> None:
    fleet.replicas[number].kill_triton()


async def _kill_replica(fleet: Fleet, number: int) -> None:
    """An orchestrator starts it again, as Kubernetes would."""
    one = fleet.replicas[number]
    one.kill()
    await asyncio.sleep(1.0)  # its guardian ends the server meanwhile, and the port is free
    one.start()


async def _cut(fleet: Fleet, number: int) -> None:
    fleet.wires[number].cut()


async def _reach(store: Store, is_up: bool) -> None:
    store.wire.is_down = not is_up
    store.wire.cut()


async def _roll(fleet: Fleet) -> None:
    """Drain and restart each in turn, once all the others are ready."""
    for number, one in enumerate(fleet.replicas):
        await _until_ready(fleet, number, others=len(fleet.replicas) - 1)
        await asyncio.to_thread(one.stop)
        one.start()
        await _until_ready(fleet, number, others=0)


async def _until_ready(fleet: Fleet, number: int, others: int) -> None:
    """That replica and so many others are ready."""
    while True:
        ready = await asyncio.gather(*(asyncio.to_thread(one.is_ready) for one in fleet.replicas))
        if ready[number] and sum(ready) > others:
            return
        await asyncio.sleep(LOOK_S)


async def _watch(fleet: Fleet, course: Course, start: float) -> None:
    while True:
        ready = await asyncio.gather(*(asyncio.to_thread(one.is_ready) for one in fleet.replicas))
        course.ready.append((perf_counter() - start, tuple(ready)))
        await asyncio.sleep(2 * LOOK_S)
