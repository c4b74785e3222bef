"""Request → lanes: everything that must be done before a job can run, in parts that take turns (turns.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from impasto_server.adapters.residency import Residency
from impasto_server.adapters.seat import Seat
from impasto_server.adapters.seating import Seating
from impasto_server.families.family import Conditions, Family
from impasto_server.guidance import Mix
from impasto_server.job import Job
from impasto_server.running import Candidate, Lanes, Running
from impasto_server.scoring.ranking import Ranking
from impasto_server.turns import Work
from impasto_server.worn import Worn, stale, wear

R = TypeVar("R")


class Preparation:
    """Reads a job's pictures, makes its lanes, seats their mixes, and starts its samplers."""

    def __init__(self, family: Family, ranking: Ranking, residency: Residency, seating: Seating) -> None:
        self._family = family
        self._ranking = ranking
        self._residency = residency
        self._seating = seating

    def read(self, job: Job) -> Work[None]:
        """Decode the job's pictures, one a turn, while its adapters load. Raises FieldError."""
        self._begin(job)
        job.seen = yield from _attended(job, self._family.read(job.request))
        job.reference = yield from _attended(job, self._ranking.reference(job.request))
        job.request = job.request.without_files()

    def waits(self, job: Job) -> bool:
        """Whether some of its adapters are still loading. Raises FieldError."""
        if job.loading is None:
            self._begin(job)
        assert job.loading is not None
        return not all(adapter.done() for adapter in job.loading.values())

    def start(self, job: Job) -> Work[Running | None]:
        """Start a job whose adapters are loaded. None when there is no room for them: `job.again` is called when there
        may be. Raises FieldError for adapters that can't be loaded, or can't be used as the request asks.
        """
        worn = job.worn = job.worn or self._wear(job)
        conditions = job.conditions = job.conditions or (yield from self._condition(job, worn))
        yield from _between(job, conditions.gather())
        seats = self._seating.take(_mixes(conditions), worn.adapters, job.named, job.again)
        if seats is None:
            if job.over:  # whoever settled it may have forgotten it before it waited
                self._seating.forget(job.again)
            return None
        try:
            running = yield from self._seated(job, conditions, seats)
        except BaseException:  # also GeneratorExit, when the work is closed
            self._seating.leave(seats)
            raise
        job.loading, job.worn, job.conditions = None, None, None  # the bank and `running` hold all that is still needed
        return running

    def _begin(self, job: Job) -> None:
        """Check the job and start loading its adapters: the first step, whichever thread gets to it."""
        job.mark("preparing")
        self._ranking.check(job.request)
        job.loading = self._residency.load(job.named)

    def _wear(self, job: Job) -> Worn:
        assert job.loading is not None
        return wear(job.request, job.named, job.loading)

    def _condition(self, job: Job, worn: Worn) -> Work[Conditions]:
        conditions = yield from self._family.condition(job.request, worn, job.seen)
        job.told = conditions.told
        warnings = [*conditions.warnings, *self._ranking.warnings(job.request), *stale(job.named)]
        job.warnings = tuple(dict.fromkeys(warnings))
        return conditions

    def _seated(self, job: Job, conditions: Conditions, seats: Mapping[Mix, Seat]) -> Work[Running]:
        contexts = yield from _between(job, conditions.contexts(seats))
        job.pinned = any(seat.merged for seat in seats.values())
        seeds = job.request.seeds.each
        samplers = [self._family.begin(job.request, seed, job.seen, contexts) for seed in seeds]
        candidates = tuple(Candidate(steps, next(steps)) for steps in samplers)
        job.steps = candidates[0].ask.steps
        stages = {stage: Lanes(one, contexts[stage]) for stage, one in conditions.guidance.items()}
        return Running(job, stages, seats, candidates)


def _mixes(conditions: Conditions) -> list[Mix]:
    """The mixes of all lanes of all stages."""
    return [lane.mix for guidance in conditions.guidance.values() for lane in guidance.lanes]


def _between(job: Job, work: Work[R]) -> Work[R]:
    """As `_attended`, for a job that was just checked: its first part may begin."""
    try:
        yield next(work)
    except StopIteration as stop:
        result: R = stop.value
        return result
    return (yield from _attended(job, work))


def _attended(job: Job, work: Work[R]) -> Work[R]:
    """The same work, with the job checked before each part. Raises as Job.check."""
    while True:
        try:
            left = next(work)
        except StopIteration as stop:
            result: R = stop.value
            return result
        yield left
        job.check()
