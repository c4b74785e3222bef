"""The product in one file: request → lanes → steps → image.

    submit ──► prepare (threads) ──► step loop (one thread) ──► finish (thread) ──► done

prepare   names become adapters in host memory, the guidance rule becomes lanes, their mixes take seats (rows of the
          bank, or weights that they are merged into), prompts become embeds, the seed of each candidate starts a
          sampler, and that asks its first question. A request whose names are still looked up, whose adapters are
          still loading, or for which no row is free, comes back later and keeps no thread waiting.
step loop every running request's questions become rows of one batch; a row carries its own sample, timestep, context
          and seat. The answers are combined by the request's coefficients and sent back to its samplers.
          Requests join and leave between any two batches.
finish    samples become previews and encoded pictures, the best first where they are scored.

Whoever isn't in the step loop, which checks its own, is looked after in lookout.py: once its caller is gone or its time
has passed it's settled at once, and a thread that still works for it finds that out and drops what it did.

Who waits for a request and what they hear is in job.py, a job's part in the step loop in running.py. What this module
doesn't know: whether latents or tokens are sampled, and which sampler, rule, adapters or engine runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any

from impasto_server.adapters import MAX_HEADER, Embedding, Patch
from impasto_server.admission import Admission
from impasto_server.backbone import Seat
from impasto_server.bank import Bank
from impasto_server.batch import choose
from impasto_server.bundle import Bundle, DiffusionManifest, Manifest
from impasto_server.calibration import calibrated, resolve_max_lanes
from impasto_server.diffusion import Diffusion
from impasto_server.encoder import PromptEncoder
from impasto_server.engines.engine import resolve_precision
from impasto_server.errors import (
    Cancelled,
    DeadlineExceeded,
    ImpastoError,
    InvalidArgument,
    NotFound,
    as_impasto_error,
)
from impasto_server.family import Family
from impasto_server.graphs import Graphs
from impasto_server.guidance import Guidance, Mix, Prompts, Text
from impasto_server.image import encode
from impasto_server.job import Caller, Job, Plan, Progress, Result
from impasto_server.lookout import Lookout
from impasto_server.masked import Masked
from impasto_server.meta import settings_of, styles_of, timings_of
from impasto_server.names import by_kind, loaded_of, mixes, named, resolved, said_by
from impasto_server.prompt import Line, Staged, check_lines, lines
from impasto_server.ranking import Ranking
from impasto_server.registry import Registry
from impasto_server.request import Request
from impasto_server.residency import Residency
from impasto_server.running import Candidate, Running
from impasto_server.samplers import Sample
from impasto_server.score import Scorer
from impasto_server.seating import Seating
from impasto_server.settings import Settings
from impasto_server.stats import Stats

__all__ = ["Caller", "Pipeline", "Progress", "Result", "Running"]

log = logging.getLogger(__name__)

READING_THREADS, PREPARING_THREADS, ANSWERING_THREADS = 2, 2, 2
DELTA_SHARE = 4  # of all of a bundle's bytes: what changes its weights may be kept in float32, and in several factors
SMOOTHING = 0.9


class Pipeline:
    """One backbone, resident once, painting for everyone. `submit` from any thread."""

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self.manifest: Manifest = bundle.manifest
        self._engine_name = settings.engine
        self._precision = resolve_precision(settings.engine, settings.precision)
        measured = calibrated(settings, bundle)
        self._max_lanes = resolve_max_lanes(settings, measured)
        self.stats = Stats()
        bank = Bank(self.manifest, settings.bank_rank, settings.bank_bytes, self.stats, self._precision)
        self._seating = Seating(self.manifest, bank, self.stats)
        registry = Registry(settings.registry, MAX_HEADER + DELTA_SHARE * bundle.nbytes)
        self._residency = Residency(registry, self.manifest, settings.host_bytes, self.stats)
        graphs = Graphs(bundle, settings, bank)
        self._prompts = PromptEncoder.of(bundle, graphs, settings.host_bytes)
        self._family = _family(bundle, graphs)
        self._ranking = Ranking(Scorer.open(settings.scorer, settings) if settings.scorer else None)

        embeds = self._prompts.encode([Line("")], {}, Seat(), None)[Line("")]
        self._family.warm(embeds, self._max_lanes, bundle.nbytes)
        self._admission = Admission(settings.max_requests, self.stats)
        self._reading = ThreadPoolExecutor(READING_THREADS, "read")
        self._preparing = ThreadPoolExecutor(PREPARING_THREADS, "prepare")
        self._finishing = ThreadPoolExecutor(1, "finish")
        self._answering = ThreadPoolExecutor(ANSWERING_THREADS, "answer")
        self._lookout = Lookout(self._overdue)
        self._joining: SimpleQueue[Running | None] = SimpleQueue()
        self._step_s = 0.0
        self._loop = Thread(target=self._run, name="step-loop", daemon=True)
        self._loop.start()

    @classmethod
    def load(cls, settings: Settings) -> Pipeline:
        """Open the bundle and compile its graphs. Raises SetupError."""
        return cls(Bundle.open(settings.bundle), settings)

    def submit(self, request: Request, caller: Caller) -> None:
        """Start on `request` and return; the caller hears of it from other threads.

        Adapters are those that their names stand for now: they are looked up right after this, on threads of their own.
        Work stops at the next step once the caller is gone or its time has passed. Raises Unavailable when closed, and
        Exhausted when as many requests are under way as the settings allow.
        """
        self._admission.enter()
        job = Job(request, caller)
        job.again = partial(self._soon, job)
        self._lookout.watch(job)
        try:
            digests = [self._residency.resolve(name) for name, _, _ in named(request)]
        except Exception as error:
            self._answering.submit(self._fail, job, error)
        else:
            _after(digests, partial(self._named, job, digests))

    def refused(self) -> None:
        """Count a request that could not be read, so that it was never submitted."""
        self.stats.add("refused")

    def generate(self, request: Request) -> Result:
        """Paint one picture and wait for it. Raises ImpastoError."""
        answer: Future[Result | ImpastoError] = Future()
        self.submit(request, Caller(answer.set_result))
        outcome = answer.result()
        if isinstance(outcome, ImpastoError):
            raise outcome
        return outcome

    def close(self) -> None:
        """Take nothing new, finish what was taken, and free the threads."""
        self._admission.close()
        self._joining.put(None)
        self._loop.join()
        self._lookout.close()
        self._residency.close()
        self._reading.shutdown()
        self._preparing.shutdown()
        self._finishing.shutdown()
        self._answering.shutdown()

    # prepare: request → lanes

    def _named(self, job: Job, digests: Sequence[Future[str]]) -> None:
        """Go on with a job whose names have been looked up."""
        try:
            job.styles = resolved(named(job.request), digests)
        except Exception as error:
            if not job.over:
                self._answering.submit(self._fail, job, error)
        else:
            self._soon(job)

    def _soon(self, job: Job) -> None:
        """Have a thread prepare it. Decoding a large picture takes a while: who has none to decode doesn't wait."""
        if not job.over:
            threads = self._reading if job.request.pictured and job.loading is None else self._preparing
            threads.submit(self._prepare, job)

    def _prepare(self, job: Job) -> None:
        """Make a job ready to run; called again when something that it had to wait for has come about."""
        try:
            job.check()
            running = None if self._waits(job) else self._start(job)
        except Exception as error:
            return self._fail(job, error)
        if running is not None:
            job.mark("prepared")
            if self._lookout.release(job):
                self._joining.put(running)
            else:  # it was settled meanwhile
                self._seating.leave(running.seats)

    def _waits(self, job: Job) -> bool:
        """Begin with a job, and say whether adapters of it are still loading; it's looked at again when they are."""
        if job.loading is None:
            job.mark("preparing")
            job.loading = self._residency.load(job.styles)
            job.conditions = self._family.condition(job.request)
            job.style_image = self._ranking.reference(job.request)
        if all(adapter.done() for adapter in job.loading.values()):
            return False
        _after(job.loading.values(), job.again)
        return True

    def _start(self, job: Job) -> Running | None:
        """None when there is no room for its adapters; it's looked at again when there may be."""
        plan = job.plan = job.plan or self._plan(job)
        mixes = [lane.mix for lane in plan.guidance.lanes]
        seats = self._seating.take(mixes, plan.adapters, job.styles, job.again)
        if seats is None:
            if job.over:  # and who settled it may have been here before
                self._seating.forget(job.again)
            return None
        job.pinned = any(seat.weights for seat in seats.values())
        try:
            samplers = [self._family.begin(job.request, seed, job.conditions) for seed in job.request.seeds]
            running = Running(
                job=job,
                guidance=plan.guidance,
                contexts=self._encode(plan.guidance, seats, plan.adapters, plan.embeddings),
                seats=seats,
                hint=job.conditions.hint,
                candidates=tuple(Candidate(steps, next(steps)) for steps in samplers),
            )
        except Exception:
            self._seating.leave(seats)
            raise
        job.loading = job.plan = None  # the bank has them now, and the host's cache alone decides what else is kept
        return running

    def _plan(self, job: Job) -> Plan:
        """Raises FieldError for adapters that can't be had, or not in this way."""
        assert job.loading is not None
        request = job.request
        adapters, embeddings = by_kind(job.styles, loaded_of(job.styles, job.loading), request)
        said = said_by(request, job.styles, adapters, embeddings)
        guidance = self._family.rule(request)(said, mixes(job.styles, adapters))
        staged = max(embeddings, key=lambda name: embeddings[name].stages, default=None)
        field = next((style.field for style in job.styles if style.name == staged), "PROMPT")
        check_lines([lane.text for lane in guidance.lanes], embeddings, field)
        job.warnings = self._warnings(request, guidance, said, embeddings)
        return Plan(guidance, adapters, embeddings)

    def _warnings(
        self, request: Request, guidance: Guidance, said: Prompts, embeddings: Mapping[str, Embedding]
    ) -> tuple[str, ...]:
        """What of the request's words nobody reads."""

        def field_of(text: Text) -> str:
            if text == said.null:
                return "NEGATIVE_PROMPT"
            return "CONTENT_PROMPT" if request.content_prompt is not None and text == said.context else "PROMPT"

        found = [
            warning
            for lane in guidance.lanes
            for words in lane.text.stages
            for warning in self._prompts.unread(words, embeddings, field_of(lane.text))
        ]
        return tuple(dict.fromkeys(found + self._ranking.warnings(request)))

    def _encode(
        self,
        guidance: Guidance,
        seats: Mapping[Mix, Seat],
        adapters: Mapping[str, Patch],
        embeddings: Mapping[str, Embedding],
    ) -> tuple[Staged, ...]:
        """Prompt embeds of each lane, under the adapters of its own."""
        spoken = [(lines(lane.text, embeddings), lane.mix) for lane in guidance.lanes]
        embeds = {}
        for mix, seat in seats.items():
            wanted = dict.fromkeys(line for stages, other in spoken if other == mix for line in stages)
            taken, key = (seat, mix) if self._seating.speaks(mix, adapters) else (Seat(), None)
            encoded = self._prompts.encode(wanted, embeddings, taken, key)
            embeds.update({(line, mix): found for line, found in encoded.items()})
        return tuple(Staged(tuple(embeds[line, mix] for line in stages)) for stages, mix in spoken)

    # step loop: lanes → steps

    def _run(self) -> None:
        running: list[Running] = []
        batch = 0
        while self._admit(running, batch):
            left = self._dismiss(running)
            waiting = [one for one in running if one not in left]
            if waiting:
                turns = [one.turn(batch) for one in waiting]
                left += self._step(choose(turns, self._max_lanes, self._step_s), batch)
            running = [one for one in running if one not in left]
            batch += 1

    def _admit(self, running: list[Running], batch: int) -> bool:
        """Let everyone in who has arrived, waiting only while there is nothing to do. False when all is done."""
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
                self._leave(one, error)
                left.append(one)
        return left

    def _step(self, chosen: Sequence[tuple[Running, int]], batch: int) -> list[Running]:
        """One forward pass, and a step of everyone whose lanes are all answered then; returns those that leave."""
        started = perf_counter()
        try:
            self._forward(chosen)
        except Exception as error:
            for one, _ in chosen:
                self._leave(one, error)
            return [one for one, _ in chosen]
        left = [one for one, _ in chosen if not one.missing and self._advance(one, batch)]
        self._step_s = SMOOTHING * self._step_s + (1 - SMOOTHING) * (perf_counter() - started)
        return left

    def _forward(self, chosen: Sequence[tuple[Running, int]]) -> None:
        """Rows of one batch through the backbone, and each request's share to its answers."""
        rows = [row for one, count in chosen for row in one.rows(count, self._family.train_timesteps)]
        answers = iter(self._family.backbone.run(rows))
        self.stats.add("steps", len({row.weights for row in rows}))
        self.stats.add("lanes", len(rows))
        for one, count in chosen:
            one.answers += islice(answers, count)

    def _advance(self, one: Running, batch: int) -> bool:
        """A step of one that has all its answers; True when it leaves, since that was the last, or its own failure."""
        one.last_batch = batch
        try:
            finished = one.advance()
        except Exception as error:
            self._leave(one, error)
            return True
        self._report(one.job, [] if finished else [candidate.ask.denoised for candidate in one.candidates])
        if finished:
            self._leave(one, finished)
        return bool(finished)

    def _leave(self, one: Running, outcome: list[Sample] | Exception) -> None:
        self._seating.leave(one.seats)
        one.job.mark("denoised")
        if isinstance(outcome, Exception):
            self._finishing.submit(self._fail, one.job, outcome)
        else:
            self._lookout.watch(one.job)
            self._finishing.submit(self._finish, one.job, outcome)

    def _report(self, job: Job, denoised: Sequence[Sample | None]) -> None:
        """Have the caller told of a step, if it wants to know; the picture itself is the last step's preview."""
        if job.caller.progress is not None:
            step, steps, every = job.steps_done, job.request.steps_to_run, job.request.preview_every
            eta_s = (perf_counter() - job.times["joined"]) / step * (steps - step)
            shown = [sample for sample in denoised if sample is not None] if every and step % every == 0 else []
            self._finishing.submit(self._tell, job, Progress(step, steps, eta_s), shown)

    # finish: samples → previews and images

    def _tell(self, job: Job, progress: Progress, shown: Sequence[Sample]) -> None:
        try:
            previews = tuple(self._family.preview(sample) for sample in shown)
        except Exception as error:  # the picture itself may still come about
            log.error("a preview could not be made", exc_info=error)
        else:
            job.report(replace(progress, previews=previews))

    def _finish(self, job: Job, samples: Sequence[Sample]) -> None:
        try:
            job.check()
            pictures = [self._family.decode(sample) for sample in samples]
            order, scores = self._ranking.order(job.request, pictures, job.style_image)
            images = tuple(encode(pictures[i], job.request.format) for i in order)
            job.mark("finished")
            result = Result(images, tuple(job.request.seeds[i] for i in order), self._meta(job), scores)
        except Exception as error:
            return self._fail(job, error)
        self._settle(job, result)

    def _meta(self, job: Job) -> dict[str, object]:
        self.stats.add("join_seconds", job.join_s)
        self.stats.add("queue_seconds", job.queue_s)
        return {
            "warnings": list(job.warnings),
            "timings": timings_of(job),
            "engine": self._engine_name,
            "precision": self._precision,
            "bundle": self.manifest.digest,
            **styles_of(job),
            **settings_of(job.request, self.manifest),
        }

    # whatever became of it

    def _fail(self, job: Job, error: Exception) -> None:
        if not job.over:
            self._settle(job, as_impasto_error(error))

    def _overdue(self, job: Job, error: Exception) -> None:
        """As `_fail`, for the lookout: telling a caller may take a while, and the others' time goes on."""
        outcome = as_impasto_error(error)
        if self._end(job, outcome):
            self._answering.submit(job.answer, outcome)

    def _settle(self, job: Job, outcome: Result | ImpastoError) -> None:
        if self._end(job, outcome):
            job.answer(outcome)

    def _end(self, job: Job, outcome: Result | ImpastoError) -> bool:
        """Give back what it takes of the server, but for its seats; True for the first: it has to tell the caller."""
        if not job.settle():
            return False
        self._lookout.release(job)
        self._seating.forget(job.again)
        self.stats.add(_became(outcome))
        self._admission.leave()
        return True


def _after(futures: Iterable[Future[Any]], then: Callable[[], None]) -> None:
    """Call `then` once all of them are done, perhaps at once."""
    waiting = next((future for future in futures if not future.done()), None)
    if waiting is None:
        then()
    else:
        waiting.add_done_callback(lambda _: _after(futures, then))


def _family(bundle: Bundle, graphs: Graphs) -> Family:
    manifest = bundle.manifest
    return Diffusion(manifest, graphs) if isinstance(manifest, DiffusionManifest) else Masked(manifest, graphs)


def _became(outcome: Result | ImpastoError) -> str:
    """The counter an outcome belongs to."""
    if isinstance(outcome, Result):
        return "done"
    if isinstance(outcome, Cancelled):
        return "cancelled"
    if isinstance(outcome, DeadlineExceeded):
        return "expired"
    return "refused" if isinstance(outcome, InvalidArgument | NotFound) else "failed"
