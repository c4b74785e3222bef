"""Import the packages of impasto[video] when they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from impasto_client.errors import MissingExtra


@contextmanager
def extra(wish: str, instead: str = "") -> Iterator[None]:
    """A block for imports: raises MissingExtra, which says what `wish` needs and, maybe, what to do instead."""
    try:
        yield
    except ModuleNotFoundError as error:
        fix = f"pip install 'impasto[video]'{instead}"
        raise MissingExtra(f"{wish} needs {error.name}, which is not installed; {fix}") from None
