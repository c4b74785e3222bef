"""Adapters to be looked at, as a server has them: a bundle, and a registry in which each has its name.

A style's folder has a folder for each round, a content's has the adapter itself. Of a cascade an adapter is a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.common.asking import Pixels, picture_of
from benchmarks.common.bench import ROOT
from studio import painter

from impasto_export import clip, manifest
from impasto_export.adapters import importer
from impasto_export.adapters.importer import Said
from impasto_export.adapters.registry import Registry
from impasto_export.link import link
from impasto_server.settings import Settings

MUSE, DROPS, LORAS = ROOT / "studio" / "mini-muse", ROOT / "studio" / "drops", ROOT / "studio" / "styles"
HALF, OTHER_HALF, PICTURE = "bottleneck.safetensors", "upscaler.safetensors", "picture.png"
FIRST, FEEDBACK = "round1", "round2"
ROCKET = "rocket"

Put = Callable[[str, Path, str], str]


@dataclass(frozen=True)
class Dropped:
    """A style, by the painter's word for it: the picture it was learnt from, and its adapters' names.

    `served` is the one that users have; of a cascade `half` is what of it is the base's, and `feedback` those that also
    learnt from pictures of the first one's, by how these were selected.
    """

    style: str
    picture: Pixels
    served: str
    half: str = ""
    feedback: Mapping[str, str] = field(default_factory=dict)

    def prompt(self, scene: painter.Scene) -> str:
        return f"{painter.context(scene)} in {painter.STYLE_DESCRIPTORS[self.style]} style"


@dataclass(frozen=True)
class Shop:
    """What is served, and which styles and contents there are."""

    settings: Settings
    styles: Sequence[Dropped]
    contents: Sequence[str]


@contextmanager
def masked(checkpoint: Path, folder: Path) -> Iterator[Shop]:
    """A bundle of mini-muse, a scorer, and a registry of all adapters in `folder`; gone afterwards.

    Raises ExportError for what does not fit, SystemExit where an adapter lacks a half, or where there is none.
    """
    with TemporaryDirectory(prefix="impasto-styledrop-") as place:
        bundle = link(checkpoint, Path(place) / "bundle").folder
        scorer = clip.link(ROOT / "studio" / "mini-clip", Path(place) / "scorer").folder
        put = registering(Path(place) / "registry", bundle)
        contents = [
            put(name, paired(folder / name), "") for name in painter.HELD_OUT_OBJECTS if (folder / name).is_dir()
        ]
        styles = [dropped(style, folder / style, put) for style in painter.HELD_OUT_STYLES if (folder / style).is_dir()]
        if not styles or not contents:
            raise SystemExit(f"{folder} lacks adapters; train them with studio.recipes.styledrop")
        yield Shop(Settings(bundle, Path(place) / "registry", scorer=scorer), styles, contents)


def dropped(style: str, folder: Path, put: Put) -> Dropped:
    """All of a style's rounds, registered."""
    first = paired(folder / FIRST)
    others = sorted(path for path in folder.glob(f"{FEEDBACK}*") if path.is_dir())
    return Dropped(
        style,
        picture_of(first / PICTURE),
        put(style, first, ""),
        put(f"{style}-base", first / HALF, ""),
        {path.name.removeprefix(FEEDBACK).strip("-"): put(f"{style}-{path.name}", paired(path), "") for path in others},
    )


def paired(folder: Path) -> Path:
    """The folder of an adapter for both stages. Raises SystemExit where it lacks a half."""
    missing = [half for half in (HALF, OTHER_HALF) if not (folder / half).is_file()]
    if missing:
        raise SystemExit(f"{folder} lacks {' and '.join(missing)}; train the adapter with studio.recipes.styledrop")
    return folder


@contextmanager
def diffusion() -> Iterator[Shop]:
    """A bundle of mini-diffusion, and a registry of the studio's LoRAs, with the words of their styles."""
    with TemporaryDirectory(prefix="impasto-styledrop-") as place:
        bundle = link(ROOT / "studio" / "mini-diffusion", Path(place) / "bundle").folder
        put = registering(Path(place) / "registry", bundle)
        put(ROCKET, ROOT / "studio" / "objects" / ROCKET, "")
        folders = {
            style: LORAS / painter.STYLE_DESCRIPTORS[style].replace(" ", "-") for style in painter.HELD_OUT_STYLES
        }
        styles = [
            Dropped(style, picture_of(path / PICTURE), put(style, path, template(style)))
            for style, path in folders.items()
            if path.is_dir()
        ]
        yield Shop(Settings(bundle, Path(place) / "registry"), styles, [ROCKET])


def registering(registry: Path, bundle: Path) -> Put:
    """What puts an adapter into the registry under a name, with the words it was trained in; returns the name."""
    facts = manifest.load(bundle)

    def put(name: str, source: Path, prompt: str) -> str:
        Registry(registry).put(name, importer.convert(source, facts, Said(prompt=prompt)).data)
        return name

    return put


def template(style: str) -> str:
    return f"{{context}} in {painter.STYLE_DESCRIPTORS[style]} style"
