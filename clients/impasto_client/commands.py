"""The commands `impasto generate`, `impasto upscale`, `impasto gallery` and `impasto score`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from impasto_client import arguments as arg
from impasto_client.arguments import with_options
from impasto_client.bar import counting, follow
from impasto_client.cells import paint
from impasto_client.client import DEFAULT_TIMEOUT_S, DEFAULT_URL
from impasto_client.connection import connected, print_warnings, reported
from impasto_client.fields import TABLE, Options
from impasto_client.files import written
from impasto_client.gallery import Column, Row, Sheet, cells_of, draw
from impasto_client.generation import Candidate, Generation
from impasto_client.marks import Mark, marked
from impasto_client.words import format_of, options_of, weights_of

PREVIEW_EVERY = 5
SHARED = (
    "model",
    "adapters",
    "negative_prompt",
    "steps",
    "guidance_scale",
    "scheduler",
)  # options that all cells of a gallery may share
# Options of the first of two stages; `upscale` runs the second.
FIRST = {
    *("steps", "temperature", "guidance_scale", "style_guidance", "content_guidance", "style_strength"),
    *("text_strength", "image", "strength", "depth", "control_scale", "base_image"),
}
FINER = [field.word for field in TABLE.fields if field.word not in FIRST]
GALLERY_PROMPTS = [
    "a red boat by the sea",
    "a blue house at night",
    "a yellow flower in a meadow",
    "a purple butterfly on plain paper",
]

Out = Annotated[
    Path | None,
    typer.Option(
        help="File to write: .png, .jpg or .webp. Several candidates become OUT-1.png and so on, the best first.",
        show_default="impasto-SEED.png",
    ),
]
Previews = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for previews: preview-005.png and so on.")]
PreviewEvery = Annotated[
    int | None, typer.Option(min=1, help="With --previews: steps from one to the next.", show_default="5")
]


@with_options(TABLE)
def generate(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to paint.")],
    said: Mapping[str, Any],
    out: Out = None,
    previews: Previews = None,
    preview_every: PreviewEvery = None,
    as_json: arg.AsJson = False,
    local: arg.Local = False,
    bundle: arg.Bundle = Path(".impasto/bundle"),
    url: arg.Url = DEFAULT_URL,
    timeout: arg.Timeout = DEFAULT_TIMEOUT_S,
    metadata: arg.Metadata = True,
) -> None:
    """Ask a server for a picture. The server chooses what you leave out.

    A terminal shows the steps as they are done. Ctrl-C cancels the request.
    """
    server = Server(ctx, url, timeout, bundle if local else None)
    _paint(
        server, prompt, options_of(said, TABLE), Writing(out, metadata), Showing.of(previews, preview_every), as_json
    )


@with_options(TABLE, FINER)
def upscale(
    ctx: typer.Context,
    *,
    picture: Annotated[
        Path,
        typer.Argument(
            metavar="PICTURE",
            exists=True,
            dir_okay=False,
            help="PNG, JPEG or WebP, of the first stage's size.",
        ),
    ],
    prompt: Annotated[str, typer.Option(help="What it shows.")],
    said: Mapping[str, Any],
    out: Out = None,
    previews: Previews = None,
    preview_every: PreviewEvery = None,
    as_json: arg.AsJson = False,
    local: arg.Local = False,
    bundle: arg.Bundle = Path(".impasto/bundle"),
    url: arg.Url = DEFAULT_URL,
    timeout: arg.Timeout = DEFAULT_TIMEOUT_S,
    metadata: arg.Metadata = True,
) -> None:
    """Ask a server whose backbone has two stages to paint a small picture larger and finer, with the second stage.

    A terminal shows the steps as they are done. Ctrl-C cancels the request.
    """
    server = Server(ctx, url, timeout, bundle if local else None)
    options: Options = {**options_of(said, TABLE), "base_image": picture}
    _paint(server, prompt, options, Writing(out, metadata), Showing.of(previews, preview_every), as_json)


@with_options(TABLE, SHARED)
def gallery(
    ctx: typer.Context,
    *,
    prompts: Annotated[
        list[str], typer.Option("--prompt", help="A row; may be repeated.", show_default="four of ours")
    ] = GALLERY_PROMPTS,
    words: Annotated[
        str, typer.Option(help="Added to the prompt of each style's column; {style} is its name in words.")
    ] = "in {style} style",
    said: Mapping[str, Any],
    seed: Annotated[int, typer.Option(help="Seed of the first row; each next row's is one more.")] = 7,
    title: Annotated[str, typer.Option(help="Heading of the sheet.")] = "impasto",
    out: Annotated[Path, typer.Option(help="File to write: .png, .jpg or .webp.")] = Path("gallery.png"),
    as_json: arg.AsJson = False,
    url: arg.Url = DEFAULT_URL,
    timeout: arg.Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Paint every prompt in every style, on one sheet: a row for each prompt, a column without style and one for each.

    Along a row the seed stays the same.
    """
    format_of(out)
    options = options_of(said, TABLE)
    weights = weights_of(said.get("adapters", []))
    options.pop("adapters", None)
    columns = [Column("no style"), *(Column.of(name, weight, words) for name, weight in weights.items())]
    cells = cells_of(prompts, columns, seed, options)
    console = Console(stderr=True, highlight=False)
    with reported(console), connected(ctx, url, timeout) as client, counting(console) as bar:
        task = bar.add_task("painting", total=len(prompts) * len(columns))
        pictures = paint(client, cells, lambda: bar.advance(task))
    rows = [Row(prompt, (f"seed {row[0].seed}",)) for prompt, row in zip(prompts, pictures, strict=True)]
    with reported(console):
        draw(Sheet(title, rows, [column.label for column in columns], pictures)).save(out)
    warnings = dict.fromkeys(warning for row in pictures for cell in row for warning in cell.warnings)
    print_warnings(console, list(warnings))
    typer.echo(json.dumps({"out": str(out), "warnings": list(warnings)}) if as_json else str(out))


