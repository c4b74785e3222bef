"""A scene in words: one canonical caption, and the variants that a text encoder is trained on."""

import numpy as np

from studio.painter.scene import BACKGROUNDS, STYLE_DESCRIPTORS, Scene


def caption(scene: Scene) -> str:
    """The canonical caption: "a red boat at night in watercolour style"."""
    return f"{context(scene)} in {STYLE_DESCRIPTORS[scene.style]} style"


def context(scene: Scene) -> str:
    """The caption without its style: "a red boat at night"."""
    return f"{_subject(scene)} {BACKGROUNDS[scene.background]}"


def caption_variant(scene: Scene, rng: np.random.Generator) -> str:
    """A caption for training: half canonical, else with a part dropped or the style said first."""
    subject, place, style = _subject(scene), BACKGROUNDS[scene.background], STYLE_DESCRIPTORS[scene.style]
    variants = (
        f"{subject} {place}",
        f"{subject} in {style} style",
        f"{_with_article(style)} picture of {subject} {place}",
        f"{_with_article(style)} picture of {subject}",
    )
    return caption(scene) if rng.random() < 0.5 else variants[rng.integers(len(variants))]


def _subject(scene: Scene) -> str:
    return _with_article(f"{scene.colour} {scene.object}")


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
