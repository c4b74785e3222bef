"""A mark: how one picture was painted, as JSON and as the text that other programs read.

It has no dates and no durations, so that the same request gives the same mark.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from impasto_client import a1111
from impasto_client.asked import Words, shortest, words_of
from impasto_client.errors import MarkError
from impasto_client.fields import TABLE
from impasto_client.generation import Generation
from impasto_client.painting import Painting, encode_photo
from impasto_client.tensor import shown
from impasto_client.wire import Tensors, encode

LAYOUT = 1  # of the JSON
DEPTH = 8  # of the JSON
_MOST = 2**63 - 1  # of any number: seeds are the largest
_HEAVIEST = TABLE.by_name["ADAPTER_WEIGHTS"].high or 0
# What META says that isn't a setting: it stands elsewhere in the mark, or differs from time to time.
_APART = {"warnings", "timings", "engine", "precision", "version", "model", "bundle", "adapters", "embeddings"}
# Characters that JSON may hold, but XML may not, or that are unseen.
_UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Style:
    """An adapter that was used, by its name and digest; `kind` is adapter, embedding, or vector for a photo's."""

    name: str
    digest: str
    weight: float = 1.0
    kind: str = "adapter"


@dataclass(frozen=True)
class Mark:
    """How one picture was painted.

    `request` is what was asked, in the words of `Options` and `PhotoOptions`; a picture that was sent is there by its
    sha256. `seed` is this picture's: of several candidates each has its own. `settings` are those that the server used,
    its defaults included. `bundle` and `digest` name the bundle. `check` names what changed the picture after it was
    painted, "" for nothing.
    """

    request: Mapping[str, Any]
    seed: int
    bundle: str
    digest: str
    adapters: tuple[Style, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    engine: str = ""
    precision: str = ""
    version: str = ""
    check: str = ""

    @classmethod
    def of(
        cls,
        prompt: str,
        options: Mapping[str, Any],
        answer: Generation | Painting,
        seed: int | None = None,
        check: str = "",
    ) -> Mark:
        """The mark of an answer's picture. `options` are what the client's method was called with: those of `generate`,
        of `upscale` with its `picture`, or of `stylize` with its `photo` and `style` (the prompt is then not used).
        `seed` is the candidate's; by default the first's. Raises as the client's methods do for bad options.
        """
        if isinstance(answer, Painting):
            said: dict[str, Any] = {"style": None, **options}
            return cls.told(encode_photo(**said), answer.meta, 0, check)
        renamed = {"base_image" if word == "picture" else word: value for word, value in options.items()}
        seeds = [one.seed for one in answer.candidates]
        tensors = encode(prompt, **{**renamed, "seed": _first(seeds)})
        return cls.told(tensors, answer.meta, answer.seed if seed is None else seed, check)

    @classmethod
    def told(cls, tensors: Tensors, meta: Mapping[str, Any], seed: int, check: str = "") -> Mark:
        """From a request's tensors and the server's report."""
        return cls.reported(words_of(tensors), meta, seed, check)

    @classmethod
    def reported(cls, request: Words, meta: Mapping[str, Any], seed: int, check: str = "") -> Mark:
        """From a request and the server's report."""
        texts = {name: str(meta.get(name, "")) for name in ("engine", "precision", "version")}
        settings = {name: value for name, value in meta.items() if name not in _APART}
        styles = _styles(meta, "adapter" if "prompt" in request else "vector")
        return cls(
            request, seed, str(meta.get("model", "")), str(meta["bundle"]), styles, settings, **texts, check=check
        )

    @property
    def prompt(self) -> str:
        """What was to be painted; "" for a photo."""
        return str(self.request.get("prompt", ""))

    @property
    def repainted(self) -> bool:
        """Whether it was made out of a picture that was sent."""
        return "image" in self.request or "base_image" in self.request

    @property
    def json(self) -> str:
        """impasto's own mark, the same for the same picture."""
        styles = [asdict(one) for one in self.adapters]
        said = {"impasto": LAYOUT, **{name: getattr(self, name) for name in _NAMES}, "adapters": styles}
        return harmless(json.dumps(said, ensure_ascii=False, allow_nan=False, separators=(",", ":")))

    @property
    def parameters(self) -> str:
        """A1111's text."""
        loras = [one for one in self.adapters if one.kind == "adapter"]
        used = self.settings
        size = f"{used['width']}x{used['height']}" if "width" in used and "height" in used else None
        settings = {
            "Steps": self._steps,
            "Sampler": a1111.sampler_name(used.get("scheduler")),
            "CFG scale": _plain(used.get("guidance_scale")),
            "Seed": self.seed if self.prompt else None,
            "Size": size,
            "Model hash": self.digest[:10],
            "Model": self.bundle or None,
            "Denoising strength": _plain(used.get("strength")),
            "Styles": ", ".join(f"{one.name}: {one.weight:g}" for one in self.adapters if one.kind == "vector") or None,
            "Lora hashes": ", ".join(f"{one.name}: {one.digest[:12]}" for one in loras) or None,
            "Version": self.tool,
        }
        negative = str(self.request.get("negative_prompt", ""))
        return a1111.written(self.prompt, negative, [(one.name, one.weight) for one in loras], settings)

    @property
    def _steps(self) -> object:
        """Those to ask for: from a picture with a strength, fewer are run."""
        used = self.settings
        return self.request.get("steps", used.get("asked_steps", used.get("steps")))

    @property
    def tool(self) -> str:
        """The program and its version."""
        return f"impasto {self.version}".strip()


def harmless(text: str) -> str:
    """JSON without characters that XML may not hold, or that a terminal obeys: they are escaped."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_NAMES = ("request", "seed", "bundle", "digest", "settings", "engine", "precision", "version", "check")


def parsed(text: str) -> Mark:
    """The mark in impasto's JSON. Raises MarkError for anything else."""
    try:
        said = json.loads(text, parse_constant=_no_number, parse_float=_number)
        json.dumps(
            said, ensure_ascii=False
        ).encode()  # half of a surrogate pair can be written in JSON, and nowhere else
    except (ValueError, RecursionError) as error:
        problem = "is nested too deeply" if isinstance(error, RecursionError) else "is not JSON"
        raise MarkError(f"impasto's mark {problem}; the file is damaged or forged") from None
    _check(said, 0)
    if not isinstance(said, dict) or said.get("impasto") != LAYOUT:
        layout = said.get("impasto") if isinstance(said, dict) else None
        raise MarkError(f"impasto's mark has the layout {shown(layout)}; this version reads {LAYOUT}")
    values = {name: _is(_KINDS[name], said.get(name), name) for name in _NAMES}
    if not _DIGEST.fullmatch(values["digest"]):
        raise MarkError("impasto's mark has a digest that is no sha256; the file is damaged or forged")
    if not 0 <= values["seed"] <= _MOST:
        raise MarkError(f"impasto's mark has a bad seed, {shown(values['seed'])}; the file is damaged or forged")
    styles = tuple(_style(one) for one in _is(list, said.get("adapters"), "adapters"))
    return Mark(**values, adapters=styles)


_KINDS: Mapping[str, type[Any]] = dict.fromkeys(_NAMES, str) | {"request": dict, "settings": dict, "seed": int}


def _style(said: Any) -> Style:
    kinds: Mapping[str, Any] = {"name": str, "digest": str, "weight": (int, float), "kind": str}
    taken = _is(dict, said, "adapters")
    style = Style(**{name: _is(kind, taken.get(name), f"adapters.{name}") for name, kind in kinds.items()})
    if not _DIGEST.fullmatch(style.digest):
        raise MarkError("impasto's mark has an adapter's digest that is no sha256; the file is damaged or forged")
    if abs(style.weight) > _HEAVIEST:
        raise MarkError(
            f"impasto's mark has a bad adapters.weight, {shown(style.weight)}; the file is damaged or forged"
        )
    return style


def _is(kind: Any, value: Any, name: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise MarkError(f"impasto's mark has a bad {name}, {shown(value)}; the file is damaged or forged")
    return value


def _check(value: Any, depth: int) -> None:
    if depth > DEPTH:
        raise MarkError("impasto's mark is nested too deeply; the file is damaged or forged")
    if isinstance(value, int | float) and abs(value) > _MOST:
        raise MarkError(f"impasto's mark has a number beyond all bounds, {shown(value)}; the file is damaged or forged")
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check(one, depth + 1)


def _no_number(name: str) -> None:
    raise ValueError(name)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _styles(meta: Mapping[str, Any], kind: str) -> tuple[Style, ...]:
    adapters = [Style(one["name"], one["digest"], shortest(one["weight"]), kind) for one in meta.get("adapters", ())]
    embeddings = [Style(one["name"], one["digest"], kind="embedding") for one in meta.get("embeddings", ())]
    return (*adapters, *embeddings)


def _first(seeds: list[int]) -> int:
    """The seed of a request, from its candidates': each has the next higher one, and after the highest comes 0."""
    return next(seed for seed in seeds if (seed - 1) % 2**63 not in seeds)


def _plain(value: object) -> object:
    return f"{value:g}" if isinstance(value, int | float) else None
