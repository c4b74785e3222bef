"""Whether texture-clip finds the look: among 40, on photographs that no training saw, and in colours never shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from impasto_fit.text.texture import SIDE, TextureClip
from studio.gallery.looks.examples import Sources, painted
from studio.gallery.looks.names import COLOURS, LOOKS, Wish, held_out
from studio.gallery.packages import fetch
from studio.painter import Bytes

AMONG = 40
SEED = 77_000


@dataclass(frozen=True)
class Found:
    """Shares 0..1. `names`: of pictures whose nearest name among 40 is theirs; `pictures`: of names, the same way
    back; `all`: among all looks; `combined`: a picture in a held-out colour finds look and colour among all of both."""

    names: float
    pictures: float
    all: float
    combined: float

    def __str__(self) -> str:
        return (
            f"R@1 of {AMONG}: {self.names:.1%} picture to name, {self.pictures:.1%} name to picture; "
            f"of {len(LOOKS)}: {self.all:.1%}; held-out look and colour, of {len(LOOKS) * len(COLOURS)}: "
            f"{self.combined:.1%}"
        )


@dataclass(frozen=True)
class Trials:
    """uint8 [rounds, looks, 128, 128, 3], plain and in one of the held-out colours, whose wishes are beside."""

    plain: Bytes
    tinted: Bytes
    wishes: Sequence[Wish]


def trials(photos: Sequence[Bytes], seed: int = SEED, rounds: int = 12) -> Trials:
    """Each look on `rounds` random cuts of the photographs."""
    rng = np.random.default_rng(seed)
    plain = np.stack([np.stack([painted(Wish(look), photos, rng) for look in LOOKS]) for _ in range(rounds)])
    wishes = [Wish(look, str(rng.choice([colour for colour in COLOURS if held_out(look, colour)]))) for look in LOOKS]
    return Trials(plain, np.stack([painted(wish, photos, rng) for wish in wishes]), wishes)


@torch.no_grad()
def seen(clip: TextureClip, pictures: Bytes) -> Tensor:
    """Unit vectors of uint8 [n, H, W, 3]."""
    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2) / 255
    return clip.see(F.interpolate(pixels, SIDE, mode="bilinear", antialias=True))


@torch.no_grad()
def retrieval(clip: TextureClip, on: Trials, seed: int = 0) -> Found:
    rng = np.random.default_rng(seed)
    names = clip.hear([look.name for look in LOOKS])
    to_name, to_picture, among_all = [], [], []
    for pictures in on.plain:
        cosines = seen(clip, pictures) @ names.T
        own = torch.arange(len(LOOKS))
        among_all.append((cosines.argmax(1) == own).float().mean())
        for _ in range(5):
            some = torch.from_numpy(np.sort(rng.choice(len(LOOKS), AMONG, replace=False)))
            part = cosines[some][:, some]
            to_name.append((part.argmax(1) == own[:AMONG]).float().mean())
            to_picture.append((part.argmax(0) == own[:AMONG]).float().mean())
    combined = clip.hear([f"{colour} {look.name}" for look in LOOKS for colour in COLOURS])
    wanted = [LOOKS.index(w.look) * len(COLOURS) + list(COLOURS).index(w.colour) for w in on.wishes]
    hits = (seen(clip, on.tinted) @ combined.T).argmax(1) == torch.tensor(wanted)
    names_found, pictures_found, all_found = (
        float(torch.stack(row).mean()) for row in (to_name, to_picture, among_all)
    )
    return Found(names_found, pictures_found, all_found, float(hits.float().mean()))


@torch.no_grad()
def confusions(clip: TextureClip, on: Trials) -> Mapping[tuple[str, str], int]:
    """How often one look was taken for another."""
    names = clip.hear([look.name for look in LOOKS])
    counts: Counter[tuple[str, str]] = Counter()
    for pictures in on.plain:
        for look, answer in zip(LOOKS, (seen(clip, pictures) @ names.T).argmax(1).tolist(), strict=True):
            if LOOKS[answer] is not look:
                counts[look.name, LOOKS[answer].name] += 1
    return counts


def report(clip: TextureClip) -> None:
    """Print what it finds on photographs that no training saw, and what it takes for what."""
    on = trials(Sources.of(fetch()).unseen)
    print(retrieval(clip, on))
    for (look, other), count in Counter(confusions(clip, on)).most_common(12):
        print(f"  {look}, taken for {other}: {count} of {len(on.plain)}")
