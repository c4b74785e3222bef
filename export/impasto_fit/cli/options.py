"""Options that several commands have, and how errors are printed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Optional

import typer

from impasto_export.cli.printed import reported as told
from impasto_fit.errors import FitError
from impasto_fit.jobs.folder import ENVIRONMENT, Folder, default_place

Paths = list[Path]

Pictures = Annotated[
    Paths, typer.Option("--picture", help="A picture to learn from, or a folder of such; as often as there are.")
]
Photos = Annotated[Paths, typer.Option("--photo", help="A photograph to paint while it learns, or a folder of such.")]
Photo = Annotated[Paths, typer.Option("--photo", help="The photograph that gets the style.")]
Text = Annotated[str, typer.Option("--text", help="How pictures shall look.")]
Style = Annotated[str, typer.Option("--style", help="What prompts are to call the style.")]
Bundle = Annotated[Path, typer.Option("--bundle", help="Bundle that the style is for.")]
Name = Annotated[str, typer.Option("--name", help="Name that requests will use.")]
Replace = Annotated[bool, typer.Option("--replace", help="The name may be taken, and is then given the new style.")]
Checkpoint = Annotated[
    str, typer.Option("--checkpoint", help="What the bundle was linked from: it is trained on. Needed.")
]
Contexts = Annotated[
    list[str],
    typer.Option("--context", help="What a picture shows, without its style; one for each picture, in their order."),
]
Captions = Annotated[
    str, typer.Option("--captioner", help="A BLIP's folder or hub id, which says what the pictures show.")
]
Clip = Annotated[str, typer.Option("--clip", help="A CLIP's folder, state dict, open_clip's name or hub id.")]
Sense = Annotated[
    str,
    typer.Option(
        "--sense", help="VGG19's or SqueezeNet's file, which sees what a photo shows; \"clip\": texture-clip."
    ),
]
Eyes = Annotated[str, typer.Option("--eyes", help="VGG's or SqueezeNet's file, which sees the style. Needed.")]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Steps of training, of each part.")]
Minutes = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--minutes", help="Minutes of training, of each part; it ends with the steps or with these."),
]
Rate = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--rate", help="Learning rate; default: the paper's, for its large models. Small ones want more."),
]
Batch = Annotated[Optional[int], typer.Option("--batch", min=1, help="Examples a step; default: the paper's.")]  # noqa: UP045
Rank = Annotated[Optional[int], typer.Option("--rank", min=1, help="Width of what is trained; default: see docs.")]  # noqa: UP045
Seed = Annotated[int, typer.Option("--seed", help="Equal seeds give equal files, on one machine.")]
Jobs = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--jobs", help=f"Folder of the jobs; default ${ENVIRONMENT}, else ~/.local/share/impasto/jobs."),
]
Detach = Annotated[bool, typer.Option("--detach", help="Only put the job there; a worker takes it.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The job's id, or how it alone begins or ends.")]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Threads of a fit; 0: half of the cores.")]


def folder(jobs: Path | None) -> Folder:
    return Folder((jobs or default_place()).absolute())


@contextmanager
def reported() -> Iterator[None]:
    """Print errors that the user can act on to stderr, without a traceback; exit status 1."""
    with told():
        try:
            yield
        except FitError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None
