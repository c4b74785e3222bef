"""Progress bars on a terminal while a command waits for pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from impasto_client.files import numbered
from impasto_client.generation import Generation, Progress


def counting(console: Console) -> Bar:
    """A bar that shows how many of how many are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Bar(*columns, console=console)


def follow(parts: Iterable[Progress | Generation], console: Console, previews: Path | None) -> Generation:
    """Return the stream's picture; meanwhile show steps and the server's estimate of the time left, on a terminal.

    Previews become files preview-005.png and so on in the folder `previews`, or preview-005-1.png and so on for several
    candidates. Raises OSError, and what `parts` raises.
    """
    columns = (TextColumn("painting"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, left="")  # no total while it waits for its turn
        for part in parts:
            if isinstance(part, Generation):
                return part
            bar.update(task, total=part.steps, completed=part.step, left=f"{part.eta_s:.1f} s left")
            if previews is not None:
                _write(part, previews)
    raise AssertionError("a client's stream ends with a Generation or an error")


def _write(part: Progress, folder: Path) -> None:
    files = numbered(folder / f"preview-{part.step:03}.png", len(part.previews))
    for file, preview in zip(files, part.previews, strict=True):
        file.write_bytes(preview)
