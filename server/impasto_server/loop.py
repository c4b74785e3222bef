"""The step loop: everyone's questions as rows of one batch, their answers back to them, again and again.

It knows neither where a request comes from nor what becomes of it: it is joined by who is ready to run, says what each
step has shown, and hands back who leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter

from impasto_server.backbone import Backbone
from impasto_server.batch import choose
from impasto_server.job import Job
from impasto_server.running import Running
from impasto_server.stats import Stats
from impasto_server.steps import Finished
from impasto_server.turnstile import Gate

SMOOTHING = 0.9


class Loop:
    """One thread, and all that run on one family's backbones, by stage; a batch is on one of them. Through `gate` its
    passes take turns with other loops'.

    `stepped` is called after each step of a job with what its candidates are taken to become, nothing after the last;
    `left` with the finished samples of one that leaves, or why it does. Neither may take its time.
    """

    def __init__(
        self,
        backbones: Mapping[str, Backbone],
        max_lanes: int,
        stats: Stats,
        gate: Gate,
        stepped: Callable[[Job, Sequence[Finished | None]], None],
        left: Callable[[Running, list[Finished] | Exception], None],
    ) -> None:
        self._backbones = backbones
        self._max_lanes = max_lanes
        self._stats = stats
        self._gate = gate
        self._stepped = stepped
        self._left = left
        self._joining: SimpleQueue[Running | None] = SimpleQueue()
        self._step_s = 0.0
        self._thread = Thread(target=self._run, name="step-loop", daemon=True)
        self._thread.start()

    def join(self, one: Running) -> None:
        """Its rows are in the next batch that has room."""
        self._joining.put(one)

    def close(self) -> None:
        """Go on until everyone has left, and free the thread. Nobody may join after this."""
        self._joining.put(None)
        self._thread.join()

    def _run(self) -> None:
        running: list[Running] = []
        batch = 0
        while self._admit(running, batch):
            running = self._round(running, batch)
            batch += 1

    def _round(self, running: Sequence[Running], batch: int) -> list[Running]:
        """A batch; those who stay. A method of its own, since nothing of who left may be kept while nobody comes."""
        left = self._dismiss(running)
        waiting = [one for one in running if one not in left]
        if waiting:
            turns = [one.turn(batch) for one in waiting]
            left += self._step(choose(turns, self._max_lanes, self._step_s, self._room), batch)
        return [one for one in running if one not in left]

    def _admit(self, running: list[Running], batch: int) -> bool:
        """Let everyone in who has arrived, waiting only while there is nothing to do. False when all is done."""
        if not running:
            self._gate.rest()
        try:
            while True:
                one = self._joining.get(block=not running)
                if one is None:
                    self._joining.put(None)
                    return bool(running)
                one.job.mark("joined")
                one.last_batch = batch
                running.append(one)
        except Empty:
            return True

    def _dismiss(self, running: Sequence[Running]) -> list[Running]:
        """Drop those whom nobody waits for; their lanes are free in this very step."""
        left = []
        for one in running:
            try:
                one.job.check()
            except Exception as error:
                self._left(one, error)
                left.append(one)
        return left

    def _step(self, chosen: Sequence[tuple[Running, int]], batch: int) -> list[Running]:
        """One forward pass, and a step of everyone whose lanes are all answered then; returns those that leave."""
        started = perf_counter()
        try:
            self._forward(chosen)
        except Exception as error:
            for one, _ in chosen:
                self._left(one, error)
            return [one for one, _ in chosen]
        left = [one for one, _ in chosen if not one.missing and self._advance(one, batch)]
        self._step_s = SMOOTHING * self._step_s + (1 - SMOOTHING) * (perf_counter() - started)
        return left

    def _room(self, one: Running) -> int:
        """Rows of a batch of its kind."""
        return self._backbones[one.ask.stage].room(one.ask.sample, self._max_lanes)

    def _forward(self, chosen: Sequence[tuple[Running, int]]) -> None:
        """Rows of one batch through the backbone, and each request's share to its answers."""
        rows = [row for one, count in chosen for row in one.rows(count)]
        with self._gate:
            answers = iter(self._backbones[rows[0].ask.stage].run(rows))
        self._stats.add("steps", len({row.seat.merged for row in rows}))
        self._stats.add("lanes", len(rows))
        for one, count in chosen:
            one.answers += islice(answers, count)

    def _advance(self, one: Running, batch: int) -> bool:
        """A step of one that has all its answers; True when it leaves, since that was the last, or its own failure."""
        one.last_batch = batch
        try:
            finished = one.advance()
        except Exception as error:
            self._left(one, error)
            return True
        self._stepped(one.job, [] if finished else [candidate.ask.denoised for candidate in one.candidates])
        if finished:
            self._left(one, finished)
        return bool(finished)
