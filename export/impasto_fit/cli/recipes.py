"""A command for each recipe, with the options that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Optional

import typer

from impasto_export.cli.printed import RegistryOption
from impasto_fit.cli.app import fit
from impasto_fit.cli.foreground import begin, place_of, registry_place
from impasto_fit.cli.options import (
    Batch,
    Bundle,
    Captions,
    Checkpoint,
    Clip,
    Contexts,
    Detach,
    Eyes,
    Jobs,
    Minutes,
    Name,
    Photo,
    Photos,
    Pictures,
    Rank,
    Rate,
    Replace,
    Seed,
    Sense,
    Steps,
    Style,
    Text,
)
from impasto_fit.jobs import kinds
from impasto_fit.jobs.kinds import KINDS
from impasto_fit.jobs.request import Constant, Request


def _said(**constants: Constant | None) -> dict[str, Constant]:
    """Those that were given."""
    return {name: value for name, value in constants.items() if value is not None}


def _uses(**places: str) -> dict[str, str]:
    return {role: place_of(where) for role, where in places.items() if where}


@fit.command()
def lora(
    picture: Pictures,
    bundle: Bundle,
    name: Name,
    checkpoint: Checkpoint = "",
    style: Style = "",
    context: Contexts = [],  # noqa: B006
    captioner: Captions = "",
    prior_prompt: Annotated[
        str, typer.Option("--prior-prompt", help="An object, no style: what kind of thing it is (DreamBooth).")
    ] = "",
    rank: Rank = None,
    rate: Rate = None,
    batch: Batch = None,
    steps: Steps = KINDS["lora"].steps,
    minutes: Minutes = None,
    seed: Seed = 0,
    registry: RegistryOption = None,
    replace: Replace = False,
    jobs: Jobs = None,
    detach: Detach = False,
) -> None:
    """A LoRA of a style, or of an object, on a diffusion or masked model."""
    alpha = None if rank is None else float(rank)
    request = Request(
        "lora",
        steps,
        minutes,
        seed,
        name,
        place_of(str(bundle)),
        registry_place(registry),
        replace,
        style,
        tuple(context),
        uses=_uses(checkpoint=checkpoint, captioner=captioner),
        constants=_said(rank=rank, alpha=alpha, rate=rate, batch=batch, prior_prompt=prior_prompt or None),
    )
    begin(request, {kinds.PICTURES: picture}, jobs, detach)


@fit.command()
def inversion(
    picture: Pictures,
    bundle: Bundle,
    name: Name,
    checkpoint: Checkpoint = "",
    style: Style = "",
    context: Contexts = [],  # noqa: B006
    captioner: Captions = "",
    stages: Annotated[int, typer.Option("--stages", min=1, help="Stages of the noise; 1: textual inversion.")] = 6,
    rate: Rate = None,
    batch: Batch = None,
    steps: Steps = KINDS["inversion"].steps,
    minutes: Minutes = None,
    seed: Seed = 0,
    registry: RegistryOption = None,
    replace: Replace = False,
    jobs: Jobs = None,
    detach: Detach = False,
) -> None:
    """A style as words, in stages of the noise (DreamStyler), on a diffusion model."""
    request = Request(
        "inversion",
        steps,
        minutes,
        seed,
        name,
        place_of(str(bundle)),
        registry_place(registry),
        replace,
        style,
        tuple(context),
        uses=_uses(checkpoint=checkpoint, captioner=captioner),
        constants=_said(stages=stages, rate=rate, batch=batch),
    )
    begin(request, {kinds.PICTURES: picture}, jobs, detach)


@fit.command()
def drop(
    picture: Pictures,
    bundle: Bundle,
    name: Name,
    checkpoint: Checkpoint = "",
    style: Style = "",
    context: Contexts = [],  # noqa: B006
    captioner: Captions = "",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Between two, somebody picks the good samples.")] = 1,
    sample: Annotated[
        list[str],
        typer.Option("--sample", help="What to paint between rounds, without the style; as often as there are."),
    ] = [],  # noqa: B006
    clip: Annotated[str, typer.Option("--clip", help="A CLIP that picks the ten best, in place of a person.")] = "",
    rank: Rank = None,
    rate: Rate = None,
    batch: Batch = None,
    steps: Steps = KINDS["drop"].steps,
    minutes: Minutes = None,
    seed: Seed = 0,
    registry: RegistryOption = None,
    replace: Replace = False,
    jobs: Jobs = None,
    detach: Detach = False,
) -> None:
    """A bottleneck adapter from one picture, in rounds (StyleDrop), on a masked model."""
    request = Request(
        "drop",
        steps,
        minutes,
        seed,
        name,
        place_of(str(bundle)),
        registry_place(registry),
        replace,
        style,
        tuple(context),
        uses=_uses(checkpoint=checkpoint, captioner=captioner, clip=clip),
        constants=_said(rank=rank, rate=rate, batch=batch),
        rounds=rounds,
        others=tuple(sample),
    )
    begin(request, {kinds.PICTURES: picture}, jobs, detach)


@fit.command()
def vector(
    picture: Pictures,
    photo: Photos,
    bundle: Bundle,
    name: Name,
    checkpoint: Checkpoint = "",
    eyes: Eyes = "",
    style: Style = "",
    through: Annotated[str, typer.Option("--through", help='"vector", γ and β; or "embedding".')] = "vector",
    crop: Annotated[Optional[int], typer.Option("--crop", min=16, help="Side of what is painted, px.")] = None,  # noqa: UP045
    rate: Rate = None,
    batch: Batch = None,
    steps: Steps = KINDS["vector"].steps,
    minutes: Minutes = None,
    seed: Seed = 0,
    registry: RegistryOption = None,
    replace: Replace = False,
    jobs: Jobs = None,
    detach: Detach = False,
) -> None:
    """A new style of a trained feed-forward net, which paints photographs."""
    request = Request(
        "vector",
        steps,
        minutes,
        seed,
        name,
        place_of(str(bundle)),
        registry_place(registry),
        replace,
        style,
        uses=_uses(checkpoint=checkpoint, eyes=eyes),
        constants=_said(through=through, crop=crop, rate=rate, batch=batch),
    )
    begin(request, {kinds.PICTURES: picture, kinds.PHOTOS: photo}, jobs, detach)


@fit.command()
def gatys(
    picture: Pictures,
    photo: Photo,
    eyes: Eyes = "",
    reading: Annotated[
        str, typer.Option("--reading", help='How VGG19 reads pictures: "torchvision", or "caffe" (0 to 255).')
    ] = "torchvision",
    of_paper: Annotated[
        bool, typer.Option("--of-paper", help="The paper's own constants, in place of neural-style's.")
    ] = False,
    steps: Steps = KINDS["gatys"].steps,
    minutes: Minutes = None,
    seed: Seed = 0,
    jobs: Jobs = None,
    detach: Detach = False,
) -> None:
    """A photograph in the style of pictures, by its pixels: a PNG, and no adapter."""
    constants = _said(reading=reading, of_paper=of_paper or None)
    request = Request("gatys", steps, minutes, seed, uses=_uses(eyes=eyes), constants=constants)
    begin(request, {kinds.PICTURES: picture, kinds.PHOTOS: photo}, jobs, detach)


@fit.command()
def clipstyler(
    text: Text,
    photo: Photos,
    clip: Clip = "",
    sense: Sense = "",
    side: Annotated[Optional[int], typer.Option("--side", help="Side that photographs are painted at, px.")] = None,  # noqa: UP045
    crop: Annotated[Optional[int], typer.Option("--crop", min=8, help="Side of a patch, px.")] = None,  # noqa: UP045
    crops: Annotated[Optional[int], typer.Option("--crops", min=1, help="Patches a step.")] = None,  # noqa: UP045
    rate: Rate = None,
    steps: Steps = KINDS["clipstyler"].steps,
    minutes: Minutes = None,
    seed: Seed = 0,
    jobs: Jobs = None,
    detach: Detach = False,
) -> None:
    """A net that paints as a text says (CLIPstyler): a file for `impasto link`, and no adapter."""
    request = Request(
        "clipstyler",
        steps,
        minutes,
        seed,
        style=text,
        uses=_uses(clip=clip, sense=sense),
        constants=_said(side=side, crop=crop, crops=crops, rate=rate),
    )
    begin(request, {kinds.PHOTOS: photo}, jobs, detach)


@fit.command("clipstyler-fast")
def clipstyler_fast(
    text: Text,
    photo: Photos,
    bundle: Bundle,
    name: Name,
    checkpoint: Checkpoint = "",
    encoder: Annotated[str, typer.Option("--encoder", help="vgg_normalised's file, beside the decoder's.")] = "",
    clip: Clip = "",
    sense: Sense = "",
    rate: Rate = None,
    batch: Batch = None,
    steps: Steps = KINDS["clipstyler-fast"].steps,
    minutes: Minutes = None,
    seed: Seed = 0,
    registry: RegistryOption = None,
    replace: Replace = False,
    jobs: Jobs = None,
    detach: Detach = False,
) -> None:
    """A decoder that paints as a text says, over a fixed encoder; --checkpoint is the decoder to start from."""
    request = Request(
        "clipstyler-fast",
        steps,
        minutes,
        seed,
        name,
        place_of(str(bundle)),
        registry_place(registry),
        replace,
        text,
        uses=_uses(checkpoint=checkpoint, encoder=encoder, clip=clip, sense=sense),
        constants=_said(rate=rate, batch=batch),
    )
    begin(request, {kinds.PHOTOS: photo}, jobs, detach)


@fit.command()
def styletransferclip(
    text: Text,
    photo: Photos,
    painting: Annotated[
        list[Path],
        typer.Option("--painting", help="Paintings, or a folder of such: styles that are usual; at least two."),
    ],
    bundle: Bundle,
    name: Name,
    checkpoint: Checkpoint = "",
    clip: Clip = "",
    start: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--start", help="A picture whose style it begins as; default: the paintings' mean."),
    ] = None,
    side: Annotated[Optional[int], typer.Option("--side", help="Side of what is painted, px.")] = None,  # noqa: UP045
    rate: Rate = None,
    batch: Batch = None,
    steps: Steps = KINDS["styletransferclip"].steps,
    minutes: Minutes = None,
    seed: Seed = 0,
    registry: RegistryOption = None,
    replace: Replace = False,
    jobs: Jobs = None,
    detach: Detach = False,
) -> None:
    """An embedding that paints as a text says, on a net that takes any style as one."""
    request = Request(
        "styletransferclip",
        steps,
        minutes,
        seed,
        name,
        place_of(str(bundle)),
        registry_place(registry),
        replace,
        text,
        uses=_uses(checkpoint=checkpoint, clip=clip),
        constants=_said(side=side, rate=rate, batch=batch),
    )
    files: dict[str, Sequence[Path]] = {kinds.PHOTOS: photo, kinds.PAINTINGS: painting}
    begin(request, {**files, **({kinds.START: [start]} if start else {})}, jobs, detach)
