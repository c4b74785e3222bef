"""The wish for a bundle that paints photos: a photo, and the styles to paint it in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from impasto_client.options import PhotoOptions
from impasto_gateway import placing, sizes, uploads
from impasto_gateway.draft import Draft
from impasto_gateway.errors import wrong
from impasto_gateway.lora import tagged
from impasto_gateway.placing import Named
from impasto_gateway.wish import Wish
from impasto_gateway.words import KINDS, OWN

PLAIN = ("strength", "detail", "preserve_color")  # options that are passed on as they are
TAKEN = {*PhotoOptions.__annotations__, *OWN, "style", "adapters", "style_image_weights", "n", "image"}
STRANGE = {*KINDS} - TAKEN


def stylized(draft: Draft, warnings: Sequence[str]) -> Wish:
    """The first `image` is painted; further ones are pictures whose styles are taken. Raises Refusal."""
    draft.without(STRANGE, "paints photos without it")
    if (sizes.bounded(draft.values, "n") or 1) != 1:
        raise wrong("n", "a photo is painted once; send 1")
    said = tagged(draft.text("prompt"))
    photo, *pictures = draft.pictures["image"]
    size, long_side, told = _size(draft, photo)
    options = {
        **{word: draft.values[word] for word in PLAIN if word in draft.values},
        "photo": photo,
        "long_side": long_side,
        "format": draft.format(),
        "model": draft.bundle.name,
        **_styled(draft, [Named(name, weight, "prompt") for name, weight in said.adapters.items()], pictures),
    }
    unheard = ["prompt: this model paints photos without words"] if said.prompt else []
    return Wish(
        kind="stylize",
        bundle=draft.bundle.name,
        prompt="",
        options={word: value for word, value in options.items() if value is not None},
        names={**draft.words.names, **_names(draft, bool(said.adapters)), **({"LONG_SIDE": "size"} if told else {})},
        size=size,
        pixels=size[0] * size[1],
        steps=1,
        warnings=(*warnings, *told, *unheard),
        **draft.answering(),
    )


def _styled(draft: Draft, tags: Sequence[Named], pictures: Sequence[bytes]) -> dict[str, Any]:
    """The options `style` and `mask`, or `regions` where each style has its mask."""
    named = [*draft.named("style"), *draft.named("adapters"), *tags]
    styles = placing.shares(named or draft.alias, pictures, _weights(draft, pictures))
    masks = draft.pictures.get("mask", ())
    if len(masks) < 2:
        return {"style": styles, "mask": masks[0] if masks else None}
    if len(masks) != len(styles or ()):
        raise wrong("mask", f"there are {len(masks)} for {len(styles or ())} styles; send one, or one for each")
    return {"regions": list(zip(styles or (), masks, strict=True))}


def _names(draft: Draft, tagged: bool) -> dict[str, str]:
    """What the caller called the styles; `style` where there are none."""
    said = next((word for word in ("style", "adapters") if word in draft.values), None)
    word = said or ("prompt" if tagged else "model" if draft.alias else "style")
    return {"ADAPTER_NAMES": word, "ADAPTER_WEIGHTS": word}


def _weights(draft: Draft, pictures: Sequence[bytes]) -> Sequence[Any] | None:
    weights = draft.values.get("style_image_weights")
    if weights is None or (isinstance(weights, list) and len(weights) == len(pictures)):
        return weights
    count = f"there are {len(pictures)} style pictures"
    raise wrong("style_image_weights", f"{count}; send a list with a number for each")


def _size(draft: Draft, photo: bytes) -> tuple[tuple[int, int], Any, list[str]]:
    """The painting's size, the option `long_side`, and what there is to say about `size`."""
    width, height = uploads.size_of("image", photo, draft.limits.picture_pixels)
    asked = sizes.asked_size({"size": draft.values.get("size", sizes.AUTO)})
    long_side, told = draft.values.get("long_side"), list[str]()
    if asked[0] and asked[1] and long_side is None:
        long_side = max(asked[0], asked[1])
        told.append(f"size: the photo keeps its shape; its longer side is {long_side} pixels")
    side = sizes.bounded({"long_side": long_side}, "long_side") or max(width, height)
    scale = side / max(width, height)
    return (max(1, round(width * scale)), max(1, round(height * scale))), long_side, told
