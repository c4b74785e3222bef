"""The command `impasto link`: make a bundle from a checkpoint, a CLIPModel or a feed-forward net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from impasto_export import clip, manifest, progress
from impasto_export import link as linking
from impasto_export.bundles import Linked
from impasto_export.checkpoints.checkpoint import Said, size_of
from impasto_export.checkpoints.control import Control
from impasto_export.cli.printed import AsJson, reported, show
from impasto_export.errors import CheckpointError, ControlError
from impasto_export.feedforward import found
from impasto_export.feedforward import link as feedforward
from impasto_export.feedforward.found import PADDINGS
from impasto_export.files import Progress


def link(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A folder in the diffusers layout, a .safetensors file in the original one, or OWNER/REPO[@REVISION] "
            "of the hub; a CLIPModel's folder or repository, for a scorer; or a feed-forward net's file."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the bundle.")],
    graphs: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--graphs", help="Folder with skeletons, searched before the shipped ones; repeatable."),
    ] = None,
    variant: Annotated[str, typer.Option("--variant", help="Read *.VARIANT.safetensors, e.g. fp16.")] = "",
    prediction: Annotated[
        str,
        typer.Option("--prediction", help="What a single file's UNet predicts: epsilon or v_prediction (SD 2.x)."),
    ] = "",
    spacing: Annotated[
        str,
        typer.Option("--spacing", help="A single file's timesteps: leading, linspace or trailing (Turbo)."),
    ] = "",
    tokenizer: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--tokenizer",
            exists=True,
            file_okay=False,
            help="Folder to take the tokenizer from: its own, or a whole checkpoint's.",
        ),
    ] = None,
    scheduler: Annotated[
        str, typer.Option("--scheduler", help=f"A request's default: {', '.join(manifest.SAMPLERS)}.")
    ] = "",
    steps: Annotated[Optional[int], typer.Option("--steps", min=1, max=200, help="A request's default.")] = None,  # noqa: UP045
    guidance_scale: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--guidance-scale", min=0.0, max=50.0, help="A request's default."),
    ] = None,
    size: Annotated[
        str, typer.Option("--size", help="A request's default, WIDTHxHEIGHT; without it, the size of the training.")
    ] = "",
    controlnet: Annotated[
        str,
        typer.Option(
            "--controlnet",
            help="Add a ControlNet: a diffusers folder, a .safetensors of either layout, or OWNER/REPO.",
        ),
    ] = "",
    control: Annotated[
        str, typer.Option("--control", help="What the hint's three channels carry, e.g. edges,edges,depth.")
    ] = "",
    control_optional: Annotated[
        str, typer.Option("--control-optional", help="Which of these a request may leave out, e.g. depth.")
    ] = "",
    padding: Annotated[
        str,
        typer.Option(
            "--padding", help=f"A feed-forward net's padding, if its file doesn't tell: {', '.join(PADDINGS)}."
        ),
    ] = "",
    epsilon: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--epsilon", help="Epsilon of a feed-forward net's norms, if its file doesn't tell."),
    ] = None,
    input_scale: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--input-scale", help="A feed-forward net's value for white, if its file doesn't tell: 1 or 255."),
    ] = None,
    predictor: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--predictor", help="Magenta's net: the ONNX file that makes a style's embedding from a picture."),
    ] = None,
    norm: Annotated[
        str,
        typer.Option("--norm", help="Statistics of a feed-forward net's norms, for a port: instance or batch."),
    ] = "",
    encoder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--encoder", help="CLIPstyler's fast decoder: the encoder before it, vgg_normalised.pth."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Link a checkpoint of a known architecture into a bundle for `impasto serve --bundle`, or a CLIPModel into one for
    --scorer. It needs no torch, and hard-links what it can."""
    with reported():
        net = found.Said(padding or None, epsilon, input_scale, predictor, norm or None, encoder)
        stated = {"scheduler": scheduler or None, "steps": steps, "guidance_scale": guidance_scale}
        defaults = {key: value for key, value in stated.items() if value is not None}
        said = Said(variant or None, prediction or None, spacing or None, tokenizer, defaults, _sides(size))
        steering = _control(controlnet, control, control_optional)
        with progress.shown() as advance:
            made = _linked(checkpoint, out, graphs or (), said, steering, net, advance)
        how = "weights written" if made.made else "weights hard-linked"
        how = f"copied {', '.join(made.copied)}" if made.copied else how
        how = "unchanged" if made.reused else how
        notes = [f"note: {note}" for note in made.notes]
        show(as_json, asdict(made), f"{made.folder}: bundle {made.name} {made.digest[:12]}, {how}", *notes)


def _linked(
    checkpoint: str,
    out: Path,
    graphs: Sequence[Path],
    said: Said,
    steering: Control | None,
    net: found.Said,
    advance: Progress,
) -> Linked:
    """Link what `checkpoint` is: a feed-forward net, a CLIPModel, or else a checkpoint that paints from noise."""
    if feedforward.recognises(checkpoint):
        if steering or graphs or said != Said():
            only = ", ".join(found.OPTIONS)
            raise CheckpointError(f"{checkpoint} is a feed-forward net, which takes only {only}; leave the rest out")
        return feedforward.link(Path(checkpoint), out, net, advance)
    if net != found.NOTHING:
        raise CheckpointError(f"{', '.join(net.options)}: {checkpoint} is not a feed-forward net; leave it out")
    if not clip.recognises(checkpoint):
        return linking.link(checkpoint, out, graphs, said, steering, advance)
    if steering:
        raise ControlError(f"--controlnet: {checkpoint} is a CLIPModel, which paints nothing; leave it out")
    if said != Said(said.variant):
        raise CheckpointError(f"{checkpoint} is a CLIPModel, which takes only --variant; leave the rest out")
    return clip.link(checkpoint, out, graphs, said.variant, advance)


def _control(place: str, channels: str, optional: str) -> Control | None:
    if place:
        return Control(place, _split(channels), _split(optional))
    if channels or optional:
        raise ControlError("--control: no ControlNet was given; name its folder, file or repository with --controlnet")
    return None


def _sides(text: str) -> tuple[int, int] | None:
    found = size_of(text)
    if text and found is None:
        raise CheckpointError(f"--size: got {text!r}; WIDTHxHEIGHT in pixels is expected, such as 512x512")
    return found


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())
