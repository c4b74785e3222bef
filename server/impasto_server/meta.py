"""META: what was done to make a request's pictures, JSON-ready."""

from __future__ import annotations

from impasto_server.bundle import Manifest
from impasto_server.job import Job
from impasto_server.request import Request
from impasto_server.worn import adapter_fields


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


def styles_of(job: Job) -> dict[str, object]:
    """Adapters and embeddings; `pinned` says that some ran on weights which they are merged into."""
    fields = adapter_fields(job.request)
    adapters = [one for one in job.named if one.field in fields]
    embeddings = [one for one in job.named if one.field not in fields]
    return {
        "adapters": [{"name": s.name, "digest": s.digest, "weight": s.weight} for s in adapters],
        "pinned": job.pinned,
        "embeddings": [{"name": s.name, "digest": s.digest} for s in embeddings],
    }


def settings_of(job: Job, manifest: Manifest) -> dict[str, object]:
    """What was used of the request's settings."""
    request = job.request
    return {
        "steps": job.steps,
        **_strengths(request),
        "scheduler": request.scheduler,
        **({} if manifest.plain.temperature is None else {"temperature": request.temperature}),
        "width": request.width,
        "height": request.height,
    }


def _strengths(request: Request) -> dict[str, object]:
    """What was used of the settings that not every request has."""
    found: dict[str, object] = {"guidance": request.guidance}
    if request.styled_by_adapter:
        found |= {"style_strength": request.style_strength, "text_strength": request.text_strength}
    else:
        found["guidance_scale"] = request.guidance_scale
    if request.guidance.startswith("dreamstyler"):
        found |= {"style_guidance": request.style_guidance, "content_guidance": request.content_guidance}
    if request.content is not None:
        found |= {"content": request.content, "gamma": request.gamma}
    if request.guidance_ramp:
        found["guidance_ramp"] = True
    if request.style:
        found["style"] = list(request.style)
    if request.image is not None:
        found["strength"] = request.strength
    if request.image is not None or request.depth is not None:
        found["control_scale"] = request.control_scale
    if request.rerank is not None:
        found["rerank"] = request.rerank
    return found
