"""A wish: a request as the client understands it, made of the words and files that came over HTTP."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from impasto_client.catalogue import Adapter, Bundle, Catalogue
from impasto_client.fields import TABLE
from impasto_client.options import PhotoOptions
from impasto_gateway import placing, sizes, uploads
from impasto_gateway.choosing import choice_of
from impasto_gateway.errors import Refusal
from impasto_gateway.guiding import guided
from impasto_gateway.lora import tagged
from impasto_gateway.placing import Named
from impasto_gateway.settings import Limits
from impasto_gateway.words import KINDS, OWN, Words, words_of

FEEDFORWARD = "feedforward"  # the family of bundles for photos
MAX_N = 16  # the server's
MAX_PARTIAL = 3
MOODS = ("vivid", "natural")  # OpenAI's values of `style`
FORMATS = ("png", "jpeg", "webp")

Files = Mapping[str, Sequence[bytes]]


@dataclass(frozen=True)
class Wish:
    """What to ask a client for.

    `options` are those of AsyncClient.stream, of stylize with its photo and style, or of upscale with its picture.
    `names` are the caller's words for fields of the wire. `revised` is the prompt where it isn't the caller's own.
    `size` is the finished picture's, `pixels` those of all of them, `steps` those expected. `timeout_s` is in seconds.
    """

    kind: Literal["generate", "stylize", "upscale"]
    prompt: str
    options: Mapping[str, Any] = field(repr=False)
    names: Mapping[str, str]
    bundle: str
    format: str
    stream: bool
    partial_images: int
    progress: bool
    size: tuple[int, int]
    pixels: int
    steps: int
    warnings: tuple[str, ...]
    metadata: bool
    timeout_s: float
    revised: str | None = None

    @property
    def lanes(self) -> int:
        """How many pictures."""
        n: int = self.options.get("n") or 1
        return n


def wish_of(said: Mapping[str, Any], files: Files, catalogue: Catalogue, limits: Limits, edits: bool = False) -> Wish:
    """Read a request. `files` are pictures by the form's names; with `edits`, one of them is painted anew.

    Raises Refusal, which names the caller's field, for what the server need not be asked about.
    """
    words = words_of(said)
    choice = choice_of(words.values.get("model"), catalogue)
    draft = Draft(words, _pictures(words, files, limits), catalogue, limits, choice.bundle, choice.adapter)
    warnings = (*words.warnings, *choice.warnings)
    if choice.bundle.family == FEEDFORWARD:
        if not edits:
            problem = f"{choice.bundle.name!r} paints photos; send one to /v1/images/edits, or name another model"
            raise Refusal(400, f"model: {problem}", "invalid_value", "model")
        return draft.stylized(warnings)
    if edits and not draft.pictures.get("image"):
        raise _missing("image", "send the picture as a file, e.g. curl -F image=@photo.png")
    return draft.painted(warnings, over=edits and draft.flag("upscale"))


@dataclass(frozen=True)
class Draft:
    """A request on its way to a wish."""

    words: Words
    pictures: Mapping[str, Sequence[bytes]]
    catalogue: Catalogue
    limits: Limits
    bundle: Bundle
    alias: Adapter | None

    @property
    def values(self) -> Mapping[str, Any]:
        return self.words.values

    def painted(self, warnings: tuple[str, ...], over: bool) -> Wish:
        """Of a bundle that takes words; with `over`, its second stage paints the picture larger."""
        values, moods = self._without_moods()
        self._only_words(values, _PHOTOS_OWN, "paints no photos, and doesn't use it")
        ruled, said = guided(values), tagged(self._prompt())
        alias = [Named(self.alias.name, None, "model")] if self.alias else []
        adapters, styles = self._named("adapters", values), self._named("style", values)
        is_style = bool(alias) and ruled.rule.styled == "adapter" and not styles
        tags = [Named(name, weight, "prompt") for name, weight in said.adapters.items()]
        place = placing.placed(
            [*adapters, *tags, *([] if is_style else alias)], alias if is_style else styles, ruled.rule, self.catalogue
        )
        asked = sizes.asked_size(values)
        n = sizes.whole(values, "n", 1, MAX_N) or 1
        prompt = said.prompt if self.alias is None or place.style else placing.spoken(said.prompt, self.alias)
        self._check_prompt(prompt)
        options = {
            **{word: values[word] for word in _PLAIN if word in values and word not in ruled.taken},
            **{word: self._one(word) for word in _PICTURES if word in self.pictures},
            "model": self.bundle.name,
            "format": self._format(),
            "width": asked[0],
            "height": asked[1],
            "guidance": ruled.guidance,
            "style": place.style,
            "adapters": place.adapters,
        }
        if over:
            options["picture"] = options.pop("image")
        size = sizes.full_size(asked, self.bundle, values)
        return self._wish(
            "upscale" if over else "generate",
            options,
            prompt=prompt,
            size=size,
            pixels=size[0] * size[1] * n,
            steps=self._steps(options),
            names={**self._size_names(), **_adapter_names(adapters, tags, alias, styles)},
            warnings=(*warnings, *moods),
            revised=prompt if prompt != self.values["prompt"] else None,
        )

    def stylized(self, warnings: tuple[str, ...]) -> Wish:
        """Of a bundle for photos."""
        values, moods = self._without_moods()
        taken = {*PhotoOptions.__annotations__, *OWN, "style", "adapters", "style_image_weights"}
        self._only_words(values, {word for word in KINDS if word not in taken and word != "n"}, "paints photos without")
        if values.get("n", 1) != 1:
            raise Refusal(400, "n: a photo is painted once; send 1", "invalid_value", "n")
        photo, *pictures = self.pictures.get("image") or [None]
        if photo is None:
            raise _missing("image", "send the photo as a file, e.g. curl -F image=@photo.jpg")
        said = tagged(values["prompt"]) if isinstance(values.get("prompt"), str) else tagged("")
        tags = [Named(name, weight, "prompt") for name, weight in said.adapters.items()]
        alias = [Named(self.alias.name, None, "model")] if self.alias else []
        named = [*self._named("style", values), *self._named("adapters", values), *tags]
        styles = placing.shares(named or alias, pictures, self._weights(values, pictures))
        masks = self.pictures.get("mask", [])
        several = len(masks) > 1
        if several and len(masks) != len(styles or []):
            problem = f"{len(masks)} of them for {len(styles or [])} styles; send one, or one for each"
            raise Refusal(400, f"mask: {problem}", "invalid_value", "mask")
        size, long_side, told = self._photo_size(photo, values)
        options = {
            **{word: values[word] for word in ("strength", "detail", "preserve_color") if word in values},
            "photo": photo,
            "style": None if several else styles,
            "mask": masks[0] if len(masks) == 1 else None,
            "regions": list(zip(styles or [], masks, strict=True)) if several else None,
            "long_side": long_side,
            "format": self._format(),
            "model": self.bundle.name,
        }
        unheard = ("prompt: this model paints photos without words",) if said.prompt else ()
        return self._wish(
            "stylize",
            options,
            prompt="",
            size=size,
            pixels=size[0] * size[1],
            steps=1,
            names={"LONG_SIDE": "size"} if told else {},
            warnings=(*warnings, *moods, *unheard, *told),
            revised=None,
        )

    def flag(self, word: str, usual: bool = False) -> bool:
        """A flag. Raises Refusal for another value."""
        value = self.values.get(word, usual)
        if not isinstance(value, bool):
            problem = f"{word}: {str(value)[:32]!r} is neither true nor false; send one of them"
            raise Refusal(400, problem, "invalid_value", word)
        return value

    def _wish(self, kind: Any, options: Mapping[str, Any], *, names: Mapping[str, str], **parts: Any) -> Wish:
        stream, every = self.flag("stream"), self.values.get("preview_every")
        partial = sizes.whole(self.values, "partial_images", 0, MAX_PARTIAL) or 0
        beside = "partial_images" if partial else "progress" if self.flag("progress") else None
        if beside and not stream:
            raise Refusal(400, f"{beside}: it needs a stream; send stream true, too", "invalid_value", beside)
        if every is not None:
            raise Refusal(400, "preview_every: send partial_images, 0 to 3", "invalid_value", "preview_every")
        return Wish(
            kind=kind,
            options={word: value for word, value in options.items() if value is not None},
            names={**self.words.names, **names},
            bundle=self.bundle.name,
            format=self._format(),
            stream=stream,
            partial_images=partial,
            progress=self.flag("progress"),
            metadata=self.flag("metadata", usual=True),
            timeout_s=self._timeout_s(),
            **parts,
        )

    def _without_moods(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The values, without a `style` that is OpenAI's and no adapter's."""
        values = dict(self.values)
        style = values.get("style")
        if style in MOODS and style not in [one.name for one in self.catalogue.adapters]:
            return {word: value for word, value in values.items() if word != "style"}, (
                f"style: {style} has no effect",
            )
        return values, ()

    def _only_words(self, values: Mapping[str, Any], strange: set[str], why: str) -> None:
        word = next((word for word in values if word in strange), None)
        word = word or next((word for word in ("mask",) if word in strange and self.pictures.get(word)), None)
        if word is not None:
            said = self.words.names.get(word.upper(), word)
            raise Refusal(400, f"{said}: {self.bundle.name!r} {why}; leave it out", "invalid_value", said)

    def _prompt(self) -> str:
        prompt = self.values.get("prompt")
        if prompt is None:
            raise _missing("prompt", "say what to paint")
        if not isinstance(prompt, str):
            raise Refusal(400, f"prompt: {str(prompt)[:64]!r} is no text; send one", "invalid_value", "prompt")
        return prompt

    def _check_prompt(self, prompt: str) -> None:
        if not prompt.strip():
            raise Refusal(400, "prompt: there is no word in it; say what to paint", "invalid_value", "prompt")
        texts = {"prompt": prompt, **{word: self.values.get(word) for word in ("negative_prompt", "content_prompt")}}
        for word, text in texts.items():
            if isinstance(text, str) and len(text.encode(errors="replace")) > self.limits.prompt_bytes:
                problem = f"{word}: it has more than {self.limits.prompt_bytes} bytes; send fewer"
                raise Refusal(400, problem, "invalid_value", word)

    def _named(self, word: str, values: Mapping[str, Any]) -> list[Named]:
        most = 64 if word == "style" and self.bundle.family != FEEDFORWARD else self.limits.adapters
        return placing.named(values.get(word), word, most)

    def _weights(self, values: Mapping[str, Any], pictures: Sequence[bytes]) -> Sequence[Any] | None:
        weights = values.get("style_image_weights")
        if weights is None or (isinstance(weights, list) and len(weights) == len(pictures)):
            return weights
        problem = f"send a list with one number for each of {len(pictures)} style pictures"
        raise Refusal(400, f"style_image_weights: {problem}", "invalid_value", "style_image_weights")

    def _one(self, word: str) -> bytes:
        found = self.pictures[word]
        if len(found) > 1:
            raise Refusal(400, f"{word}: there are {len(found)}; send one", "invalid_value", word)
        return found[0]

    def _format(self) -> str:
        found = self.values.get("format", "png")
        said = self.words.names["FORMAT"]
        if found not in FORMATS:
            problem = f"{said}: {str(found)[:32]!r} is not written here; send {', '.join(FORMATS)}"
            raise Refusal(400, problem, "invalid_value", said)
        return str(found)

    def _photo_size(self, photo: bytes, values: Mapping[str, Any]) -> tuple[tuple[int, int], Any, tuple[str, ...]]:
        """The painting's size, the option `long_side`, and what there is to say about `size`."""
        asked = sizes.asked_size({word: value for word, value in values.items() if word == "size"})
        told: tuple[str, ...] = ()
        long_side = values.get("long_side")
        if asked[0] and asked[1] and long_side is None:
            long_side = max(asked[0], asked[1])
            told = (f"size: the photo keeps its shape; its longer side is {long_side} pixels",)
        width, height = uploads.size_of("image", photo, self.limits.picture_pixels)
        side = sizes.whole({"long_side": long_side}, "long_side", 1, sizes.MAX_SIDE) or max(width, height)
        scale = side / max(width, height)
        return (max(1, round(width * scale)), max(1, round(height * scale))), long_side, told

    def _steps(self, options: Mapping[str, Any]) -> int:
        """Those to expect; what comes may differ, since rules have defaults of their own."""
        steps, strength = options.get("steps"), options.get("strength")
        most = steps if isinstance(steps, int) else self.bundle.defaults.steps
        share = strength if isinstance(strength, int | float) and "image" in options else 1.0
        return max(1, int(most * min(1.0, max(0.0, share))))

    def _size_names(self) -> dict[str, str]:
        return {"WIDTH": "size", "HEIGHT": "size"} if "size" in self.values else {}

    def _timeout_s(self) -> float:
        value, most = self.values.get("timeout", self.limits.timeout_s), self.limits.timeout_s
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not 0 < value <= most:
            problem = f"timeout: {str(value)[:32]!r} is no time here; send seconds, more than 0 and at most {most:g}"
            raise Refusal(400, problem, "invalid_value", "timeout")
        return float(value)


