"""The life of a request in one file: request → lanes → steps → image.

    submit ──► name ──► read (its pictures) ──► prepare ──► step loop ──► finish ──► done

name      names of adapters and embeddings become digests, as the registry has them now, on its own threads, since files
          may be slow to answer.
read      picture files are decoded for the family and the scorer, and their originals dropped. Large pictures wait
          until memory has room for them (room.py).
prepare   adapters are loaded into host memory. Names in the request become words and mixes of adapters (worn.py). The
          family turns these into conditions: lanes, weighted by the guidance rule, and a context for each lane, such as
          an encoded prompt. The lanes' mixes take seats (pages of the bank, or weights that they are merged into). Each
          candidate's seed starts a sampler, which asks its first question (preparation.py). A request whose adapters
          are still loading, or for which no page is free, comes back later and blocks no thread.
step loop the questions of all running requests become rows of one batch, on the backbone of their stage; a row is a
          question with a context and a seat. A request's coefficients combine its answers, which go back to its
          samplers. Requests join and leave between any two batches (loop.py).
finish    samples become previews and encoded pictures, the best first where they are scored.

Everything but the steps takes turns on a few threads (turns.py): decoding a picture, encoding a line, finishing a
candidate. Whoever has least left goes first, so nobody waits for another request's sixteen pictures or 64 prompts.

The step loop checks its own jobs; lookout.py checks all others. When a caller is gone or its time has passed, its job
is settled at once. A thread that still works on it notices and drops the result.

job.py holds the request, its caller and what the caller hears; running.py holds a job's part in the step loop. This
module doesn't know what is sampled, in how many stages, or what a context holds (families/family.py). Nor does it know
which sampler, rule, adapters or engine runs.
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
from impasto_server.adapters.registry import Pointed
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
from impasto_server.meta import VERSION, settings_of, stages_of, styles_of, timings_of
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
from impasto_server.wearers import Wearers
from impasto_server.worn import Asked, asked, resolved

__all__ = ["Caller", "Pipeline", "Progress", "Result", "Running"]

log = logging.getLogger(__name__)

PREPARING_THREADS, FINISHING_THREADS, ANSWERING_THREADS = 2, 2, 2
# Pixels. A file may have 50 million, and decoding takes up to 20 bytes for each. Files above this size share one thread
# and smaller ones another, so at most 66 million pixels are decoded at any time.
LARGE = 16_000_000
PREVIEW_BYTES = 64 << 20  # a request's samples that wait for their previews


class Pipeline:
    """One bundle, loaded once, that paints for all callers. `submit` from any thread.

    `shared` is what all bundles' pipelines have in common. `make` makes the `family`; by default FAMILIES says how.
    `loop` makes the step loop; a benchmark passes its own.
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
        self.wearers = Wearers(sum(pages - 1 for pages in bank.pages.values()))
        parts = Parts.of(bundle, runtime, bank, self.stats, settings.host_bytes)
        self._seating = parts.seating
        self.family: Family = (make or FAMILIES[self.manifest.family].make)(parts)
        self._ranking = Ranking(shared.scorer)

        for stage, backbone in self.family.backbones.items():
            prepared = copies(bundle.nbytes, len(settings.folders))
            backbone.prepare(self.family.example(stage), runtime.max_lanes, prepared)
        self.family.warm(runtime.max_lanes)
        # Threads start only here, so a bundle that fails to load leaves none behind.
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
        """Open the settings' only bundle and compile its graphs. Raises SetupError."""
        ((name, folder),) = settings.folders.items()
        bundle = open_bundle(folder, name)
        return cls(bundle, settings, Shared.of(settings, [bundle]), make=make)

    def submit(self, request: Request, caller: Caller) -> None:
        """Start on `request` and return; the caller hears of it from other threads.

        Adapter names are looked up right away, on the registry's threads. Once the caller is gone or its time has
        passed, work stops at the next step. Raises Unavailable when closed, and Exhausted when as many requests are
        under way as the settings allow.
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
        """Count a request that could not be read and so was never submitted."""
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
        """Refuse new requests, finish those under way, and end the threads."""
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

    def _named(self, job: Job, names: Sequence[Asked], digests: Sequence[Future[Pointed]]) -> None:
        """Go on with a job whose names have been looked up."""
        try:
            job.named = resolved(names, digests)
        except Exception as error:
            if not job.over:
                self._answering.submit(self._fail, job, error)
        else:
            self.wearers.wait(job)
            self._go_on(job)

    def _go_on(self, job: Job) -> None:
        """Queue the job to be read or prepared."""
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
        """Whether memory has room for its pictures; if not, `job.again` is called later. Raises InvalidArgument."""
        if job.place is None and (nbytes := self.family.room(job.request)):
            job.place = self.shared.room.take(nbytes, job.again)
            if job.over:  # whoever settled it may have left its room before we took it
                self._leave_room(job)
            return job.place is not None
        return True

    def _leave_room(self, job: Job) -> None:
        self.shared.room.forget(job.again)
        if job.place is not None:
            self.shared.room.leave(job.place)

    def _prepare(self, job: Job) -> Work[None]:
        """Make a job ready to run. Called again when something it waited for has happened."""
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
                self.wearers.run(job)
                self._loop.join(running)
            else:  # it was settled in the meantime
                self._seating.leave(running.seats)

    # called by the step loop, on its own thread: the work itself is left to other threads

    def _stepped(self, job: Job, denoised: Sequence[Finished | None]) -> None:
        """Report a step to a caller that asked for progress. The last step has no preview: the picture follows."""
        if job.steps_done == 1:
            job.mark("stepped")
        if job.caller.progress is not None:
            step, steps, every = job.steps_done, job.steps, job.request.answer.preview_every
            eta_s = (perf_counter() - job.times["joined"]) / step * (steps - step)
            shown = [sample for sample in denoised if sample is not None] if every and step % every == 0 else []
            if sum(job.showing) > PREVIEW_BYTES:
                shown = []  # samples arrive faster than their previews are made
            job.showing.extend(sample.nbytes for sample in shown)
            self._finishing.submit(job, self._tell(job, Progress(step, steps, eta_s), shown))

    def _left(self, one: Running, outcome: list[Finished] | Exception) -> None:
        self._seating.leave(one.seats)
        one.job.mark("denoised")
        self._lookout.watch(one.job)  # earlier progress reports may still take a while
        if isinstance(outcome, Exception):
            self._finishing.submit(one.job, once(partial(self._fail, one.job, outcome)))
        else:
            self._finishing.submit(one.job, self._finish(one.job, outcome))

    # finish: samples → previews and images

    def _tell(self, job: Job, progress: Progress, shown: Sequence[Finished]) -> Work[None]:
        """Make a step's previews, one a turn, and report the step to the caller."""
        try:
            previews = []
            for done, sample in enumerate(shown):
                yield (len(shown) - done) * sample.size
                previews.append(self.family.preview(sample))
                job.showing.popleft()
        except Exception as error:  # the picture itself may still succeed
            log.error("a preview could not be made", exc_info=error)
        else:
            job.report(replace(progress, previews=tuple(previews)))

    def _finish(self, job: Job, samples: Sequence[Finished]) -> Work[None]:
        """Decode, score and encode, one candidate a turn."""
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
        self.stats.observe("request_queue_seconds", job.queue_s)
        self.stats.observe("time_to_first_step_seconds", job.since("stepped"))
        self.stats.observe("e2e_seconds", job.since("finished"))
        return {
            "warnings": list(job.warnings),
            "timings": timings_of(job),
            **stages_of(job),
            "engine": self._runtime.engine,
            "precision": self._runtime.precision,
            "version": VERSION,
            "model": self.name,
            "bundle": self.manifest.digest,
            **styles_of(job),
            **settings_of(job, self.offer),
            **job.told,
        }

    # the end of a job, whatever its outcome

    def _fail(self, job: Job, error: Exception) -> None:
        if not job.over:
            self._settle(job, as_impasto_error(error))

    def _overdue(self, job: Job, error: Exception) -> None:
        """As `_fail`, for the lookout: another thread tells the caller, since the lookout must not wait."""
        outcome = as_impasto_error(error)
        if self._end(job, outcome):
            self._answering.submit(job.answer, outcome)

    def _settle(self, job: Job, outcome: Result | ImpastoError) -> None:
        if self._end(job, outcome):
            job.answer(outcome)

    def _end(self, job: Job, outcome: Result | ImpastoError) -> bool:
        """Free what the job holds, except its seats. True for the first to call, who then has to tell the caller."""
        if not job.settle():
            return False
        self._lookout.release(job)
        self._seating.forget(job.again)
        self.wearers.leave(job)
        self._leave_room(job)
        for turns in (self._reading, self._reading_large, self._preparing, self._finishing):
            turns.drop(job)
        self.stats.add(_became(outcome))
        self.shared.admission.leave(self.stats)
        return True


def _after(futures: Iterable[Future[Any]], then: Callable[[], None]) -> None:
    """Call `then` once all futures are done, which may be at once."""
    todo = [then]  # emptied when called: futures keep their callbacks, which would keep the job alive

    def look(_: object = None) -> None:
        waiting = next((future for future in futures if not future.done()), None)
        if waiting is None:
            todo.pop()()
        else:
            waiting.add_done_callback(look)

    look()


def _largest(request: Request) -> int:
    """Pixels of its largest file, by the files' headers."""
    return max(pixels_in(file) for file in request.files if file is not None)


def _became(outcome: Result | ImpastoError) -> str:
    """The counter that an outcome belongs to."""
    if isinstance(outcome, Result):
        return "done"
    if isinstance(outcome, Cancelled):
        return "cancelled"
    if isinstance(outcome, DeadlineExceeded):
        return "expired"
    return "refused" if isinstance(outcome, InvalidArgument | NotFound) else "failed"
