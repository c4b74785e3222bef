"""`impasto generate` and `impasto gallery`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from impasto_client.bar import counting, follow
from impasto_client.client import DEFAULT_TIMEOUT_S, DEFAULT_URL, Client
from impasto_client.errors import ImpastoError
from impasto_client.gallery import Column, Settings, Sheet, draw, paint
from impasto_client.generation import Generation
from impasto_client.local import LocalTransport
from impasto_client.transport import Transport
from impasto_client.triton import GrpcTransport

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
PREVIEW_EVERY = 5
GALLERY_PROMPTS = [
    "a red boat by the sea",
    "a blue house at night",
    "a yellow flower in a meadow",
    "a purple fish on plain paper",
]


@dataclass(frozen=True)
class Connection:
    """How a command reaches a server, by its url; a test passes another as the context's `obj`."""

    open: Callable[[str], Transport]


Local = Annotated[bool, typer.Option("--local", help="Paint in this process, without a server.")]
Bundle = Annotated[Path, typer.Option(envvar="IMPASTO_BUNDLE", help="With --local: what `impasto link` made.")]
Url = Annotated[str, typer.Option(envvar="IMPASTO_URL", help="Server's gRPC endpoint, host:port.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds to wait for a picture.")]
Styles = Annotated[
    list[str] | None,
    typer.Option("--style", metavar="NAME[:WEIGHT]", help="A style of the server's registry; may be repeated."),
]
NegativePrompt = Annotated[str, typer.Option(help="What the picture should not show.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
GuidanceScale = Annotated[float | None, typer.Option(help="How strongly the prompt counts.")]
Scheduler = Annotated[str | None, typer.Option(help="ddim, dpmpp_2m or euler.")]
Pixels = Annotated[int | None, typer.Option(help="Pixels.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def generate(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to paint.")],
    styles: Styles = None,
    negative_prompt: NegativePrompt = "",
    steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    scheduler: Scheduler = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same picture.")] = None,
    width: Pixels = None,
    height: Pixels = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write: .png, .jpg or .webp.", show_default="impasto-SEED.png")
    ] = None,
    previews: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for previews on the way: preview-005.png and so on.")
    ] = None,
    preview_every: Annotated[
        int | None, typer.Option(min=1, help="With --previews: steps from one to the next.", show_default="5")
    ] = None,
    as_json: AsJson = False,
    local: Local = False,
    bundle: Bundle = Path(".impasto/bundle"),
    url: Url = DEFAULT_URL,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Ask a server for a picture. What is not said is the server's to choose.

    A terminal shows the steps while they are done. Ctrl-C cancels the request.
    """
    format = None if out is None else _format(out)
    if preview_every is not None and previews is None:
        raise typer.BadParameter("say with --previews where they go", param_hint="--preview-every")
    console = Console(stderr=True, highlight=False)
    with _reported(console), _painter(ctx, url, timeout, bundle if local else None) as client:
        if previews is not None:
            previews.mkdir(parents=True, exist_ok=True)
        parts = client.stream(
            prompt,
            preview_every=0 if previews is None else preview_every or PREVIEW_EVERY,
            styles=_weights(styles or []),
            negative_prompt=negative_prompt,
            steps=steps,
            guidance_scale=guidance_scale,
            scheduler=scheduler,
            seed=seed,
            width=width,
            height=height,
            format=format,
        )
        with closing(parts):
            generation = follow(parts, console, previews)
    path = out or Path(f"impasto-{generation.seed}.png")
    with _reported(console):
        path.write_bytes(generation.data)
    _print_warnings(console, generation.warnings)
    if as_json:
        typer.echo(json.dumps(_document(path, generation), indent=2))
    else:
        typer.echo(f"{path}  seed {generation.seed}, {generation.timings.total_ms:.0f} ms")


def gallery(
    ctx: typer.Context,
    prompts: Annotated[
        list[str], typer.Option("--prompt", help="A row; may be repeated.", show_default="four of ours")
    ] = GALLERY_PROMPTS,
    styles: Styles = None,
    words: Annotated[
        str, typer.Option(help="Added to the prompt where a style is on; {style} is its name in words.")
    ] = "in {style} style",
    negative_prompt: NegativePrompt = "",
    steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    scheduler: Scheduler = None,
    seed: Annotated[int, typer.Option(help="Seed of the first row; each next row's is one more.")] = 7,
    title: Annotated[str, typer.Option(help="Heading of the sheet.")] = "impasto",
    out: Annotated[Path, typer.Option(help="File to write: .png, .jpg or .webp.")] = Path("gallery.png"),
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Rows are prompts, columns are no style and then every style; along a row the seed stays the same."""
    _format(out)
    weights = _weights(styles or [])
    columns = [Column("no style"), *(Column.of(name, weight, words) for name, weight in weights.items())]
    settings = Settings(seed, steps, guidance_scale, scheduler, negative_prompt)
    console = Console(stderr=True, highlight=False)
    with _reported(console), _painter(ctx, url, timeout) as client, counting(console) as bar:
        task = bar.add_task("painting", total=len(prompts) * len(columns))
        rows = paint(client, prompts, columns, settings, lambda: bar.advance(task))
    with _reported(console):
        draw(Sheet(title, prompts, columns, rows)).save(out)
    warnings = dict.fromkeys(warning for row in rows for cell in row for warning in cell.warnings)
    _print_warnings(console, list(warnings))
    typer.echo(json.dumps({"out": str(out), "warnings": list(warnings)}) if as_json else str(out))


def _painter(ctx: typer.Context, url: str, timeout: float, bundle: Path | None = None) -> Client:
    """A client of the server at `url`, or, given a bundle, of this very process. Raises ServerError."""
    connection = ctx.find_object(Connection) or Connection(GrpcTransport)
    transport = connection.open(url) if bundle is None else LocalTransport(bundle)
    return Client(transport=transport, timeout=timeout)


def _weights(styles: Sequence[str]) -> dict[str, float]:
    """NAME[:WEIGHT], each name once."""
    weights: dict[str, float] = {}
    for style in styles:
        name, colon, weight = style.partition(":")
        if name in weights:
            raise typer.BadParameter(f"{name!r} stands there twice; name it once", param_hint="--style")
        weights[name] = _weight(style, weight) if colon else 1.0
    return weights


def _weight(style: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise typer.BadParameter(f"{style!r}: {text!r} is no weight; write e.g. NAME:0.9", param_hint="--style")
    return weight


def _format(path: Path) -> str:
    """The format of a file by its name, before anything is painted in vain."""
    if path.suffix.lower() not in FORMATS:
        raise typer.BadParameter(f"{path.name!r} does not end in {', '.join(FORMATS)}", param_hint="--out")
    if not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}", param_hint="--out")
    return FORMATS[path.suffix.lower()]


@contextmanager
def _reported(console: Console) -> Iterator[None]:
    """An error of the server's or the file system's becomes one line and exit status 1."""
    try:
        yield
    except (ImpastoError, OSError) as error:
        console.print(f"[bold red]error[/]  {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None


def _print_warnings(console: Console, warnings: Sequence[str]) -> None:
    for warning in warnings:
        console.print(f"[yellow]warning[/]  {escape(warning)}", soft_wrap=True)


def _document(path: Path, generation: Generation) -> dict[str, object]:
    return {
        "out": str(path),
        "seed": generation.seed,
        "timings": asdict(generation.timings),
        "warnings": list(generation.warnings),
        "meta": dict(generation.meta),
    }
