"""Command-line options for photos, and their conversion to a client's options. Wrong usage is typer.BadParameter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from impasto_client.options import PhotoOptions, PhotoStyle
from impasto_client.styles import Share

Style = Annotated[
    list[str] | None,
    typer.Option(
        "--style",
        metavar="NAME[:WEIGHT]",
        help="A style of the server's registry; several are mixed, with weights that add up to 1 at most.",
    ),
]
StyleImage = Annotated[
    list[str] | None,
    typer.Option("--style-image", metavar="FILE[:WEIGHT]", help="A picture whose style is taken; several are mixed."),
]
Strength = Annotated[float | None, typer.Option(help="How much of the style, 0 to 1.", show_default="1")]
Mask = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Where to paint: a grey picture, white is painted. Several, one for each style, are the styles' regions.",
    ),
]
Detail = Annotated[float | None, typer.Option(help="How fine the strokes are, 0.25 to 4.", show_default="1")]
PreserveColor = Annotated[
    bool, typer.Option("--preserve-color", help="Keep the photo's colours; only light and dark change.")
]
LongSide = Annotated[
    int | None, typer.Option(help="Pixels of the painting's longer side.", show_default="the photo's own")
]
Model = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which of the server's bundles paints.", show_default="the first")
]


@dataclass(frozen=True)
class Wish:
    """The styles for photos, and the other options; `label` names the styles in a file's name."""

    styles: Sequence[PhotoStyle | tuple[PhotoStyle, float]]
    options: PhotoOptions
    label: str


def wish_of(
    names: Sequence[str] | None, pictures: Sequence[str] | None, masks: Sequence[Path] | None, said: Mapping[str, Any]
) -> Wish:
    """The wish of these styles, pictures and masks. `said` are further options of a client; None is left out."""
    shares = shares_of(names, pictures)
    options = cast(PhotoOptions, {word: value for word, value in said.items() if value is not None})
    masks = masks or ()
    if len(masks) > 1:
        options["regions"] = _regions(shares, masks)
    elif masks:
        options["mask"] = masks[0]
    return Wish([] if len(masks) > 1 else styles_of(shares), options, label_of([one.style for one in shares]))


def shares_of(names: Sequence[str] | None, pictures: Sequence[str] | None) -> list[Share]:
    """The shares of NAME[:WEIGHT] and FILE[:WEIGHT], each style once."""
    shares = [*map(_named, names or ()), *map(_pictured, pictures or ())]
    styles = [one.style for one in shares]
    for place, style in enumerate(styles):
        if style in styles[:place]:
            raise typer.BadParameter(f"{str(style)!r} is named twice; name it once", param_hint="--style")
    return shares


def styles_of(shares: Sequence[Share]) -> list[PhotoStyle | tuple[PhotoStyle, float]]:
    """The styles as a client takes them, with weights where they were given."""
    return [one.style if one.weight is None else (one.style, one.weight) for one in shares]


def label_of(styles: Sequence[PhotoStyle]) -> str:
    """The styles as text, for people and for file names, e.g. starry+wave."""
    return "+".join(style.stem if isinstance(style, Path) else str(style) for style in styles)[:60] or "painted"


def _named(text: str) -> Share:
    name, colon, weight = text.partition(":")
    if not name:
        raise typer.BadParameter(f"{text!r} names no style; write NAME or NAME:0.6", param_hint="--style")
    return Share(name, _weight(text, weight, "--style") if colon else None)


def _pictured(text: str) -> Share:
    """The share of FILE[:WEIGHT]; a file's name may contain a colon, too."""
    file, colon, weight = text.rpartition(":")
    path, share = (Path(text), None) if not colon or Path(text).exists() else (Path(file), weight)
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {str(path)!r}; write FILE or FILE:0.6", param_hint="--style-image")
    return Share(path, None if share is None else _weight(text, share, "--style-image"))


def _weight(text: str, said: str, hint: str) -> float:
    try:
        weight = float(said)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise typer.BadParameter(f"{text!r}: {said!r} is not a weight; write e.g. 0.6", param_hint=hint)
    return weight


def _regions(
    shares: Sequence[Share], masks: Sequence[Path]
) -> list[tuple[PhotoStyle | tuple[PhotoStyle, float], Path]]:
    if len(masks) != len(shares):
        problem = f"{len(masks)} masks for {len(shares)} styles; give one mask, or one for each style"
        raise typer.BadParameter(problem, param_hint="--mask")
    return list(zip(styles_of(shares), masks, strict=True))
