"""What is asked of a server about styles and contents, and what the judge reads in the answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from benchmarks.common import sheets
from benchmarks.common.asking import Asker, Pixels, Report, Samples, Wish, joined, png, readings, with_all
from benchmarks.common.sheets import Axis
from benchmarks.parts.styledrop.adapters import Dropped, Shop
from PIL import Image
from studio import painter
from studio.painter import Scene
from studio.reading.judge import Judge

from impasto_client import Compose, Options, StyleDrop

STEPS, UPSCALE_STEPS, TEMPERATURE = 18, 12, 4.5
# λA and λB of the base, chosen on other scenes: the paper's 2 and 5 overdrive a model this small.
STYLE_STRENGTH, TEXT_STRENGTH = 0.5, 2.0
STYLE_STRENGTHS = (0.0, 0.5, 1.0, 2.0)
CANDIDATES = 4
SCENE_SEED, CONTENT_SEED, FIRST_SEED = 20_005, 20_006, 3_000
SCORED_AT_ONCE = 32
SIDE = 256  # pixels of a picture on a sheet
TOGETHER = "together"

Rows = Mapping[str, Mapping[str, Samples]]


class Method(NamedTuple):
    """How a style is painted: by which adapter, None for words alone, in how many steps of the second stage."""

    title: str
    adapter: str | None
    upscale_steps: int


def methods(dropped: Dropped) -> list[Method]:
    """From words to all that an adapter can have."""
    return [
        Method("in words", None, UPSCALE_STEPS),
        Method("base alone", dropped.half, 0),
        Method("+ second stage", dropped.half, UPSCALE_STEPS),
        Method("+ its adapter", dropped.served, UPSCALE_STEPS),
        *(Method(f"+ feedback {how}".strip(), name, UPSCALE_STEPS) for how, name in dropped.feedback.items()),
    ]


@dataclass(frozen=True)
class Looking:
    """`count` scenes of each style and method, `composed` of each style, content and γ."""

    asker: Asker
    judge: Judge
    shop: Shop
    count: int
    composed: int

    def stages(self) -> tuple[Report, Image.Image]:
        """What each part of the cascade brings to a style; and a sheet of the first scene."""
        scenes = painter.unseen_scenes(self.count, SCENE_SEED)
        rows: dict[str, dict[str, Samples]] = {}
        shown: dict[str, dict[str, Pixels]] = {}
        for dropped in self.shop.styles:
            rows[dropped.style], shown[dropped.style] = {}, {"style": dropped.picture}
            for method in methods(dropped):
                wishes = [_wish(dropped, method, scene, i) for i, scene in enumerate(scenes)]
                pictures = self.asker.ask(f"{dropped.style}, {method.title}", wishes)
                rows[dropped.style][method.title] = self._read(dropped, pictures, scenes)
                shown[dropped.style][method.title] = pictures[0]
        return with_all(rows), _sheet(shown, "style", painter.context(scenes[0]))

    def strengths(self) -> tuple[Report, Image.Image]:
        """λA of the base from 0 up: style against text."""
        scenes = painter.unseen_scenes(self.count, SCENE_SEED)
        rows: dict[str, dict[str, Samples]] = {}
        shown: dict[str, dict[str, Pixels]] = {}
        for dropped in self.shop.styles:
            rows[dropped.style], shown[dropped.style] = {}, {}
            for strength in STYLE_STRENGTHS:
                options = decoded(style=dropped.served, guidance=StyleDrop(strength, TEXT_STRENGTH))
                wishes = [Wish(painter.context(scene), seeded(options, i)) for i, scene in enumerate(scenes)]
                pictures = self.asker.ask(f"{dropped.style}, λA {strength:g}", wishes)
                rows[dropped.style][f"{strength:g}"] = self._read(dropped, pictures, scenes)
                shown[dropped.style][f"{strength:g}"] = pictures[0]
        return with_all(rows), _sheet(shown, "style", f"style strength: {painter.context(scenes[0])}")

    def composition(
        self, plain: Options, strength: float, gammas: Sequence[float]
    ) -> tuple[Report, dict[str, Image.Image]]:
        """By content and γ, from pure style to pure content; `plain` are the backbone's own options, λA is `strength`.

        TOGETHER has all contents.
        """
        read: dict[str, Rows] = {}
        drawn: dict[str, Image.Image] = {}
        for content in self.shop.contents:
            scenes = content_scenes(content, self.composed, CONTENT_SEED)
            rows: dict[str, dict[str, Samples]] = {}
            shown: dict[str, dict[str, Pixels]] = {}
            for dropped in self.shop.styles:
                rows[dropped.style], shown[dropped.style] = {}, {}
                for gamma, options in _composed(plain, dropped, content, strength, gammas):
                    wishes = [Wish(painter.context(scene), seeded(options, i)) for i, scene in enumerate(scenes)]
                    pictures = self.asker.ask(f"{content}, {dropped.style}, gamma {gamma}", wishes)
                    rows[dropped.style][gamma] = readings(self.judge, pictures, dropped.style, scenes)
                    shown[dropped.style][gamma] = pictures[0]
            read[content] = rows
            drawn[content] = _sheet(shown, "style", f"gamma: {painter.context(scenes[0])}")
        return {**{name: with_all(rows) for name, rows in read.items()}, TOGETHER: with_all(_together(read))}, drawn

    def candidates(self) -> Report:
        """What choosing the best of several by clip score brings."""
        scenes = painter.unseen_scenes(self.count, SCENE_SEED)
        rows: dict[str, dict[str, Samples]] = {}
        for dropped in self.shop.styles:
            plain = decoded(style=dropped.served, guidance=StyleDrop(STYLE_STRENGTH, TEXT_STRENGTH))
            kinds: dict[str, Options] = {
                "first": plain,
                "best by text": {**plain, "n": CANDIDATES, "rerank": "text"},
                "best by style": {**plain, "n": CANDIDATES, "rerank": "style", "style_image": png(dropped.picture)},
            }
            rows[dropped.style] = {}
            for kind, options in kinds.items():
                wishes = [Wish(painter.context(scene), seeded(options, i)) for i, scene in enumerate(scenes)]
                pictures = self.asker.ask(f"{dropped.style}, {kind}", wishes)
                rows[dropped.style][kind] = self._read(dropped, pictures, scenes)
        return with_all(rows)

    def _read(self, dropped: Dropped, pictures: Pixels, scenes: Sequence[Scene]) -> Samples:
        files = [png(picture) for picture in pictures]
        texts, style = [dropped.prompt(scene) for scene in scenes], png(dropped.picture)
        client = self.asker.client
        parts = [slice(i, i + SCORED_AT_ONCE) for i in range(0, len(files), SCORED_AT_ONCE)]
        return {
            **readings(self.judge, pictures, dropped.style, scenes),
            "clip_text": np.concatenate([client.score(files[part], text=texts[part]) for part in parts]),
            "clip_style": np.concatenate([client.score(files[part], reference=style) for part in parts]),
        }


def _wish(dropped: Dropped, method: Method, scene: Scene, i: int) -> Wish:
    if method.adapter is None:
        return Wish(dropped.prompt(scene), seeded(decoded(guidance_scale=1 + TEXT_STRENGTH), i))
    rule = StyleDrop(STYLE_STRENGTH, TEXT_STRENGTH)
    options = decoded(style=method.adapter, guidance=rule, upscale_steps=method.upscale_steps)
    return Wish(painter.context(scene), seeded(options, i))


def _composed(
    plain: Options, dropped: Dropped, content: str, strength: float, gammas: Sequence[float]
) -> Iterator[tuple[str, Options]]:
    for gamma in gammas:
        rule = Compose(gamma=gamma, style_strength=strength, text_strength=TEXT_STRENGTH)
        yield f"{gamma:g}", {**plain, "style": dropped.served, "content": content, "guidance": rule}


def decoded(**options: object) -> Options:
    """Options of a picture whose tokens are decoded as the paper does it, in both stages unless they say otherwise."""
    plain = {"scheduler": "maskgit", "steps": STEPS, "temperature": TEMPERATURE, "upscale_steps": UPSCALE_STEPS}
    given: Options = {**plain, **options}  # type: ignore[typeddict-item]
    return given


def seeded(options: Options, i: int) -> Options:
    return {**options, "seed": FIRST_SEED + 100 * i}


def content_scenes(content: str, n: int, seed: int) -> list[Scene]:
    """The object in colours and places."""
    return [
        Scene(content, scene.colour, scene.background, scene.style, scene.seed)
        for scene in painter.unseen_scenes(n, seed)
    ]


def _together(read: Mapping[str, Rows]) -> Rows:
    """By style and γ all contents' samples."""
    first, *_ = read.values()
    return {
        style: {gamma: joined([rows[style][gamma] for rows in read.values()]) for gamma in row}
        for style, row in first.items()
    }


def _sheet(shown: Mapping[str, Mapping[str, Pixels]], down: str, across: str) -> Image.Image:
    """A row for each key; a cell is left white where a row lacks what others have. Small pictures show their pixels."""
    columns = list(dict.fromkeys(title for row in shown.values() for title in row))
    white = np.full((SIDE, SIDE, 3), 255, np.uint8)
    cells = [_enlarged(row.get(title, white)) for row in shown.values() for title in columns]
    return sheets.grid(cells, Axis(down, list(shown)), Axis(across, columns))


def _enlarged(picture: Pixels) -> Pixels:
    times = SIDE // picture.shape[0]
    return picture.repeat(times, axis=0).repeat(times, axis=1)
