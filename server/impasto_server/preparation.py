"""Request → lanes: what is done for a job before it can run, in parts that take turns with others' (turns.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from impasto_server.adapters.adapter import Embedding
from impasto_server.adapters.residency import Residency
from impasto_server.adapters.seat import Seat
from impasto_server.adapters.seating import Seating
from impasto_server.families.family import Family
from impasto_server.guidance import Guidance, Mix, Prompts, Text
from impasto_server.job import Job, Plan, Spoken
from impasto_server.names import by_kind, loaded_of, mixes, said_by
from impasto_server.request import Request
from impasto_server.running import Candidate, Running
from impasto_server.scoring.ranking import Ranking
from impasto_server.turns import Work
from impasto_server.words.encoder import PromptEncoder
from impasto_server.words.prompt import Line, Staged, check_lines, lines

R = TypeVar("R")


class Preparation:
    """Names become adapters, the rule becomes lanes, prompts become embeds, mixes take seats, seeds start samplers."""

    def __init__(
        self, family: Family, prompts: PromptEncoder, ranking: Ranking, residency: Residency, seating: Seating
    ) -> None:
        self._family = family
        self._prompts = prompts
        self._ranking = ranking
        self._residency = residency
        self._seating = seating

    def read(self, job: Job) -> Work[None]:
        """Decode a job's pictures, one a turn, while its adapters load. Raises FieldError."""
        self._begin(job)
        job.conditions = yield from _attended(job, self._family.condition(job.request))
        job.reference = yield from _attended(job, self._ranking.reference(job.request))
        job.request = job.request.without_files()

    def waits(self, job: Job) -> bool:
        """Whether adapters of it are still loading. Raises FieldError."""
        if job.loading is None:
            self._begin(job)
        assert job.loading is not None
        return not all(adapter.done() for adapter in job.loading.values())

    def start(self, job: Job) -> Work[Running | None]:
        """Of a job whose adapters are loaded. None when there is no room for them: `job.again` is called when there
        may be. Raises FieldError for adapters that can't be had, or not in this way.
        """
        plan = job.plan = job.plan or (yield from self._plan(job))
        yield from self._encode(job, plan, None, Seat())
        mixes = [lane.mix for lane in plan.guidance.lanes]
        seats = self._seating.take(mixes, plan.adapters, job.styles, job.again)
        if seats is None:
            if job.over:  # and who settled it may have been here before
                self._seating.forget(job.again)
            return None
        try:
            running = yield from self._seated(job, plan, seats)
        except BaseException:  # also when the work is closed
            self._seating.leave(seats)
            raise
        job.loading, job.plan, job.embeds = None, None, {}  # the bank and `running` have what is needed of them
        return running

    def _begin(self, job: Job) -> None:
        """The first that is done for a job, in whichever thread."""
        job.mark("preparing")
        self._ranking.check(job.request)
        job.loading = self._residency.load(job.styles)

    def _plan(self, job: Job) -> Work[Plan]:
        assert job.loading is not None
        request = job.request
        adapters, embeddings = by_kind(job.styles, loaded_of(job.styles, job.loading), request)
        said = said_by(request, job.styles, adapters, embeddings)
        guidance = self._family.rule(request)(said, mixes(job.styles, adapters))
        staged = max(embeddings, key=lambda name: embeddings[name].stages, default=None)
        field = next((style.field for style in job.styles if style.name == staged), "PROMPT")
        check_lines([lane.text for lane in guidance.lanes], embeddings, field)
        job.warnings = yield from self._warnings(request, guidance, said, embeddings)
        spoken = tuple(
            Spoken(lines(lane.text, embeddings), lane.mix if self._seating.speaks(lane.mix, adapters) else None)
            for lane in guidance.lanes
        )
        return Plan(guidance, adapters, embeddings, spoken)

    def _warnings(
        self, request: Request, guidance: Guidance, said: Prompts, embeddings: Mapping[str, Embedding]
    ) -> Work[tuple[str, ...]]:
        """What of the request's words nobody reads. A text of a few pages takes a while: a turn each."""

        def field_of(text: Text) -> str:
            if text == said.null:
                return "NEGATIVE_PROMPT"
            return "CONTENT_PROMPT" if request.content_prompt is not None and text == said.context else "PROMPT"

        texts = dict.fromkeys((words, field_of(lane.text)) for lane in guidance.lanes for words in lane.text.stages)
        found: dict[str, None] = {}
        for done, (words, field) in enumerate(texts):
            if done:
                yield len(texts) - done
            found |= dict.fromkeys(self._prompts.unread(words, embeddings, field))
        return tuple(found | dict.fromkeys(self._ranking.warnings(request)))

    def _seated(self, job: Job, plan: Plan, seats: Mapping[Mix, Seat]) -> Work[Running]:
        for mix, seat in seats.items():
            yield from self._encode(job, plan, mix, seat)
        job.pinned = any(seat.merged for seat in seats.values())
        samplers = [self._family.begin(job.request, seed, job.conditions) for seed in job.request.seeds]
        return Running(
            job=job,
            guidance=plan.guidance,
            contexts=tuple(_staged(job, spoken) for spoken in plan.spoken),
            seats=seats,
            hint=job.conditions.hint,
            candidates=tuple(Candidate(steps, next(steps)) for steps in samplers),
        )

    def _encode(self, job: Job, plan: Plan, mix: Mix | None, seat: Seat) -> Work[None]:
        """Into `job.embeds`, a line a turn, what is spoken under `mix`; what is remembered takes no turn."""
        missing = self._missing(job, plan.spoken, mix)
        for done, line in enumerate(missing):
            yield len(missing) - done
            if done:
                job.check()
            job.embeds[line, mix] = self._prompts.encode(line, plan.embeddings, seat, mix)

    def _missing(self, job: Job, spoken: Sequence[Spoken], mix: Mix | None) -> list[Line]:
        """Lines under `mix` that nobody has encoded yet; those that somebody has are put into `job.embeds`."""
        wanted = dict.fromkeys(line for one in spoken if one.mix == mix for line in one.lines)
        for line in wanted:
            known = job.embeds.get((line, mix)) or self._prompts.known(line, mix)
            if known is not None:
                job.embeds[line, mix] = known
        return [line for line in wanted if (line, mix) not in job.embeds]


def _staged(job: Job, spoken: Spoken) -> Staged:
    return Staged(tuple(job.embeds[line, spoken.mix] for line in spoken.lines))


def _attended(job: Job, work: Work[R]) -> Work[R]:
    """The same work, which ends before a part of it that nobody waits for. Raises as Job.check."""
    while True:
        try:
            left = next(work)
        except StopIteration as stop:
            result: R = stop.value
            return result
        yield left
        job.check()
