"""What is said of photos on the command line, as a client takes it. Wrong usage is typer.BadParameter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from impasto_client.options import PhotoOptions, PhotoStyle

Share = tuple[PhotoStyle, float | None]

Style = Annotated[
    list[str] | None,
    typer.Option(
        "--style",
        metavar="NAME[:WEIGHT]",
        help="A style of the server's registry; several are mixed, by weights that add up to 1 at most.",
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
        help="Where to paint: a grey picture, white is painted. Of several, one for each style, each has its region.",
    ),
]
Detail = Annotated[float | None, typer.Option(help="How fine the strokes are, 0.25 to 4.", show_default="1")]
PreserveColor = Annotated[
    bool, typer.Option("--preserve-color", help="Keep the photo's colours; light and dark are the style's.")
]
LongSide = Annotated[
    int | None, typer.Option(help="Pixels of the painting's longer side.", show_default="the photo's own")
]
Model = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which of the server's bundles paints.", show_default="the first")
]


@dataclass(frozen=True)
class Wish:
    """The style of each photo, and all else that is said of it; `label` names it in a file's name."""

    styles: Sequence[PhotoStyle | tuple[PhotoStyle, float]]
    options: PhotoOptions
    label: str


def wish_of(
    names: Sequence[str] | None, pictures: Sequence[str] | None, masks: Sequence[Path] | None, said: Mapping[str, Any]
) -> Wish:
    """`said` are options of a client; what is None is left out."""
    shares = [*map(_named, names or ()), *map(_pictured, pictures or ())]
    _check_once([style for style, _ in shares])
    options = cast(PhotoOptions, {word: value for word, value in said.items() if value is not None})
    masks = masks or ()
    if len(masks) > 1:
        options["regions"] = _regions(shares, masks)
    elif masks:
        options["mask"] = masks[0]
    styles = [] if len(masks) > 1 else [style if weight is None else (style, weight) for style, weight in shares]
    return Wish(styles, options, _label([style for style, _ in shares]))


def _named(text: str) -> Share:
    name, colon, weight = text.partition(":")
    if not name:
        raise typer.BadParameter(f"{text!r} names no style; write NAME or NAME:0.6", param_hint="--style")
    return name, _weight(text, weight, "--style") if colon else None


def _pictured(text: str) -> Share:
    """A file's name may hold a colon, too."""
    file, colon, weight = text.rpartition(":")
    path, share = (Path(text), None) if not colon or Path(text).exists() else (Path(file), weight)
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {str(path)!r}; write FILE or FILE:0.6", param_hint="--style-image")
    return path, None if share is None else _weight(text, share, "--style-image")


def _weight(text: str, said: str, hint: str) -> float:
    try:
        weight = float(said)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise typer.BadParameter(f"{text!r}: {said!r} is no weight; write e.g. 0.6", param_hint=hint)
    return weight


def _check_once(styles: Sequence[PhotoStyle]) -> None:
    for place, style in enumerate(styles):
        if style in styles[:place]:
            raise typer.BadParameter(f"{str(style)!r} stands there twice; name it once", param_hint="--style")


def _regions(shares: Sequence[Share], masks: Sequence[Path]) -> list[tuple[PhotoStyle, Path]]:
    if len(masks) != len(shares):
        problem = f"{len(masks)} masks for {len(shares)} styles; give one in all, or one for each style"
        raise typer.BadParameter(problem, param_hint="--mask")
    weighted = next((style for style, weight in shares if weight is not None), None)
    if weighted is not None:
        fix = "leave the weight out: where it has a mask of its own, a style isn't mixed"
        raise typer.BadParameter(f"{str(weighted)!r} has a weight and a mask; {fix}", param_hint="--mask")
    return [(style, mask) for (style, _), mask in zip(shares, masks, strict=True)]


def _label(styles: Sequence[PhotoStyle]) -> str:
    """E.g. starry+wave."""
    return "+".join(style.stem if isinstance(style, Path) else str(style) for style in styles)[:60] or "painted"
