"""`impasto generate`, `impasto gallery` and `impasto score`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from impasto_client import arguments as arg
from impasto_client.arguments import with_options
from impasto_client.bar import counting, follow
from impasto_client.client import DEFAULT_TIMEOUT_S, DEFAULT_URL
from impasto_client.connection import connected, print_warnings, reported
from impasto_client.fields import TABLE
from impasto_client.files import written
from impasto_client.gallery import Column, Settings, Sheet, draw, paint
from impasto_client.generation import Candidate, Generation
from impasto_client.words import format_of, options_of, weights_of

PREVIEW_EVERY = 5
SHARED = (
    "model",
    "adapters",
    "negative_prompt",
    "steps",
    "guidance_scale",
    "scheduler",
)  # what all cells of a gallery may share
GALLERY_PROMPTS = [
    "a red boat by the sea",
    "a blue house at night",
    "a yellow flower in a meadow",
    "a purple butterfly on plain paper",
]


@with_options(TABLE)
def generate(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to paint.")],
    said: Mapping[str, Any],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write: .png, .jpg or .webp. Of several candidates, OUT-1.png and so on, the best first.",
            show_default="impasto-SEED.png",
        ),
    ] = None,
    previews: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for previews on the way: preview-005.png and so on.")
    ] = None,
    preview_every: Annotated[
        int | None, typer.Option(min=1, help="With --previews: steps from one to the next.", show_default="5")
    ] = None,
    as_json: arg.AsJson = False,
    local: arg.Local = False,
    bundle: arg.Bundle = Path(".impasto/bundle"),
    url: arg.Url = DEFAULT_URL,
    timeout: arg.Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Ask a server for a picture. What is not said is the server's to choose.

    A terminal shows the steps while they are done. Ctrl-C cancels the request.
    """
    options = options_of(said, TABLE)
    if out is not None:
        options["format"] = format_of(out)
    if preview_every is not None and previews is None:
        raise typer.BadParameter("say with --previews where they go", param_hint="--preview-every")
    console = Console(stderr=True, highlight=False)
    with reported(console), connected(ctx, url, timeout, bundle if local else None) as client:
        if previews is not None:
            previews.mkdir(parents=True, exist_ok=True)
        every = 0 if previews is None else preview_every or PREVIEW_EVERY
        parts = client.stream(prompt, preview_every=every, **options)
        with closing(parts):
            generation = follow(parts, console, previews)
    with reported(console):
        files = written(generation, out)
    print_warnings(console, generation.warnings)
    if as_json:
        typer.echo(json.dumps(_document(files, generation), indent=2))
    else:
        typer.echo("\n".join(_line(path, candidate, generation) for path, candidate in files))


@with_options(TABLE, SHARED)
def gallery(
    ctx: typer.Context,
    *,
    prompts: Annotated[
        list[str], typer.Option("--prompt", help="A row; may be repeated.", show_default="four of ours")
    ] = GALLERY_PROMPTS,
    words: Annotated[
        str, typer.Option(help="Added to the prompt where a style is on; {style} is its name in words.")
    ] = "in {style} style",
    said: Mapping[str, Any],
    seed: Annotated[int, typer.Option(help="Seed of the first row; each next row's is one more.")] = 7,
    title: Annotated[str, typer.Option(help="Heading of the sheet.")] = "impasto",
    out: Annotated[Path, typer.Option(help="File to write: .png, .jpg or .webp.")] = Path("gallery.png"),
    as_json: arg.AsJson = False,
    url: arg.Url = DEFAULT_URL,
    timeout: arg.Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Rows are prompts, columns are no style and then every style; along a row the seed stays the same."""
    format_of(out)
    options = options_of(said, TABLE)
    weights = weights_of(said.get("adapters", []))
    options.pop("adapters", None)
    columns = [Column("no style"), *(Column.of(name, weight, words) for name, weight in weights.items())]
    console = Console(stderr=True, highlight=False)
    with reported(console), connected(ctx, url, timeout) as client, counting(console) as bar:
        task = bar.add_task("painting", total=len(prompts) * len(columns))
        rows = paint(client, prompts, columns, Settings(seed, options), lambda: bar.advance(task))
    with reported(console):
        draw(Sheet(title, prompts, columns, rows)).save(out)
    warnings = dict.fromkeys(warning for row in rows for cell in row for warning in cell.warnings)
    print_warnings(console, list(warnings))
    typer.echo(json.dumps({"out": str(out), "warnings": list(warnings)}) if as_json else str(out))


def score(
    ctx: typer.Context,
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", exists=True, dir_okay=False)],
    text: Annotated[str | None, typer.Option(help="How well each picture shows this.")] = None,
    reference: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="How near each comes to this one.")
    ] = None,
    as_json: arg.AsJson = False,
    url: arg.Url = DEFAULT_URL,
    timeout: arg.Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Ask a server that has a scorer how near pictures come to a text or to a picture; the best first."""
    if (text is None) is (reference is None):
        raise typer.BadParameter("say one of the two", param_hint="--text, --reference")
    with reported(Console(stderr=True, highlight=False)), connected(ctx, url, timeout) as client:
        scores = client.score(pictures, text=text, reference=reference)
    ranked = sorted(zip(pictures, scores, strict=True), key=lambda pair: -pair[1])
    if as_json:
        typer.echo(json.dumps([{"picture": str(picture), "score": score} for picture, score in ranked], indent=2))
    else:
        Console(highlight=False).print(_table(ranked))


def _table(ranked: Sequence[tuple[Path, float]]) -> Table:
    table = Table("score", "picture", box=None)
    for picture, score in ranked:
        table.add_row(f"{score:.3f}", escape(str(picture)))
    return table


def _line(path: Path, candidate: Candidate, generation: Generation) -> str:
    """The time is that of all candidates."""
    score = "" if candidate.score is None else f", score {candidate.score:.3f}"
    return f"{path}  seed {candidate.seed}{score}, {generation.timings.total_ms:.0f} ms"


def _document(files: Sequence[tuple[Path, Candidate]], generation: Generation) -> dict[str, object]:
    return {
        "out": str(files[0][0]),
        "seed": generation.seed,
        "candidates": [
            {"out": str(path), "seed": candidate.seed, "score": candidate.score} for path, candidate in files
        ],
        "timings": asdict(generation.timings),
        "warnings": list(generation.warnings),
        "meta": dict(generation.meta),
    }
