"""From a request to a recipe, with the pictures and words that it is fitted to."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from impasto_export import atomic
from impasto_fit import pictures as looked_at
from impasto_fit.captions import Captioner
from impasto_fit.diffusion.inversion import Inversion
from impasto_fit.errors import JobError
from impasto_fit.jobs.job import Job
from impasto_fit.jobs.kinds import (
    CAPTIONER,
    CHECKPOINT,
    CLIP,
    ENCODER,
    EYES,
    KINDS,
    PAINTINGS,
    PHOTOS,
    SENSE,
    START,
)
from impasto_fit.jobs.request import Request
from impasto_fit.lora import Lora
from impasto_fit.masked.drop import Drop
from impasto_fit.pictures import Picture
from impasto_fit.pixels.gatys import Gatys
from impasto_fit.pixels.vector import Vector
from impasto_fit.recipe import Recipe, Words
from impasto_fit.text import clip as clips
from impasto_fit.text import content, fast
from impasto_fit.text.clip import Clip
from impasto_fit.text.clipstyler import ClipStyler
from impasto_fit.text.content import Sense, Towers
from impasto_fit.text.fast import ClipStylerFast
from impasto_fit.text.ghiasi import Ghiasi
from impasto_fit.text.prior import Prior, embedded
from impasto_fit.text.styletransferclip import StyleTransferClip
from impasto_fit.text.texture import TextureClip


@dataclass(frozen=True)
class Given:
    """A request with its pictures read, by what they are for."""

    request: Request
    pictures: Mapping[str, list[Picture]]

    @classmethod
    def of(cls, job: Job, request: Request) -> Given:
        """
        Raises:
            JobError: a file of the job is gone, or another than was put there.
        """
        read = {role: [_picture(job, request, name) for name in names] for role, names in request.inputs.items()}
        return cls(request, read)

    @property
    def shown(self) -> list[Picture]:
        """What the recipe is fitted to."""
        return self.pictures.get(KINDS[self.request.recipe].shown, [])

    def place(self, role: str) -> Path:
        return Path(self.request.uses[role])

    @property
    def constants(self) -> dict[str, Any]:
        return {**self.request.constants, "seed": self.request.seed}


def recipe(given: Given) -> Recipe:
    """
    Raises:
        FitError: what it uses can't be opened, or a constant is none of the recipe's.
    """
    try:
        return MADE[given.request.recipe](given)
    except ValueError as error:  # of the recipe's own checks
        raise JobError(f"constants: {error}; leave it out, or give another") from None


def words(job: Job, given: Given) -> Words:
    """The request's; contexts are a captioner's where it names one, kept in `contexts.txt` of the job.

    Raises:
        CheckpointError: the captioner can't be opened.
    """
    request, path = given.request, job.folder / "contexts.txt"
    if request.contexts or CAPTIONER not in request.uses:
        return Words(request.contexts, request.style)
    if not path.is_file():
        captions = Captioner.open(request.uses[CAPTIONER]).captions(given.shown)
        atomic.write(path, "".join(f"{' '.join(one.split())}\n" for one in captions).encode())
    return Words(tuple(path.read_text(encoding="utf-8").splitlines()), request.style)


def _picture(job: Job, request: Request, name: str) -> Picture:
    path = job.folder / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JobError(f"{job.id}: {name} can't be read ({error.strerror}); ask for the job anew") from None
    if hashlib.sha256(data).hexdigest() != request.digests.get(name):
        raise JobError(f"{job.id}: {name} isn't what was put there; ask for the job anew")
    return looked_at.read(data)


def png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG")
    return buffer.getvalue()


def _lora(given: Given) -> Recipe:
    constants = given.constants
    if "prior_prompt" in constants:
        return Lora.of_content(given.place(CHECKPOINT), **constants)
    return Lora(given.place(CHECKPOINT), **constants)


def _inversion(given: Given) -> Recipe:
    return Inversion(given.place(CHECKPOINT), **given.constants)


def drop(given: Given, number: int = 1) -> Drop:
    """A round's. Table S3's constants, but for those of the request, which the first stage's adapter gets."""
    constants = given.constants
    said = {name: constants.pop(name) for name in ("rank", "rate", "batch") if name in constants}
    first = Drop(given.place(CHECKPOINT), **constants)
    if number > 1:
        second = first.second()
        return replace(second, base=replace(second.base, **said))
    return replace(first, base=replace(first.base, **said))


def _vector(given: Given) -> Recipe:
    return Vector(given.place(CHECKPOINT), given.place(EYES), tuple(given.pictures[PHOTOS]), **given.constants)


def _gatys(given: Given) -> Recipe:
    constants = given.constants
    if constants.pop("of_paper", False):
        return Gatys.of_paper(given.place(EYES), given.pictures[PHOTOS][0], **constants)
    return Gatys(given.place(EYES), given.pictures[PHOTOS][0], **constants)


def _clipstyler(given: Given) -> Recipe:
    clip = clips.opened(given.request.uses[CLIP])
    return ClipStyler(clip, _sense(given, clip), **given.constants)


def _fast(given: Given) -> Recipe:
    clip = clips.opened(given.request.uses[CLIP])
    net = fast.opened(given.place(CHECKPOINT), given.place(ENCODER))
    return ClipStylerFast(net, clip, _sense(given, clip), **given.constants)


def _styletransferclip(given: Given) -> Recipe:
    net = Ghiasi.opened(given.place(CHECKPOINT))
    prior = Prior.of(embedded(net.predictor, given.pictures[PAINTINGS]))
    start = given.pictures.get(START, [None])[0]
    return StyleTransferClip(net, clips.opened(given.request.uses[CLIP]), prior, start, **given.constants)


def _sense(given: Given, clip: Clip) -> Sense:
    """A perceptual network's file, or the word "clip": the first maps of the CLIP's own tower."""
    named = given.request.uses[SENSE]
    if named != CLIP:
        return content.opened(Path(named))
    if not isinstance(clip, TextureClip):
        raise JobError(f"sense: {given.request.uses[CLIP]} is no texture-clip; give VGG19's file")
    return Towers(clip)


MADE: Mapping[str, Callable[[Given], Recipe]] = {
    "lora": _lora,
    "inversion": _inversion,
    "drop": drop,
    "vector": _vector,
    "gatys": _gatys,
    "clipstyler": _clipstyler,
    "clipstyler-fast": _fast,
    "styletransferclip": _styletransferclip,
}
