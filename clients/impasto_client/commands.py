"""`impasto generate` and `impasto gallery`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from impasto_client import arguments as arg
from impasto_client.bar import counting, follow
from impasto_client.client import DEFAULT_TIMEOUT_S, DEFAULT_URL, Client
from impasto_client.errors import ImpastoError
from impasto_client.gallery import Column, Settings, Sheet, draw, paint
from impasto_client.generation import Generation
from impasto_client.local import LocalTransport
from impasto_client.transport import Transport
from impasto_client.triton import GrpcTransport

PREVIEW_EVERY = 5
GALLERY_PROMPTS = [
    "a red boat by the sea",
    "a blue house at night",
    "a yellow flower in a meadow",
    "a purple butterfly on plain paper",
]


@dataclass(frozen=True)
class Connection:
    """How a command reaches a server, by its url; a test passes another as the context's `obj`."""

    open: Callable[[str], Transport]


def generate(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to paint.")],
    adapters: arg.Adapters = None,
    style: arg.Style = None,
    negative_prompt: arg.NegativePrompt = None,
    steps: arg.Steps = None,
    guidance_scale: arg.GuidanceScale = None,
    style_guidance: arg.StyleGuidance = None,
    content_guidance: arg.ContentGuidance = None,
    guidance_convention: arg.GuidanceConvention = None,
    scheduler: arg.Scheduler = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same picture.")] = None,
    width: arg.Pixels = None,
    height: arg.Pixels = None,
    image: arg.ImageFile = None,
    strength: arg.Strength = None,
    depth: arg.DepthFile = None,
    control_scale: arg.ControlScale = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write: .png, .jpg or .webp.", show_default="impasto-SEED.png")
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
    format = None if out is None else arg.format_of(out)
    named, weights = arg.style_of(style or []), arg.weights_of(adapters or [])
    guidance = arg.guidance_of(style_guidance, content_guidance, guidance_scale, guidance_convention)
    if preview_every is not None and previews is None:
        raise typer.BadParameter("say with --previews where they go", param_hint="--preview-every")
    console = Console(stderr=True, highlight=False)
    with _reported(console), _painter(ctx, url, timeout, bundle if local else None) as client:
        if previews is not None:
            previews.mkdir(parents=True, exist_ok=True)
        parts = client.stream(
            prompt,
            preview_every=0 if previews is None else preview_every or PREVIEW_EVERY,
            adapters=weights,
            style=named,
            negative_prompt=negative_prompt,
            steps=steps,
            guidance_scale=guidance_scale if guidance is None else None,
            guidance=guidance,
            scheduler=scheduler,
            seed=seed,
            width=width,
            height=height,
            format=format,
            image=image,
            strength=strength,
            depth=depth,
            control_scale=control_scale,
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
    adapters: arg.Adapters = None,
    words: Annotated[
        str, typer.Option(help="Added to the prompt where a style is on; {style} is its name in words.")
    ] = "in {style} style",
    negative_prompt: arg.NegativePrompt = None,
    steps: arg.Steps = None,
    guidance_scale: arg.GuidanceScale = None,
    scheduler: arg.Scheduler = None,
    seed: Annotated[int, typer.Option(help="Seed of the first row; each next row's is one more.")] = 7,
    title: Annotated[str, typer.Option(help="Heading of the sheet.")] = "impasto",
    out: Annotated[Path, typer.Option(help="File to write: .png, .jpg or .webp.")] = Path("gallery.png"),
    as_json: arg.AsJson = False,
    url: arg.Url = DEFAULT_URL,
    timeout: arg.Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Rows are prompts, columns are no style and then every style; along a row the seed stays the same."""
    arg.format_of(out)
    weights = arg.weights_of(adapters or [])
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
