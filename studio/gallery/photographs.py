"""Photographs from packages: animals, buildings, landscapes, still lives; few people, who are rare in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from studio.gallery.resources import files
from studio.painter import Bytes

SHORT_SIDE = 640  # px; larger ones are shrunk to this
ACTIVITIES = {
    "erase": "*.webp",
    "explore_monuments": "*.webp",
    "explore_world_animals": "*.webp",
    "explore_farm_animals": "*.webp",
}
CASTLES = (
    "Chenonceau", "EgeskovSlotSpejling", "EilanDonanCastle", "FanoeWindmill", "GizahPyramids", "NDP", "Nagoya",
    "Neuschwanstein", "OperaSidney", "TajMahal", "TourEiffel", "TowerBridgeLondon",
)  # fmt: skip
LOMIRI = (
    "aitzgorri_by_Aitzol_Berasategi", "friends_by_Aitzol_Berasategi", "life_by_Aitzol_Berasategi",
    "picosdeeuropa_by_Aitzol_Berasategi", "sunset_by_Aitzol_Berasategi", "seeding_by_Clements_Engelhardt",
    "Dragonfly_by_Bolly", "Picture_0B_by_freespace", "Picture_1A_by_freespace", "Wine_by_Jakkub_Mede",
    "free_by_Peter_Nerlich", "Bridge_by_Sander_Klootwijk",
)  # fmt: skip
MATE = ("Garden", "Dune", "Aqua", "TwoWings", "Storm", "RainDrops", "FreshFlower", "LadyBird", "YellowFlower")
PLASMA = (
    "FallenLeaf/contents/images/2560x1600.jpg", "Path/contents/images/2560x1600.jpg",
    "Canopee/contents/images/3840x2160.png", "EveningGlow/contents/images/2560x1600.jpg",
    "BytheWater/contents/images/2560x1600.jpg", "summer_1am/contents/images/2560x1600.jpg",
    "OneStandsOut/contents/images/2560x1600.jpg", "Grey/contents/images/2560x1600.jpg",
)  # fmt: skip
SCIKIT = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")
HELD_OUT = (
    "astronaut", "chelsea", "coffee", "kingfisher", "red_panda", "Neuschwanstein", "montStMichel", "calf", "moose",
    "friends_by_Aitzol_Berasategi", "aitzgorri_by_Aitzol_Berasategi", "picosdeeuropa_by_Aitzol_Berasategi",
)  # fmt: skip
UNSUITED = ("navajo", "castillodeSanMarcos", "castleClinton")  # colourless, or seen from the air


def photographs(packages: Path) -> dict[str, Bytes]:
    """Name to uint8 [H, W, 3] with a short side of at most 640 px."""
    return {name: shrunk(path) for name, path in _paths(packages) if name not in UNSUITED}


def _paths(packages: Path) -> Iterator[tuple[str, Path]]:
    gcompris = packages / "gcompris-qt-data"
    for activity, pattern in ACTIVITIES.items():
        for path in files(gcompris, activity, pattern).values():
            if path.stat().st_size > 20_000:
                yield path.stem, path
    castles = files(gcompris, "details", "image/*_background.webp")
    yield from ((name, castles[f"{name}_background.webp"]) for name in CASTLES)
    lomiri = [
        path for release in ("16.04", "20.04") for path in (packages / f"lomiri-wallpapers-{release}").rglob("*.jpg")
    ]
    yield from ((path.stem, path) for path in sorted(lomiri) if path.stem in LOMIRI)
    mate = packages / "mate-backgrounds/usr/share/backgrounds/mate/nature"
    yield from ((name, mate / f"{name}.jpg") for name in MATE)
    plasma = packages / "plasma-workspace-wallpapers/usr/share/wallpapers"
    yield from ((name.partition("/")[0], plasma / name) for name in PLASMA)
    scikit = packages / "scikit_image/skimage/data"
    yield from ((name.partition(".")[0], scikit / name) for name in SCIKIT)


def shrunk(path: Path) -> Bytes:
    """RGB, at most 640 px on the short side."""
    opened = Image.open(path)
    opened.draft("RGB", (SHORT_SIDE, SHORT_SIDE))
    picture = opened.convert("RGB")
    scale = min(1.0, SHORT_SIDE / min(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
