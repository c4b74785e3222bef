"""Read a request: what was said over HTTP, and the files that came, as a Wish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from impasto_client.catalogue import Catalogue
from impasto_gateway import uploads
from impasto_gateway.choosing import choice_of
from impasto_gateway.draft import FEEDFORWARD, Draft
from impasto_gateway.errors import wrong
from impasto_gateway.photos import stylized
from impasto_gateway.prompted import prompted
from impasto_gateway.settings import Limits
from impasto_gateway.wish import Wish
from impasto_gateway.words import KINDS, Words, words_of

MOODS = ("vivid", "natural")  # OpenAI's values of `style`

Files = Mapping[str, Sequence[bytes]]


def wish_of(said: Mapping[str, Any], files: Files, catalogue: Catalogue, limits: Limits, edits: bool = False) -> Wish:
    """The wish. `files` are pictures by the form's names; with `edits`, the first `image` is painted anew.

    Raises Refusal, which names the caller's field, for what the server need not be asked about.
    """
    words = _without_moods(words_of(said), catalogue)
    choice = choice_of(words.values.get("model"), catalogue)
    pictures = _pictures(words, files, limits)
    draft = Draft(words, pictures, catalogue, limits, choice.bundle, choice.adapter)
    warnings = (*words.warnings, *choice.warnings)
    if edits and not pictures.get("image"):
        raise wrong("image", "it is missing; send a file, e.g. curl -F image=@photo.png", "missing_field")
    if draft.flag("upscale") and not edits:
        raise wrong("upscale", "there is no picture to paint larger; send one to /v1/images/edits")
    if choice.bundle.family != FEEDFORWARD:
        return prompted(draft, warnings, over=draft.flag("upscale"))
    if not edits:
        raise wrong("model", f"{choice.bundle.name!r} paints photos; send one to /v1/images/edits, or name another")
    return stylized(draft, warnings)


def _without_moods(words: Words, catalogue: Catalogue) -> Words:
    """Without a `style` that is OpenAI's, and no adapter's name."""
    style = words.values.get("style")
    if style not in MOODS or style in [one.name for one in catalogue.adapters]:
        return words
    values = {word: value for word, value in words.values.items() if word != "style"}
    return replace(words, values=values, warnings=(*words.warnings, f"style: {style} has no effect here"))


def _pictures(words: Words, files: Files, limits: Limits) -> dict[str, list[bytes]]:
    """All pictures by their words, those in base64, too; each is checked by its header."""
    found = {word: list(several) for word, several in files.items() if several}
    strange = next((word for word in found if KINDS.get(word) != "picture"), None)
    if strange is not None:
        raise wrong(strange, "this is no field for a file; send it as text, or leave it out", "unknown_field")
    for word, value in words.values.items():
        if KINDS[word] == "picture":
            texts = value if isinstance(value, list) else [value]
            if not texts:
                raise wrong(word, "the list is empty; send a picture, or leave it out")
            found.setdefault(word, []).extend(uploads.from_text(word, text) for text in texts)
    for word, several in found.items():
        if len(several) > 1 + limits.adapters:
            raise wrong(word, f"there are {len(several)}; send at most {1 + limits.adapters}")
        for data in several:
            uploads.size_of(word, data, limits.picture_pixels)
    return found
