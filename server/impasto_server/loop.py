"""The step loop: it puts all running jobs' questions into one batch and sends each its answers, again and again.

It doesn't know where a job comes from or where it goes. Jobs join when they are ready; the loop reports each step and
hands back those that leave.
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
    """One thread that runs all jobs of one family. `backbones` are by stage; a batch runs on one of them. `gate` makes
    its passes take turns with other loops'.

    `stepped` is called after each step of a job with its candidates' predicted final samples, empty after the last
    step. `left` is called when a job leaves, with its finished samples or the error. Both must return at once.
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
        """Run `one`: its rows enter the next batch that has room."""
        self._joining.put(one)

    def close(self) -> None:
        """Run until all jobs have left, then end the thread. Nobody may join after this."""
        self._joining.put(None)
        self._thread.join()

    def _run(self) -> None:
        running: list[Running] = []
        batch = 0
        while self._admit(running, batch):
            running = self._round(running, batch)
            batch += 1

    def _round(self, running: Sequence[Running], batch: int) -> list[Running]:
        """Run one batch; return those who stay. A method of its own: its locals must not keep a job that has left."""
        left = self._dismiss(running)
        waiting = [one for one in running if one not in left]
        if waiting:
            turns = [one.turn(batch) for one in waiting]
            left += self._step(choose(turns, self._max_lanes, self._step_s, self._room), batch)
        return [one for one in running if one not in left]

    def _admit(self, running: list[Running], batch: int) -> bool:
        """Admit all who have arrived; wait only while there is nothing to run. False when closed and all are done."""
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
        """Drop jobs that nobody waits for; this batch can already use their rows."""
        left = []
        for one in running:
            try:
                one.job.check()
            except Exception as error:
                self._left(one, error)
                left.append(one)
        return left

    def _step(self, chosen: Sequence[tuple[Running, int]], batch: int) -> list[Running]:
        """Run one forward pass, then step every job whose lanes are all answered. Returns those that leave."""
        started = perf_counter()
        try:
            self._forward(chosen)
        except Exception as error:
            if len(chosen) > 1:  # each alone: only the one whose fault it is must fail
                return [gone for one in chosen for gone in self._step([one], batch)]
            ((lone, _),) = chosen
            self._left(lone, error)
            return [lone]
        left = [one for one, _ in chosen if not one.missing and self._advance(one, batch)]
        self._step_s = SMOOTHING * self._step_s + (1 - SMOOTHING) * (perf_counter() - started)
        return left

    def _room(self, one: Running) -> int:
        """How many rows a batch of its kind has."""
        return self._backbones[one.ask.stage].room(one.ask.sample, self._max_lanes)

    def _forward(self, chosen: Sequence[tuple[Running, int]]) -> None:
        """Run one batch through the backbone and give each job its answers."""
        rows = [row for one, count in chosen for row in one.rows(count)]
        with self._gate:
            answers = iter(self._backbones[rows[0].ask.stage].run(rows))
        self._stats.add("steps", len({row.seat.merged for row in rows}))
        self._stats.add("lanes", len(rows))
        for one, count in chosen:
            one.answers += islice(answers, count)

    def _advance(self, one: Running, batch: int) -> bool:
        """Step a job that has all its answers. True when it leaves: this was its last step, or it failed."""
        one.last_batch = batch
        stage = one.ask.stage
        try:
            finished = one.advance()
        except Exception as error:
            self._left(one, error)
            return True
        if finished or one.ask.stage != stage:
            one.job.stages[stage] = perf_counter()
        self._stepped(one.job, [] if finished else [candidate.ask.denoised for candidate in one.candidates])
        if finished:
            self._left(one, finished)
        return bool(finished)
