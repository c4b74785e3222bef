"""A request as it comes off the wire, checked: tensors in, one frozen Request with nothing optional out."""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from impasto_server.adapters.adapter import MAX_STAGES
from impasto_server.bundle import Defaults, ImageSize, Manifest
from impasto_server.errors import InvalidArgument, shown
from impasto_server.guidance import ClassifierFree, Compose, DreamStyler, Rule, StyleDrop, dreamstyler_code
from impasto_server.pictures.content import check_bytes
from impasto_server.pictures.image import FORMATS
from impasto_server.steps import run_steps
from impasto_server.words.prompt import triggers

MAX_PROMPT_BYTES = 8192
MAX_VALUES = 1024  # of any input; those that take fewer say so themselves
MAX_ADAPTERS = 8
MAX_EMBEDDINGS = 16
MAX_WEIGHT = 4.0
MAX_STEPS = 200
MAX_GUIDANCE_SCALE = 50.0
MAX_SEED = 2**63 - 1
MAX_CONTROL_SCALE = 2.0
MAX_TEMPERATURE = 100.0
MAX_CANDIDATES = 16
GUIDANCE = ("cfg", "dreamstyler", "dreamstyler-code", "styledrop", "styledrop-compose")
RERANKS = ("text", "style")
STYLEDROPS = ("styledrop", "styledrop-compose")
# Which guidance each of these inputs means something to.
_MEANT_FOR: Mapping[str, tuple[str, ...]] = {
    "GUIDANCE_SCALE": ("cfg", "dreamstyler", "dreamstyler-code"),
    "STYLE_GUIDANCE": ("dreamstyler", "dreamstyler-code"),
    "CONTENT_GUIDANCE": ("dreamstyler", "dreamstyler-code"),
    "STYLE_STRENGTH": STYLEDROPS,
    "TEXT_STRENGTH": STYLEDROPS,
    "GAMMA": ("styledrop-compose",),
    "CONTENT": ("styledrop-compose",),
    "CONTENT_PROMPT": ("styledrop-compose",),
    "ADAPTER_NAMES": ("cfg", "dreamstyler", "dreamstyler-code", "styledrop"),
}
_WORDS = ("PROMPT", "NEGATIVE_PROMPT", "CONTENT_PROMPT")
# What the code published with arXiv 2309.06933 puts in the place of the null.
CODE_NEGATIVE_PROMPT = (
    "low resolution, poorly drawn, worst quality, low quality, normal quality, blurry image, artifact"
)


@dataclass(frozen=True)
class Field:
    """An input tensor of a model: Triton's dtype name; one value, or `many`."""

    dtype: str
    required: bool = False
    many: bool = False


FIELDS: Mapping[str, Field] = {
    "PROMPT": Field("BYTES"),
    "NEGATIVE_PROMPT": Field("BYTES"),
    "ADAPTER_NAMES": Field("BYTES", many=True),
    "ADAPTER_WEIGHTS": Field("FP32", many=True),
    "STYLE": Field("BYTES", many=True),
    "STEPS": Field("INT32"),
    "GUIDANCE": Field("BYTES"),
    "GUIDANCE_SCALE": Field("FP32"),
    "GUIDANCE_RAMP": Field("BOOL"),
    "STYLE_GUIDANCE": Field("FP32"),
    "CONTENT_GUIDANCE": Field("FP32"),
    "STYLE_STRENGTH": Field("FP32"),
    "TEXT_STRENGTH": Field("FP32"),
    "GAMMA": Field("FP32"),
    "CONTENT": Field("BYTES"),
    "CONTENT_PROMPT": Field("BYTES"),
    "SCHEDULER": Field("BYTES"),
    "TEMPERATURE": Field("FP32"),
    "N": Field("INT32"),
    "RERANK": Field("BYTES"),
    "STYLE_IMAGE": Field("BYTES"),
    "SEED": Field("INT64"),
    "WIDTH": Field("INT32"),
    "HEIGHT": Field("INT32"),
    "FORMAT": Field("BYTES"),
    "IMAGE": Field("BYTES"),
    "STRENGTH": Field("FP32"),
    "DEPTH": Field("BYTES"),
    "CONTROL_SCALE": Field("FP32"),
}
STREAM_FIELDS: Mapping[str, Field] = {**FIELDS, "PREVIEW_EVERY": Field("INT32")}