def score(
    ctx: typer.Context,
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", exists=True, dir_okay=False)],
    text: Annotated[str | None, typer.Option(help="Score how well each picture shows this.")] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Score how near each is to this one."),
    ] = None,
    as_json: arg.AsJson = False,
    url: arg.Url = DEFAULT_URL,
    timeout: arg.Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Ask a server with a scorer how well pictures match a text or a picture; the best first."""
    if (text is None) is (reference is None):
        raise typer.BadParameter("give one of the two", param_hint="--text, --reference")
    with reported(Console(stderr=True, highlight=False)), connected(ctx, url, timeout) as client:
        scores = client.score(pictures, text=text, reference=reference)
    ranked = sorted(zip(pictures, scores, strict=True), key=lambda pair: -pair[1])
    if as_json:
        typer.echo(json.dumps([{"picture": str(picture), "score": score} for picture, score in ranked], indent=2))
    else:
        Console(highlight=False).print(_table(ranked))


@dataclass(frozen=True)
class Server:
    """The server to ask; with a `bundle`, this process paints instead."""

    ctx: typer.Context
    url: str
    timeout: float
    bundle: Path | None


@dataclass(frozen=True)
class Showing:
    """The folder for previews (None for none), and the steps from one to the next."""

    folder: Path | None
    every: int

    @classmethod
    def of(cls, folder: Path | None, every: int | None) -> Showing:
        """From the options. Raises typer.BadParameter."""
        if every is not None and folder is None:
            raise typer.BadParameter("give their folder with --previews", param_hint="--preview-every")
        return cls(folder, 0 if folder is None else every or PREVIEW_EVERY)


@dataclass(frozen=True)
class Writing:
    """The file to write, None for one named after its seed; and whether files say how they were painted."""

    out: Path | None
    metadata: bool

    def files(self, prompt: str, options: Options, generation: Generation) -> list[tuple[Path, Candidate]]:
        """Write every candidate. Raises OSError, and MarkError for a prompt too long for the format."""

        def file(candidate: Candidate) -> bytes:
            if not self.metadata:
                return candidate.data
            return marked(candidate.data, Mark.of(prompt, options, generation, candidate.seed))

        return written(generation, self.out, file)


def _paint(server: Server, prompt: str, options: Options, writing: Writing, showing: Showing, as_json: bool) -> None:
    """Send the request, write the files, and print what was written."""
    if writing.out is not None:
        options["format"] = format_of(writing.out)
    console = Console(stderr=True, highlight=False)
    with reported(console), connected(server.ctx, server.url, server.timeout, server.bundle) as client:
        if showing.folder is not None:
            showing.folder.mkdir(parents=True, exist_ok=True)
        parts = client.stream(prompt, preview_every=showing.every, **options)
        with closing(parts):
            generation = follow(parts, console, showing.folder)
    with reported(console):
        files = writing.files(prompt, options, generation)
    print_warnings(console, generation.warnings)
    if as_json:
        typer.echo(json.dumps(_document(files, generation), indent=2))
    else:
        typer.echo("\n".join(_line(path, candidate, generation) for path, candidate in files))


def _table(ranked: Sequence[tuple[Path, float]]) -> Table:
    table = Table("score", "picture", box=None)
    for picture, score in ranked:
        table.add_row(f"{score:.3f}", escape(str(picture)))
    return table


def _line(path: Path, candidate: Candidate, generation: Generation) -> str:
    """The printed line of a candidate; the time is that of all candidates."""
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
