"""The command `impasto compose`: paint an adapter's content in the styles of others, on one sheet.

There is a row for each style. Its columns are the style alone, the content alone, and both composed, at each γ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from impasto_client import arguments as arg
from impasto_client.arguments import with_options
from impasto_client.bar import counting
from impasto_client.catalogue import Catalogue
from impasto_client.cells import Cell, paint
from impasto_client.client import DEFAULT_TIMEOUT_S, DEFAULT_URL
from impasto_client.connection import connected, print_warnings, reported
from impasto_client.fields import TABLE
from impasto_client.gallery import Row, Sheet, draw
from impasto_client.options import Compose, StyleDrop
from impasto_client.words import format_of, options_of

GAMMAS = [0.35, 0.5, 0.65]
SHARED = (
    "model",
    "negative_prompt",
    "steps",
    "temperature",
    "scheduler",
    "style_strength",
    "text_strength",
    "upscale_steps",
    "upscale_temperature",
    "upscale_style_strength",
    "upscale_text_strength",
)  # options that all pictures of a sheet may share


@dataclass(frozen=True)
class Wish:
    """A row: the style's adapter, the prompt, and the prompt for the style alone."""

    style: str
    prompt: str
    style_prompt: str

    @property
    def said(self) -> tuple[str, ...]:
        """The row's prompts; that of the style alone where it is another one."""
        alone = (f"style alone: {self.style_prompt}",) if self.style_prompt != self.prompt else ()
        return (self.prompt, *alone)


@with_options(TABLE, SHARED)
def compose(
    ctx: typer.Context,
    *,
    styles: Annotated[list[str], typer.Option("--style", metavar="NAME", help="A style's adapter: a row.")],
    content: Annotated[str, typer.Option(metavar="NAME", help="The content's adapter.")],
    prompts: Annotated[list[str], typer.Option("--prompt", help="What to paint; one, or one for each style.")],
    style_prompts: Annotated[
        list[str] | None,
        typer.Option("--style-prompt", help="The same, for the picture in the style alone.", show_default="the prompt"),
    ] = None,
    gammas: Annotated[
        list[float], typer.Option("--gamma", help="From 0 (style alone) to 1 (content alone); may be repeated.")
    ] = GAMMAS,
    said: Mapping[str, Any],
    seed: Annotated[int, typer.Option(help="Seed of the first row; each next row's is one more.")] = 7,
    title: Annotated[str, typer.Option(help="Heading of the sheet.")] = "impasto",
    out: Annotated[Path, typer.Option(help="File to write: .png, .jpg or .webp.")] = Path("composed.png"),
    as_json: arg.AsJson = False,
    url: arg.Url = DEFAULT_URL,
    timeout: arg.Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Paint a content's adapter in the styles of others, on one sheet.

    A row for each style: the style alone, the content alone, both at each gamma. Along a row the seed stays the same.
    """
    format_of(out)
    wishes = wishes_of(styles, prompts, style_prompts or prompts)
    cells = [[*row_of(wish, content, gammas, said, seed + i)] for i, wish in enumerate(wishes)]
    console = Console(stderr=True, highlight=False)
    with reported(console), connected(ctx, url, timeout) as client, counting(console) as bar:
        labels = labels_of(client.catalogue(), styles)
        task = bar.add_task("painting", total=sum(map(len, cells)))
        pictures = paint(client, cells, lambda: bar.advance(task))
    columns = ["style", "content", *(f"gamma {gamma:g}" for gamma in gammas)]
    rows = [
        Row(label, (*wish.said, f"seed {row[0].seed}"))
        for label, wish, row in zip(labels, wishes, pictures, strict=True)
    ]
    with reported(console):
        draw(Sheet(title, rows, columns, pictures)).save(out)
    warnings = dict.fromkeys(warning for row in pictures for cell in row for warning in cell.warnings)
    print_warnings(console, list(warnings))
    typer.echo(json.dumps({"out": str(out), "warnings": list(warnings)}) if as_json else str(out))


def wishes_of(styles: Sequence[str], prompts: Sequence[str], style_prompts: Sequence[str]) -> list[Wish]:
    """The rows. Raises typer.BadParameter unless there is one prompt, or one for each style."""
    said = [_each("--prompt", prompts, len(styles)), _each("--style-prompt", style_prompts, len(styles))]
    return [Wish(*words) for words in zip(styles, *said, strict=True)]


def _each(flag: str, words: Sequence[str], count: int) -> Sequence[str]:
    if len(words) not in (1, count):
        problem = f"{len(words)} of them for {count} styles; give one, or one for each style"
        raise typer.BadParameter(problem, param_hint=flag)
    return words if len(words) == count else [*words] * count


def row_of(wish: Wish, content: str, gammas: Sequence[float], said: Mapping[str, Any], seed: int) -> Iterator[Cell]:
    """The row's cells: the style alone, the content alone, then both at each γ."""

    def cell(prompt: str, **own: Any) -> Cell:
        return Cell(prompt, {**options_of({**said, **own}, TABLE), "seed": seed})

    yield cell(wish.style_prompt, guidance=StyleDrop.rule, style=[wish.style])
    yield cell(wish.prompt, guidance=StyleDrop.rule, style=[content])
    for gamma in gammas:
        yield cell(wish.prompt, guidance=Compose.rule, style=[wish.style], content=content, gamma=gamma)


def labels_of(found: Catalogue, styles: Sequence[str]) -> list[str]:
    """Each style's label: the words that its adapter was trained with, or its name if there are none."""
    words = {one.name: one.prompt.replace("{context}", "").strip() for one in found.adapters}
    return [words.get(name) or name for name in styles]
