"""The wish for a bundle that paints a prompt: from noise, from a picture, or a picture larger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from impasto_client.fields import TABLE
from impasto_client.options import PhotoOptions
from impasto_gateway import placing, sizes
from impasto_gateway.draft import Draft
from impasto_gateway.errors import wrong
from impasto_gateway.guiding import Guided, guided
from impasto_gateway.lora import tagged
from impasto_gateway.placing import Named, Placed
from impasto_gateway.wish import Wish

PICTURES = tuple(word for word, row in TABLE.options.items() if row.kind == "picture")
# Options that are passed on as they are; the others are put together here.
_MADE = {*PICTURES, "adapters", "style", "guidance", "width", "height", "model", "format"}
PLAIN = tuple(word for word in TABLE.options if word not in _MADE)
SECOND_STAGE = "upscale"
# Words of bundles for photos alone.
PHOTOS_OWN = {*PhotoOptions.__annotations__, "style_image_weights"} - {*TABLE.options}


def prompted(draft: Draft, warnings: Sequence[str], over: bool) -> Wish:
    """With `over`, the bundle's second stage paints `image` larger. Raises Refusal."""
    draft.without({"mask"}, "paints the whole picture anew, and takes no mask")
    draft.without(PHOTOS_OWN, "paints no photos, and doesn't use it")
    if over and SECOND_STAGE not in draft.bundle.stages:
        problem = f"{draft.bundle.name!r} has no second stage that paints a picture larger"
        raise wrong("upscale", f"{problem}; leave it out, or name another model")
    values, ruled, said = draft.values, guided(draft.values), tagged(_prompt(draft))
    tags = [Named(name, weight, "prompt") for name, weight in said.adapters.items()]
    place, names = _placed(draft, ruled, tags)
    prompt = said.prompt
    if draft.adapter is not None and not place.style:
        prompt = placing.spoken(prompt, draft.adapter)
    asked, resized = sizes.fitted(sizes.asked_size(values), values, draft.bundle)
    size = sizes.full_size(asked, draft.bundle, values)
    options = {
        **{word: values[word] for word in PLAIN if word in values and word not in ruled.taken},
        **{word: draft.picture(word) for word in PICTURES if word in draft.pictures},
        "style": place.style,
        "adapters": place.adapters,
        "guidance": ruled.guidance,
        "width": asked[0],
        "height": asked[1],
        "format": draft.format(),
        "model": draft.bundle.name,
    }
    steps = _steps(draft, options)
    if over:
        options["picture"] = options.pop("image")
    sized = {"WIDTH": "size", "HEIGHT": "size"} if "size" in values else {}
    return Wish(
        kind="upscale" if over else "generate",
        bundle=draft.bundle.name,
        prompt=prompt,
        options={word: value for word, value in options.items() if value is not None},
        names={**draft.words.names, **({"BASE_IMAGE": "image"} if over else {}), **sized, **names},
        size=size,
        pixels=size[0] * size[1] * (sizes.bounded(values, "n") or 1),
        steps=steps,
        warnings=(*warnings, *resized),
        revised=prompt if prompt != values["prompt"] else None,
        **draft.answering(),
    )


def _prompt(draft: Draft) -> str:
    prompt = draft.text("prompt")
    for word in ("negative_prompt", "content_prompt"):
        draft.text(word)
    if not tagged(prompt).prompt.strip():
        raise wrong("prompt", "there is no word in it; say what to paint", "missing_field")
    return prompt


def _placed(draft: Draft, ruled: Guided, tags: Sequence[Named]) -> tuple[Placed, Mapping[str, str]]:
    """Where all named adapters go, and the caller's words for the fields that name them: the first that named one."""
    adapters, styles, alias = draft.named("adapters"), draft.named("style"), draft.alias
    if alias and ruled.rule.styled == "adapter" and not styles:
        styles, alias = alias, []
    place = placing.placed([*adapters, *tags, *alias], styles, ruled.rule, draft.catalogue)
    weighed = next((one.word for one in (*adapters, *tags, *alias, *styles)), "adapters")
    styled = next((one.word for one in (*styles, *alias, *tags, *adapters)), "style")
    return place, {"ADAPTER_NAMES": weighed, "ADAPTER_WEIGHTS": weighed, "STYLE": styled}


def _steps(draft: Draft, options: Mapping[str, Any]) -> int:
    """Those to expect; what comes may differ, since rules have defaults of their own."""
    steps, strength = options.get("steps"), options.get("strength")
    most = steps if isinstance(steps, int) else draft.bundle.defaults.steps
    share = strength if isinstance(strength, int | float) and "image" in options else 1.0
    return max(1, int(most * min(1.0, max(0.0, share))))
