"""A comparison: a checked request to the model `clip_score`, pictures against texts or other pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from impasto_server.errors import InvalidArgument, shown
from impasto_server.fields import Field, Files, Texts, decoded
from impasto_server.pictures.content import check_bytes, read_whole
from impasto_server.scoring.score import Array, Scorer, cosines

MAX_IMAGES = 64

FIELDS: Mapping[str, Field] = {
    row.name: row
    for row in (
        Files("IMAGE", f"1 to {MAX_IMAGES} pictures: encoded PNG, JPEG or WebP files.", required=True),
        Texts(
            "TEXT",
            "What the pictures should show: UTF-8, 1 to 8192 bytes, not blank, no longer than the scorer reads. One "
            "for all, or one each.",
        ),
        Files(
            "REFERENCE",
            "Instead of TEXT: encoded pictures that they should resemble. One for all, or one each.",
        ),
    )
}


@dataclass(frozen=True)
class Comparison:
    """Encoded `images`, and either `texts` or encoded `references`: one for all images, or one each.

    `timeout_s` counts from submission; None has no limit.
    """

    images: tuple[bytes, ...]
    texts: tuple[str, ...] = ()
    references: tuple[bytes, ...] = ()
    timeout_s: float | None = None

    @property
    def files(self) -> tuple[tuple[str, bytes], ...]:
        """All pictures, unread, each with the name that errors call it."""
        return (*_named("REFERENCE", self.references), *_named("IMAGE", self.images))

    def without_files(self) -> Comparison:
        """The comparison once its files are decoded; it still tells how many there were."""
        return replace(self, images=(b"",) * len(self.images), references=(b"",) * len(self.references))

    def scores(self, embeds: Array, scorer: Scorer) -> Array:
        """Embeddings [files, E] → one cosine for each image."""
        split = len(self.references)
        return cosines(embeds[split:], scorer.texts(self.texts) if self.texts else embeds[:split])


def scores(asked: Comparison, scorer: Scorer) -> Array:
    """One cosine for each image, computed at once. Raises InvalidArgument for a file that is not a picture."""
    return asked.scores(scorer.images(read_whole(data, name) for name, data in asked.files), scorer)


def parse(
    tensors: Mapping[str, NDArray[Any]], unread: Callable[[str], str], timeout_s: float | None = None
) -> Comparison:
    """A comparison from tensors, all checked. `unread` gives the part of a text that the scorer doesn't read.

    Raises InvalidArgument for the first field at fault.
    """
    for name in tensors:
        if name not in FIELDS:
            raise InvalidArgument(name, "is not an input of this model", f"pass only {', '.join(FIELDS)}")
    images, texts, references = (_values(tensors, name) for name in FIELDS)
    if not images:
        raise InvalidArgument("IMAGE", "holds no picture", "pass the bytes of one or more")
    if len(images) > MAX_IMAGES:
        raise InvalidArgument("IMAGE", f"{len(images)} pictures are too many", f"pass at most {MAX_IMAGES}")
    for name, data in (*_named("REFERENCE", references), *_named("IMAGE", images)):
        check_bytes(data, name)
    if texts and references:
        raise InvalidArgument("REFERENCE", "is there as well as TEXT", "pass one of the two")
    if not texts and not references:
        raise InvalidArgument("TEXT", "is missing, and so is REFERENCE", "pass one of the two")
    for name, values in (("TEXT", texts), ("REFERENCE", references)):
        if len(values) not in (0, 1, len(images)):
            raise InvalidArgument(name, f"{len(values)} for {len(images)} of IMAGE", "pass one, or one for each")
    return Comparison(images, tuple(_text(value, unread) for value in texts), references, timeout_s)


def _values(tensors: Mapping[str, NDArray[Any]], name: str) -> tuple[bytes, ...]:
    found = tensors[name].reshape(-1).tolist() if name in tensors else []
    return tuple(value.encode() if isinstance(value, str) else value for value in found)


def _text(value: bytes, unread: Callable[[str], str]) -> str:
    text = decoded("TEXT", value)
    if not text.strip():
        raise InvalidArgument("TEXT", "is blank", "say what the pictures should show, e.g. 'a red boat at night'")
    if rest := unread(text):
        raise InvalidArgument("TEXT", f"is too long for this scorer, which doesn't read {shown(rest)}", "shorten it")
    return text


def _named(field: str, files: Sequence[bytes]) -> list[tuple[str, bytes]]:
    return [(field if len(files) == 1 else f"{field}: picture {n}", data) for n, data in enumerate(files, 1)]
