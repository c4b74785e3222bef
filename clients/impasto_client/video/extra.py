"""What impasto[video] brings, imported when it is needed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from impasto_client.errors import MissingExtra


def needed(module: str, wish: str, instead: str = "") -> ModuleType:
    """A module of this folder. Raises MissingExtra, which says what `wish` needs and, maybe, what to do instead."""
    try:
        return import_module(f"impasto_client.video.{module}")
    except ModuleNotFoundError as error:
        fix = f"pip install 'impasto[video]'{instead}"
        raise MissingExtra(f"{wish} needs {error.name}, which is not installed; {fix}") from None
