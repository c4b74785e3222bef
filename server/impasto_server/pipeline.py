"""The product in one file: request → lanes → steps → image.

    submit ──► name ──► read (its pictures) ──► prepare ──► step loop ──► finish ──► done

name      names become digests, as they stand now; on the registry's own threads, since files may be slow to answer.
read      files become what the family and the scorer see in them; nothing is kept in the size it was sent in. Large
          pictures wait until there is room for them in memory (room.py).
prepare   adapters come into host memory, and what the request names becomes what it wears: words and mixes (worn.py).
          Its family makes conditions of that: lanes, weighed by the guidance rule, and a context for each, such as what
          a prompt is encoded to. The lanes' mixes take seats (pages of the bank, or weights that they are merged into),
          the seed of each candidate starts a sampler, and that asks its first question (preparation.py). A request
          whose adapters are still loading, or for which no page is free, comes back later and keeps no thread waiting.
step loop every running request's questions become rows of one batch, on the backbone of their stage; a row is a
          question with a context and a seat. The answers are combined by the request's coefficients and sent back to
          its samplers. Requests join and leave between any two batches (loop.py).
finish    samples become previews and encoded pictures, the best first where they are scored.

What isn't a step is done by turns (turns.py), on two threads for each stage: a picture to decode, a line to encode, a
candidate to finish. Who has little left goes first: nobody waits for somebody's sixteen pictures or 64 prompts.

The step loop checks its own; everyone else is looked after by lookout.py. Once a caller is gone or its time has passed
its job is settled at once, and a thread that still works for it finds that out and drops what it did.

Who waits for a request and what they hear is in job.py, a job's part in the step loop in running.py. What this module
doesn't know: what is sampled, in how many stages, and what is in a context (families/family.py); and which sampler,
rule, adapters or engine runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.bank import Bank
from impasto_server.adapters.residency import Residency
from impasto_server.bundle import Bundle, Manifest
from impasto_server.engines.calibration import runtime_for
from impasto_server.engines.footprint import copies
from impasto_server.errors import (
    Cancelled,
    DeadlineExceeded,
    ImpastoError,
    InvalidArgument,
    NotFound,
    as_impasto_error,
)
from impasto_server.families import FAMILIES, open_bundle
from impasto_server.families.family import Family, Make, Parts
from impasto_server.families.offers import offer_of
from impasto_server.job import Caller, Job, Progress, Result
from impasto_server.lookout import Lookout
from impasto_server.loop import Loop
from impasto_server.meta import settings_of, styles_of, timings_of
from impasto_server.pictures.content import pixels_in
from impasto_server.pictures.image import encode
from impasto_server.preparation import Preparation
from impasto_server.request import Request
from impasto_server.running import Running
from impasto_server.scoring.ranking import Ranking
from impasto_server.settings import Settings
from impasto_server.shared import Shared
from impasto_server.stats import Stats
from impasto_server.steps import Finished
from impasto_server.turns import Turns, Work, once
from impasto_server.worn import Asked, asked, resolved

__all__ = ["Caller", "Pipeline", "Progress", "Result", "Running"]

log = logging.getLogger(__name__)

PREPARING_THREADS, FINISHING_THREADS, ANSWERING_THREADS = 2, 2, 2
# Pixels. A file may have 50 million, and takes up to 20 bytes for each while it is decoded. Larger ones than this have
# a thread of their own and smaller ones another, so that no more than 66 million are decoded at any time.
LARGE = 16_000_000
PREVIEW_BYTES = 64 << 20  # of samples of a request whose previews are still to be made


class Pipeline:
    """One bundle, resident once, painting for everyone. `submit` from any thread.

    What it has in common with those of other bundles is in `shared`. `make` makes its `family`, as FAMILIES has it
    where none is given; `loop` makes the step loop, of which a benchmark has another one.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings,
        shared: Shared,
        loop: Callable[..., Loop] = Loop,
        make: Make | None = None,
    ) -> None:
        self.name = bundle.name
        self.manifest: Manifest = bundle.manifest
        self.offer = replace(offer_of(bundle.manifest), model=bundle.name)
        self._runtime = runtime = runtime_for(settings, bundle)
        self.stats = Stats()
        bank = Bank.of(self.manifest, settings, runtime, self.stats)
        parts = Parts.of(bundle, runtime, bank, self.stats, settings.host_bytes)
        self._seating = parts.seating
        self.family: Family = (make or FAMILIES[self.manifest.family].make)(parts)
        self._ranking = Ranking(shared.scorer)

        for stage, backbone in self.family.backbones.items():
            prepared = copies(bundle.nbytes, len(settings.folders))
            backbone.prepare(self.family.example(stage), runtime.max_lanes, prepared)
        self.family.warm(runtime.max_lanes)
        # From here on there are threads: a bundle that can't be had has left none behind.
        self._residency = Residency(shared.registry, self.manifest, settings.host_bytes, self.stats)
        self._preparation = Preparation(self.family, self._ranking, self._residency, self._seating)
        self.shared = shared
        self._lookout = Lookout(self._overdue)
        self._reading: Turns[Job] = Turns("read", 1)
        self._reading_large: Turns[Job] = Turns("read-large", 1)
        self._preparing: Turns[Job] = Turns("prepare", PREPARING_THREADS)
        self._finishing: Turns[Job] = Turns("finish", FINISHING_THREADS)
        self._answering = ThreadPoolExecutor(ANSWERING_THREADS, "answer")
        gate = shared.turnstile.gate()
        self._loop = loop(self.family.backbones, runtime.max_lanes, self.stats, gate, self._stepped, self._left)

    @classmethod
    def load(cls, settings: Settings, make: Make | None = None) -> Pipeline:
        """Open the bundle, the only one, and compile its graphs. Raises SetupError."""
        ((name, folder),) = settings.folders.items()
        bundle = open_bundle(folder, name)
        return cls(bundle, settings, Shared.of(settings, [bundle]), make=make)

    def submit(self, request: Request, caller: Caller) -> None:
        """Start on `request` and return; the caller hears of it from other threads.

        Adapters are those that their names stand for now: they are looked up right after this, on threads of their own.
        Work stops at the next step once the caller is gone or its time has passed. Raises Unavailable when closed, and
        Exhausted when as many requests are under way as the settings allow.
        """
        self.shared.admission.enter(self.stats)
        job = Job(request, caller, self.shared.closing, self._go_on)
        self._lookout.watch(job)
        try:
            self.offer.check(request)
            names = asked(request)
            digests = [self._residency.resolve(one.name) for one in names]
        except Exception as error:
            self._answering.submit(self._fail, job, error)
        else:
            _after(digests, partial(self._named, job, names, digests))

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
        self.shared.admission.close()
        self._lookout.close()
        self._residency.close()
        self._reading.close()
        self._reading_large.close()
        self._preparing.close()
        self._loop.close()
        self._finishing.close()
        self._answering.shutdown()

    # name, read, prepare: request → lanes

    def _named(self, job: Job, names: Sequence[Asked], digests: Sequence[Future[str]]) -> None:
        """Go on with a job whose names have been looked up."""
        try:
            job.named = resolved(names, digests)
        except Exception as error:
            if not job.over:
                self._answering.submit(self._fail, job, error)
        else:
            self._go_on(job)

    def _go_on(self, job: Job) -> None:
        """Have it read or prepared when its turn comes."""
        if job.over:
            return
        if job.request.pictured and job.loading is None:
            reading = self._reading_large if _largest(job.request) > LARGE else self._reading
            reading.submit(job, self._read(job))
        else:
            self._preparing.submit(job, self._prepare(job))

    def _read(self, job: Job) -> Work[None]:
        try:
            job.check()
            if not self._has_room(job):
                return
            yield from self._preparation.read(job)
        except Exception as error:
            return self._fail(job, error)
        self._go_on(job)

    def _has_room(self, job: Job) -> bool:
        """Whether there is memory for its pictures; else `job.again` is called later. Raises InvalidArgument."""
        if job.place is None and (nbytes := self.family.room(job.request)):
            job.place = self.shared.room.take(nbytes, job.again)
            if job.over:  # and who settled it may have been here before
                self._leave_room(job)
            return job.place is not None
        return True

    def _leave_room(self, job: Job) -> None:
        self.shared.room.forget(job.again)
        if job.place is not None:
            self.shared.room.leave(job.place)

    def _prepare(self, job: Job) -> Work[None]:
        """Make a job ready to run; done again when something that it had to wait for has come about."""
        try:
            job.check()
            if self._preparation.waits(job):
                return _after((job.loading or {}).values(), job.again)
            running = yield from self._preparation.start(job)
        except Exception as error:
            return self._fail(job, error)
        if running is not None:
            job.mark("prepared")
            if self._lookout.release(job):
                self._loop.join(running)
            else:  # it was settled meanwhile
                self._seating.leave(running.seats)

    # what the step loop tells, from its own thread: others do the work

    def _stepped(self, job: Job, denoised: Sequence[Finished | None]) -> None:
        """Have the caller told of a step, if it wants to know; the picture itself is the last step's preview."""
        if job.caller.progress is not None:
            step, steps, every = job.steps_done, job.steps, job.request.answer.preview_every
            eta_s = (perf_counter() - job.times["joined"]) / step * (steps - step)
            shown = [sample for sample in denoised if sample is not None] if every and step % every == 0 else []
            if sum(job.showing) > PREVIEW_BYTES:
                shown = []  # they come faster than previews of them are made
            job.showing.extend(sample.nbytes for sample in shown)
            self._finishing.submit(job, self._tell(job, Progress(step, steps, eta_s), shown))

    def _left(self, one: Running, outcome: list[Finished] | Exception) -> None:
        self._seating.leave(one.seats)
        one.job.mark("denoised")
        self._lookout.watch(one.job)  # what it is to be told before may take a while
        if isinstance(outcome, Exception):
            self._finishing.submit(one.job, once(partial(self._fail, one.job, outcome)))
        else:
            self._finishing.submit(one.job, self._finish(one.job, outcome))

    # finish: samples → previews and images

    def _tell(self, job: Job, progress: Progress, shown: Sequence[Finished]) -> Work[None]:
        """Tell the caller of a step, when the previews of it are made; one a turn."""
        try:
            previews = []
            for done, sample in enumerate(shown):
                yield (len(shown) - done) * sample.size
                previews.append(self.family.preview(sample))
                job.showing.popleft()
        except Exception as error:  # the picture itself may still come about
            log.error("a preview could not be made", exc_info=error)
        else:
            job.report(replace(progress, previews=tuple(previews)))

    def _finish(self, job: Job, samples: Sequence[Finished]) -> Work[None]:
        """Decode, score and encode, a candidate a turn."""
        request, files, embeds = job.request, list[bytes](), list[NDArray[np.float32]]()
        try:
            for done, sample in enumerate(samples):
                yield (len(samples) - done) * sample.size
                job.check()
                picture = self.family.decode(sample)
                job.size = picture.shape[1], picture.shape[0]
                embeds += self._ranking.embeds(request, picture)
                files.append(encode(picture, request.answer.format))
            order, scores = self._ranking.order(request, embeds, job.reference)
            job.mark("finished")
            seeds = tuple(request.seeds.each[i] for i in order)
            result = Result(tuple(files[i] for i in order), seeds, self._meta(job), scores)
        except Exception as error:
            return self._fail(job, error)
        self._settle(job, result)

    def _meta(self, job: Job) -> dict[str, object]:
        self.stats.add("join_seconds", job.join_s)
        self.stats.add("queue_seconds", job.queue_s)
        return {
            "warnings": list(job.warnings),
            "timings": timings_of(job),
            "engine": self._runtime.engine,
            "precision": self._runtime.precision,
            "model": self.name,
            "bundle": self.manifest.digest,
            **styles_of(job),
            **settings_of(job, self.offer),
            **job.told,
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
        self._leave_room(job)
        for turns in (self._reading, self._reading_large, self._preparing, self._finishing):
            turns.drop(job)
        self.stats.add(_became(outcome))
        self.shared.admission.leave(self.stats)
        return True


def _after(futures: Iterable[Future[Any]], then: Callable[[], None]) -> None:
    """Call `then` once all of them are done, perhaps at once."""
    todo = [then]  # taken out when it is called: a future keeps its callbacks, and they would keep a job

    def look(_: object = None) -> None:
        waiting = next((future for future in futures if not future.done()), None)
        if waiting is None:
            todo.pop()()
        else:
            waiting.add_done_callback(look)

    look()


def _largest(request: Request) -> int:
    """Pixels of the largest of its files, by their headers."""
    return max(pixels_in(file) for file in request.files if file is not None)


def _became(outcome: Result | ImpastoError) -> str:
    """The counter an outcome belongs to."""
    if isinstance(outcome, Result):
        return "done"
    if isinstance(outcome, Cancelled):
        return "cancelled"
    if isinstance(outcome, DeadlineExceeded):
        return "expired"
    return "refused" if isinstance(outcome, InvalidArgument | NotFound) else "failed"
