"""The protocol of all recipes: pictures and words in, the bytes of an adapter's file out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from impasto_fit.budget import Budget
from impasto_fit.errors import WordsError
from impasto_fit.pictures import Picture
from impasto_fit.progress import Progress


@dataclass(frozen=True)
class Words:
    """What is said of the pictures, or in their place.

    `contexts` say what each picture shows, without its style ("a house by a river"); () where nobody said it. `style`
    is what a text recipe is asked for, or what prompts call the style ("stained glass"); "" where it has no name.
    """

    contexts: tuple[str, ...] = ()
    style: str = ""

    def check(self, count: int) -> None:
        """
        Raises:
            WordsError: there are contexts, but not one for each of `count` pictures.
        """
        if self.contexts and len(self.contexts) != count:
            got = f"got {len(self.contexts)} for {count} pictures"
            raise WordsError(f"contexts: {got}; give one for each, in their order, or none")


class Recipe(Protocol):
    """A frozen dataclass of constants: the paper's are the defaults. `checkpoint`, a Path, is what it trains on.

    It knows neither where pictures come from nor where its file goes.
    """

    @property
    def seed(self) -> int: ...

    def fit(self, pictures: Sequence[Picture], words: Words, budget: Budget, progress: Progress) -> bytes:
        """A safetensors file in the field's own layout, which `impasto adapters import` reads. Its header has the key
        `impasto_fit` (provenance.py); the importer hands that on into the adapter's header.

        Equal arguments give equal bytes, on one machine, also where the fit was killed and resumed in between.

        Raises:
            PictureError, WordsError, CheckpointError: before any work.
            StateError: what `progress` kept is of another fit.
            Diverged, Cancelled: there is no file.
        """
        ...
