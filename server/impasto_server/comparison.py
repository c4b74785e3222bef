"""What model `clip_score` is asked, checked: encoded pictures, and the texts or pictures to hold them against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.content import read_whole
from impasto_server.errors import InvalidArgument
from impasto_server.request import Field, decoded
from impasto_server.score import Embeds, Pixels, Scorer, cosines

MAX_IMAGES = 64

FIELDS: Mapping[str, Field] = {
    "IMAGE": Field("BYTES", required=True, many=True),
    "TEXT": Field("BYTES", many=True),
    "REFERENCE": Field("BYTES", many=True),
}


@dataclass(frozen=True)
class Comparison:
    """`images` and `references` are encoded files. Either `texts` or `references`: one for all images, or one each."""

    images: tuple[bytes, ...]
    texts: tuple[str, ...] = ()
    references: tuple[bytes, ...] = ()

    def scores(self, scorer: Scorer) -> NDArray[np.float32]:
        """One cosine for each image. Raises InvalidArgument for a text that is too long, and what is no picture."""
        others = self._texts(scorer) if self.texts else scorer.images(_pixels("REFERENCE", self.references))
        return cosines(scorer.images(_pixels("IMAGE", self.images)), others)

    def _texts(self, scorer: Scorer) -> Embeds:
        for text in self.texts:
            if unread := scorer.unread(text):
                raise InvalidArgument("TEXT", f"is too long for this scorer, {unread[:64]!r} is not read", "shorten it")
        return scorer.texts(self.texts)


def parse(tensors: Mapping[str, NDArray[Any]]) -> Comparison:
    """Check every tensor. Raises InvalidArgument naming the first field at fault."""
    for name in tensors:
        if name not in FIELDS:
            raise InvalidArgument(name, "is no input of this model", f"known inputs: {', '.join(FIELDS)}")
    images, texts, references = (_values(tensors, name) for name in FIELDS)
    if not images:
        raise InvalidArgument("IMAGE", "holds no picture", "pass the bytes of one, or of several")
    if len(images) > MAX_IMAGES:
        raise InvalidArgument("IMAGE", f"{len(images)} pictures are too many", f"pass at most {MAX_IMAGES}")
    if texts and references:
        raise InvalidArgument("REFERENCE", "stands beside TEXT", "pass one of the two")
    if not texts and not references:
        raise InvalidArgument("TEXT", "is missing, and REFERENCE too", "pass one of the two")
    for name, values in (("TEXT", texts), ("REFERENCE", references)):
        if len(values) not in (0, 1, len(images)):
            raise InvalidArgument(name, f"{len(values)} for {len(images)} of IMAGE", "pass one, or one for each")
    return Comparison(images, tuple(_text(value) for value in texts), references)


def _values(tensors: Mapping[str, NDArray[Any]], name: str) -> tuple[bytes, ...]:
    found = tensors[name].reshape(-1).tolist() if name in tensors else []
    return tuple(value.encode() if isinstance(value, str) else value for value in found)


def _text(value: bytes) -> str:
    text = decoded("TEXT", value)
    if not text.strip():
        raise InvalidArgument("TEXT", "is blank", "say what the pictures should show, e.g. 'a red boat at night'")
    return text


def _pixels(field: str, files: Sequence[bytes]) -> Iterator[Pixels]:
    """Decoded one by one: 64 large pictures at once would not fit into memory."""
    for number, data in enumerate(files, 1):
        yield read_whole(data, field if len(files) == 1 else f"{field}: picture {number}")