_PHOTOS_OWN = {*PhotoOptions.__annotations__, "style_image_weights", "mask"} - {
    *TABLE.options
}  # words of bundles for photos alone
_PICTURES = tuple(word for word, row in TABLE.options.items() if row.kind == "picture")
_PLACED = {"adapters", "style", "guidance", "width", "height", "model", "format"}
_PLAIN = tuple(word for word, row in TABLE.options.items() if row.kind != "picture" and word not in _PLACED)


def _pictures(words: Words, files: Files, limits: Limits) -> dict[str, list[bytes]]:
    """All pictures by their words, those in base64, too; each checked by its header."""
    found = {word: list(several) for word, several in files.items() if several}
    for word in found:
        if KINDS.get(word) != "picture":
            raise Refusal(400, f"{word[:64]}: this is no file's field; send it as text", "unknown_field", word[:64])
    for word, value in words.values.items():
        if KINDS[word] == "picture":
            found.setdefault(word, []).extend(
                uploads.from_text(word, one) for one in (value if isinstance(value, list) else [value])
            )
    for word, several in found.items():
        if len(several) > 1 + limits.adapters:
            raise Refusal(400, f"{word}: there are {len(several)}; send fewer", "invalid_value", word)
        for data in several:
            uploads.size_of(word, data, limits.picture_pixels)
    return found


def _adapter_names(
    adapters: Sequence[Named], tags: Sequence[Named], alias: Sequence[Named], styles: Sequence[Named]
) -> dict[str, str]:
    """What the caller called the fields that name adapters: the first that named one."""
    by_name = next((one.word for one in (*adapters, *tags, *alias, *styles)), "adapters")
    by_style = next((one.word for one in (*styles, *alias, *tags, *adapters)), "style")
    return {"ADAPTER_NAMES": by_name, "ADAPTER_WEIGHTS": by_name, "STYLE": by_style}


def _missing(word: str, fix: str) -> Refusal:
    return Refusal(400, f"{word}: it is missing; {fix}", "missing_field", word)