@dataclass(frozen=True)
class Request:
    """What to paint, and for whom.

    `adapters` are (name, weight) pairs of LoRAs and bottleneck adapters. `style` names an embedding, or one for each of
    so many stages, the finest first. The strengths λn, λs and λc of DreamStyler's rules are `guidance_scale`,
    `style_guidance` and `content_guidance`. StyleDrop's λA and λB are `style_strength` and `text_strength`; under its
    rules `style` names an adapter, and to compose, `content` the other one, `gamma` its share and `content_prompt` what
    it is told, None being the prompt without the style's words. With `guidance_ramp` all strengths rise from 0 at the
    first step to their whole at the last. `temperature` is τ of the masked family's samplers. The values that fields
    have here are a plain diffusion backbone's; `parse` knows those of a bundle.

    Of `n` candidates, the i-th is what the same request alone paints from `seed` + i. `rerank` orders them by their
    clip score, with the prompt ("text") or with `style_image` ("style").

    `image`, `depth` and `style_image` are encoded files: of the content, from which the last `strength` of the steps
    are run, or of a scheduler that `spreads` all of them over the lower `strength` of the noise, of its depth, and of
    what is compared with. Width and height are pixels. `timeout_s` counts from
    submission, None waits for ever. Every `preview_every`-th step has a preview; 0: none.
    """

    prompt: str
    seed: int
    width: int
    height: int
    negative_prompt: str = ""
    adapters: tuple[tuple[str, float], ...] = ()
    steps: int = 25
    guidance_scale: float = 3.0
    scheduler: str = "dpmpp_2m"
    format: str = "png"
    timeout_s: float | None = None
    preview_every: int = 0
    style: tuple[str, ...] = ()
    guidance: str = "cfg"
    style_guidance: float = 0.5
    content_guidance: float = 3.0
    image: bytes | None = None
    strength: float = 0.8
    depth: bytes | None = None
    control_scale: float = 0.8
    guidance_ramp: bool = False
    style_strength: float = 2.0
    text_strength: float = 5.0
    gamma: float = 0.5
    content: str | None = None
    content_prompt: str | None = None
    temperature: float = 2.0
    n: int = 1
    rerank: str | None = None
    style_image: bytes | None = None
    spreads: bool = False

    @property
    def seeds(self) -> tuple[int, ...]:
        """Each candidate's own."""
        return tuple((self.seed + i) % (MAX_SEED + 1) for i in range(self.n))

    @property
    def files(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Content, depth and style."""
        return self.image, self.depth, self.style_image

    @property
    def pictured(self) -> bool:
        """Whether there are files to decode."""
        return any(file is not None for file in self.files)

    @property
    def size(self) -> int:
        """Pixels of each candidate."""
        return self.width * self.height

    def without_files(self) -> Request:
        """The same request when its files have been decoded: it still says which there were."""
        image, depth, style_image = (None if file is None else b"" for file in self.files)
        return replace(self, image=image, depth=depth, style_image=style_image)

    @property
    def styled_by_adapter(self) -> bool:
        """Whether `style` names an adapter, not an embedding."""
        return self.guidance in STYLEDROPS

    @property
    def steps_to_run(self) -> int:
        return run_steps(self.steps, self.strength, self.image is not None and not self.spreads)

    @property
    def rule(self) -> Rule:
        match self.guidance:
            case "dreamstyler":
                return DreamStyler(self.guidance_scale, self.style_guidance, self.content_guidance)
            case "dreamstyler-code":
                return dreamstyler_code(self.guidance_scale, self.style_guidance, self.content_guidance)
            case "styledrop":
                return StyleDrop(self.style_strength, self.text_strength)
            case "styledrop-compose":
                return Compose(self.style_strength, self.text_strength, self.gamma)
            case _:
                # 1 or less is no guidance, as in diffusers: Turbo checkpoints are asked for a scale of 0 and mean that,
                # where Eq. 6 would paint from the negative prompt alone.
                return ClassifierFree(max(1.0, self.guidance_scale))


def _defaults(manifest: Manifest, guidance: str) -> Defaults:
    """The rule's, where the backbone's family has some of its own for it, else the bundle's, else the family's."""
    if guidance in STYLEDROPS and manifest.styledrop is not None:
        return manifest.styledrop
    usual = manifest.defaults.model_dump(exclude_none=True)
    return replace(manifest.plain, **{**usual, **({} if guidance == "cfg" else {"guidance_scale": 5.0})})


def parse(
    tensors: Mapping[str, NDArray[Any]],
    manifest: Manifest,
    fields: Mapping[str, Field] = FIELDS,
    timeout_s: float | None = None,
) -> Request:
    """Check every tensor and fill in the defaults; `fields` are the model's inputs.

    Raises InvalidArgument naming the first field at fault.
    """
    for name in tensors:
        if name not in fields:
            raise InvalidArgument(name, "is no input of this model", f"known inputs: {', '.join(fields)}")
    read = _Reader(tensors, fields)
    width = read.integer("WIDTH", manifest.image.width, 1, 1 << 16)
    height = read.integer("HEIGHT", manifest.image.height, 1, 1 << 16)
    _check_size(width, height, manifest.image)
    guidance = read.choice("GUIDANCE", "cfg", GUIDANCE)
    defaults = _defaults(manifest, guidance)
    scheduler = read.choice("SCHEDULER", defaults.scheduler, tuple(manifest.schedulers))
    request = Request(
        prompt=_prompt(read, manifest),
        negative_prompt=read.text("NEGATIVE_PROMPT", CODE_NEGATIVE_PROMPT if guidance == "dreamstyler-code" else ""),
        adapters=_adapters(read),
        style=_style(read),
        steps=read.integer("STEPS", defaults.steps, 1, MAX_STEPS),
        guidance=guidance,
        guidance_scale=_scale(read, guidance, defaults),
        guidance_ramp=read.flag("GUIDANCE_RAMP", False),
        style_guidance=read.number("STYLE_GUIDANCE", 0.5, -MAX_GUIDANCE_SCALE, MAX_GUIDANCE_SCALE),
        content_guidance=read.number("CONTENT_GUIDANCE", 3.0, -MAX_GUIDANCE_SCALE, MAX_GUIDANCE_SCALE),
        style_strength=read.number("STYLE_STRENGTH", 2.0, -MAX_GUIDANCE_SCALE, MAX_GUIDANCE_SCALE),
        text_strength=read.number("TEXT_STRENGTH", 5.0, -MAX_GUIDANCE_SCALE, MAX_GUIDANCE_SCALE),
        gamma=read.number("GAMMA", 0.5, 0.0, 1.0),
        content=read.optional_text("CONTENT"),
        content_prompt=read.optional_text("CONTENT_PROMPT"),
        scheduler=scheduler,
        spreads=scheduler in manifest.spread,
        temperature=_temperature(read, manifest, defaults),
        n=read.integer("N", 1, 1, MAX_CANDIDATES),
        rerank=read.choice("RERANK", "", RERANKS) if "RERANK" in tensors else None,
        style_image=read.file("STYLE_IMAGE"),
        seed=read.integer("SEED", secrets.randbelow(2**32), 0, MAX_SEED),
        width=width,
        height=height,
        format=read.choice("FORMAT", "png", FORMATS),
        timeout_s=timeout_s,
        preview_every=read.integer("PREVIEW_EVERY", 0, 0, MAX_STEPS),
        image=read.file("IMAGE"),
        strength=read.number("STRENGTH", 0.8, 0.0, 1.0),
        depth=read.file("DEPTH"),
        control_scale=_control_scale(read, manifest),
    )
    _check_together(request, tensors)
    return request


def _prompt(read: _Reader, manifest: Manifest) -> str:
    """What to paint: without it nothing can be painted by a family that has words, and the others know none."""
    if manifest.text_encoders:
        return read.prompt("PROMPT")
    said = next((name for name in _WORDS if name in read.tensors), None)
    if said is not None:
        raise InvalidArgument(said, f"means nothing to a {manifest.family} backbone", "leave it out")
    return ""


def _scale(read: _Reader, guidance: str, defaults: Defaults) -> float:
    least = 0.0 if guidance == "cfg" else -MAX_GUIDANCE_SCALE
    return read.number("GUIDANCE_SCALE", defaults.guidance_scale, least, MAX_GUIDANCE_SCALE)


def _temperature(read: _Reader, manifest: Manifest, defaults: Defaults) -> float:
    if defaults.temperature is None and "TEMPERATURE" in read.tensors:
        raise InvalidArgument("TEMPERATURE", f"means nothing to a {manifest.family} backbone", "leave it out")
    return read.number("TEMPERATURE", defaults.temperature or 0.0, 0.0, MAX_TEMPERATURE)


def _control_scale(read: _Reader, manifest: Manifest) -> float:
    scale = read.number("CONTROL_SCALE", 0.8 if manifest.steered else 0.0, 0.0, MAX_CONTROL_SCALE)
    if not manifest.steered and (scale or "DEPTH" in read.tensors):
        field = "CONTROL_SCALE" if scale else "DEPTH"
        raise InvalidArgument(field, f"bundle {manifest.name!r} has no ControlNet", "link it with --controlnet")
    return scale


def _style(read: _Reader) -> tuple[str, ...]:
    names = read.texts("STYLE")
    if len(names) > MAX_STAGES:
        raise InvalidArgument("STYLE", f"{len(names)} stages", f"pass one name, or at most {MAX_STAGES}")
    return tuple(names)


def _check_together(request: Request, sent: Collection[str]) -> None:
    """What one field asks of another. Raises InvalidArgument."""
    for name, rules in _MEANT_FOR.items():
        if name in sent and request.guidance not in rules:
            problem = f"means nothing to GUIDANCE {request.guidance}"
            raise InvalidArgument(name, problem, f"leave it out, or pass GUIDANCE {' or '.join(rules)}")
    _check_named(request)
    _check_embeddings(request)
    if request.rerank == "style" and request.style_image is None:
        raise InvalidArgument("STYLE_IMAGE", "is missing, and RERANK style compares with it", "pass a picture file")
    if request.rerank != "style" and request.style_image is not None:
        raise InvalidArgument("STYLE_IMAGE", "means nothing without RERANK style", "leave it out, or pass RERANK style")
    if request.image is None and "STRENGTH" in sent:
        raise InvalidArgument("STRENGTH", "means nothing without IMAGE", "leave it out, or pass the content image")
    if request.image is None and request.depth is None and "CONTROL_SCALE" in sent and request.control_scale:
        raise InvalidArgument("CONTROL_SCALE", "means nothing without IMAGE or DEPTH", "leave it out, or pass one")
    if request.depth is not None and not request.control_scale:
        raise InvalidArgument("DEPTH", "means nothing at CONTROL_SCALE 0", "leave one of the two out")
    if request.steps_to_run == 0:
        problem = f"{request.strength:g} of {request.steps} steps is none"
        least = math.ceil(1000 / request.steps) / 1000
        raise InvalidArgument("STRENGTH", problem, f"pass at least {least:g}, or more STEPS")


def _check_named(request: Request) -> None:
    """What each rule wants named. Raises InvalidArgument."""
    rule = f"GUIDANCE {request.guidance}"
    if request.styled_by_adapter:
        if len(request.style) > 1:
            problem = f"{len(request.style)} names, and {rule} takes the adapter of one style"
            raise InvalidArgument("STYLE", problem, "name one, or mix several in ADAPTER_NAMES")
        if {*request.style} & dict(request.adapters).keys():
            problem = f"{shown(request.style[0])} stands in STYLE, too"
            raise InvalidArgument("ADAPTER_NAMES", problem, "name it here alone, with its whole weight")
        if request.guidance == "styledrop" and not request.style and not request.adapters:
            raise InvalidArgument(
                "STYLE", f"is missing, and {rule} needs it", "name an adapter, here or in ADAPTER_NAMES"
            )
        if request.guidance == "styledrop-compose" and not request.style:
            raise InvalidArgument("STYLE", f"is missing, and {rule} needs it", "name the style's adapter")
        if request.guidance == "styledrop-compose" and request.content is None:
            raise InvalidArgument("CONTENT", f"is missing, and {rule} needs it", "name the content's adapter")
    elif request.guidance != "cfg" and not request.style:
        raise InvalidArgument("STYLE", f"is missing, and {rule} needs it", "name an embedding")


def _check_embeddings(request: Request) -> None:
    """That few are named: all of them are held while the request runs. Raises InvalidArgument."""
    texts = request.prompt, request.negative_prompt, request.content_prompt or ""
    styles = set() if request.styled_by_adapter else {*request.style}
    count = len(styles.union(*map(triggers, texts)))
    if count > MAX_EMBEDDINGS:
        field = "STYLE" if len(styles) > MAX_EMBEDDINGS else "PROMPT"
        raise InvalidArgument(field, f"{count} different embeddings", f"name at most {MAX_EMBEDDINGS} in a request")


@dataclass(frozen=True)
class _Reader:
    """Takes typed values out of tensors."""

    tensors: Mapping[str, NDArray[Any]]
    fields: Mapping[str, Field]

    def values(self, name: str) -> list[Any]:
        if name not in self.tensors:
            return []
        tensor = self.tensors[name]
        if not self.fields[name].many and tensor.size != 1:
            raise InvalidArgument(name, f"holds {tensor.size} values", "pass exactly one, shape [1]")
        if tensor.size > MAX_VALUES:  # before they are looked at one by one
            raise InvalidArgument(name, f"holds {tensor.size} values", f"pass at most {MAX_VALUES}")
        return list(tensor.reshape(-1).tolist())

    def texts(self, name: str) -> list[str]:
        return [decoded(name, value) for value in self.values(name)]

    def text(self, name: str, default: str) -> str:
        return next(iter(self.texts(name)), default)

    def optional_text(self, name: str) -> str | None:
        return next(iter(self.texts(name)), None)

    def flag(self, name: str, default: bool) -> bool:
        return bool(next(iter(self.values(name)), default))

    def prompt(self, name: str) -> str:
        text = self.text(name, "")
        if not text.strip():
            raise InvalidArgument(name, "is missing or blank", "say what to paint, e.g. 'a red boat at night'")
        return text

    def file(self, name: str) -> bytes | None:
        """An encoded picture, as bytes of which nobody has looked at more than their number."""
        value = next(iter(self.values(name)), None)
        if value is not None:
            check_bytes(value, name)
        return value.encode() if isinstance(value, str) else value

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        text = self.text(name, default)
        if text not in allowed:
            raise InvalidArgument(name, f"{shown(text)} is unknown", f"pass one of {', '.join(allowed)}")
        return text

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = int(next(iter(self.values(name)), default))
        if not low <= value <= high:
            raise InvalidArgument(name, f"{value} is out of range", f"pass {low} to {high}")
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        return _in_range(name, float(next(iter(self.values(name)), default)), low, high)


def _adapters(read: _Reader) -> tuple[tuple[str, float], ...]:
    names = read.texts("ADAPTER_NAMES")
    weights = read.values("ADAPTER_WEIGHTS") if "ADAPTER_WEIGHTS" in read.tensors else [1.0] * len(names)
    if len(weights) != len(names):
        problem = f"{len(weights)} weights for {len(names)} names"
        raise InvalidArgument("ADAPTER_WEIGHTS", problem, "pass one weight for each of ADAPTER_NAMES, or none at all")
    if len(names) > MAX_ADAPTERS:
        raise InvalidArgument("ADAPTER_NAMES", f"{len(names)} adapters", f"pass at most {MAX_ADAPTERS}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidArgument(
            "ADAPTER_NAMES", f"{shown(twice)} stands there twice", "name it once, with its whole weight"
        )
    return tuple(
        (name, _in_range("ADAPTER_WEIGHTS", float(weight), -MAX_WEIGHT, MAX_WEIGHT))
        for name, weight in zip(names, weights, strict=True)
    )


def _in_range(name: str, value: float, low: float, high: float) -> float:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidArgument(name, f"{value} is out of range", f"pass a finite number from {low:g} to {high:g}")
    return value


def decoded(name: str, value: bytes | str) -> str:
    """A text off the wire. Raises InvalidArgument for one that is too long, or no UTF-8."""
    if isinstance(value, str):
        return value
    if len(value) > MAX_PROMPT_BYTES:
        raise InvalidArgument(name, f"{len(value)} bytes is too long", f"pass at most {MAX_PROMPT_BYTES}")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(name, f"byte {error.start} is not UTF-8", "encode text as UTF-8") from None


def _check_size(width: int, height: int, size: ImageSize) -> None:
    for name, value in (("WIDTH", width), ("HEIGHT", height)):
        if value % size.multiple_of:
            below = max(size.multiple_of, value - value % size.multiple_of)
            problem = f"{value} is not a multiple of {size.multiple_of}"
            raise InvalidArgument(name, problem, f"pass {below} or {below + size.multiple_of}")
    if width * height > size.max_pixels:
        problem = f"{width} x {height} is {width * height} pixels"
        raise InvalidArgument("WIDTH", problem, f"pass a size of at most {size.max_pixels} pixels")
