"""ImageNet's 80 sentences around a word, as CLIP's authors wrote them; a text's vector is their mean."""

from __future__ import annotations

from collections.abc import Iterator

SEEN = (
    "bad", "cropped", "bright", "dark", "black and white", "low resolution", "pixelated", "jpeg corrupted", "blurry",
    "good", "close-up",
)  # fmt: skip
BEING = ("", "hard to see ", "clean ", "dirty ", "cool ", "large ", "small ", "nice ", "weird ")
COUNTED = ("many", "my", "one")
MADE = (
    "a sculpture", "a rendering", "a tattoo", "a drawing", "a painting", "a doodle", "a sketch", "a rendition",
    "graffiti", "art",
)  # fmt: skip
STUFF = ("plastic", "toy", "plushie", "origami", "embroidered", "cartoon")


def _sentences() -> Iterator[str]:
    for article in ("a", "the"):
        yield from (f"a {seen} photo of {article} {{}}." for seen in SEEN)
        yield from (f"a photo of {article} {being}{{}}." for being in BEING)
        yield from (f"{made} of {article} {{}}." for made in MADE)
        yield from (f"{article} {stuff} {{}}." for stuff in STUFF)
        yield f"{article} {{}} in a video game."
    yield from (f"a photo of {counted} {{}}." for counted in COUNTED)
    yield from (f"itap of {owner} {{}}." for owner in ("a", "the", "my"))


TEMPLATES = tuple(_sentences())


def filled(text: str) -> list[str]:
    """The text in every sentence."""
    return [template.format(text) for template in TEMPLATES]
