"""META: how a request's pictures were made, JSON-ready."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.metadata import version
from itertools import pairwise

from impasto_server.job import Job
from impasto_server.offer import Offer
from impasto_server.request import Request
from impasto_server.worn import adapter_fields

VERSION = version("impasto")


def timings_of(job: Job) -> dict[str, float]:
    """Milliseconds of each stage."""
    times = job.times
    stages = {
        "queue_ms": job.queue_s,
        "encode_ms": times["prepared"] - times["preparing"],
        "denoise_ms": times["denoised"] - times["joined"],
        "decode_ms": times["finished"] - times["denoised"],
        "total_ms": times["finished"] - times["submitted"],
    }
    return {name: round(1000 * seconds, 3) for name, seconds in stages.items()}


def stages_of(job: Job) -> dict[str, object]:
    """Of a request with several stages: which share of denoising was each one's, in milliseconds."""
    ends = [job.times["joined"], *job.stages.values()]
    each = [round(1000 * (end - begin), 3) for begin, end in pairwise(ends)]
    return {"stages_ms": dict(zip(job.stages, each, strict=True))} if len(each) > 1 else {}


def styles_of(job: Job) -> dict[str, object]:
    """Adapters and embeddings. `pinned`: some lanes ran on weights that their mix is merged into."""
    fields = adapter_fields(job.request)
    adapters = [one for one in job.named if one.field in fields]
    embeddings = [one for one in job.named if one.field not in fields]
    return {
        "adapters": [{"name": s.name, "digest": s.digest, "weight": s.weight} for s in adapters],
        "pinned": job.pinned,
        "embeddings": [{"name": s.name, "digest": s.digest} for s in embeddings],
    }


def settings_of(job: Job, offer: Offer) -> dict[str, object]:
    """The request's settings that the bundle knows and used, and the pictures' size."""
    known = offer.known(job.request.rule.name or None).fields
    idle = offer.family.idle(job.request.values)
    used = {name: value for name, value in _settings(job, idle).items() if name.upper() in known}
    asked = job.request.sampling.steps
    if "steps" in used and job.request.steps_to_run != asked:  # STRENGTH cut the first off: say what to ask for again
        used["asked_steps"] = asked
    return {**used, "width": job.size[0], "height": job.size[1]}


def _settings(job: Job, idle: Collection[str]) -> dict[str, object]:
    """Settings by their fields' names in lower case, without `idle` ones, which had no effect."""
    request = job.request
    return {
        "steps": job.steps,
        "guidance": request.rule.name,
        **_lower(request.strengths, idle),
        **_some(request),
        "scheduler": request.sampling.scheduler,
        **_lower(request.own, idle),
    }


def _lower(values: Mapping[str, object], idle: Collection[str]) -> dict[str, object]:
    return {name.lower(): value for name, value in values.items() if name not in idle}


def _some(request: Request) -> dict[str, object]:
    """The settings that not every request has."""
    styles, content = request.styles, request.content
    found: dict[str, object] = {}
    if styles.content is not None:
        found["content"] = styles.content
    if request.sampling.ramp:
        found["guidance_ramp"] = True
    if styles.style:
        found["style"] = list(styles.style)
    if content.image is not None:
        found["strength"] = content.strength
    if content.image is not None or content.depth is not None:
        found["control_scale"] = content.control_scale
    if request.ranking.rerank is not None:
        found["rerank"] = request.ranking.rerank
    return found
