"""What a person sees of a measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.progress import Progress


@dataclass(frozen=True)
class Steps:
    """Tells a person what is going on."""

    bar: Progress

    def begin(self, what: str, total: int) -> Callable[[], object]:
        """Returns what to call after each of `total`."""
        if not self.bar.console.is_terminal:
            self.bar.console.log(what)
        task = self.bar.add_task(what, total=total)
        return lambda: self.bar.advance(task)
