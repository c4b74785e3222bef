"""Photos through the toy's pipeline become what the net makes of them in plain NumPy, in mixes worked out by hand."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Row
from impasto_server.families.feedforward.styles import Shares, Style
from impasto_server.job import Result
from impasto_server.pipeline import Pipeline
from impasto_server.settings import EngineName
from impasto_server.steps import BASE, Ask
from tests.helpers import toy_stylizer as toy
from tests.helpers.asked import pixels, together
from tests.helpers.pictures import png

from .conftest import OpenStylizer, Pixels, photo

STYLES = INK, MOSAIC, _ = toy.style(1), toy.style(2), toy.style(3)
RED = np.full((40, 40, 3), (255, 0, 0), np.uint8)


def asked(pipeline: Pipeline, picture: Pixels, **values: Any) -> Result:
    return pipeline.generate(pipeline.offer.request(image=png(picture), **values))


def differs(result: Result, expected: np.ndarray[Any, Any]) -> float:
    """Of pixels, in levels, at the most; `expected` is in 0..1."""
    found = pixels(result)
    assert found.shape == expected.shape
    return float(np.abs(found - 255 * expected).max())


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("values", "vector"),
    [
        ({"adapters": {"ink": 1.0}}, INK),
        ({"adapter_names": ("ink",)}, INK),
        ({"adapters": {"ink": 0.25, "mosaic": 0.75}}, 0.25 * INK + 0.75 * MOSAIC),
        ({"adapter_names": ("ink", "mosaic")}, 0.5 * INK + 0.5 * MOSAIC),
        ({"adapters": {"ink": 0.5}}, 0.5 * INK + 0.5 * toy.NEUTRAL),
        ({"adapters": {"ink": 1.0}, "strength": 0.75}, 0.75 * INK + 0.25 * toy.NEUTRAL),
        ({"adapters": {"ink": 0.5, "mosaic": 0.0}, "strength": 0.0}, toy.NEUTRAL),
        ({"style_images": (png(RED),)}, toy.predicted(np.array([1.0, 0, 0]))),
        (
            {"adapter_names": ("ink",), "style_images": (png(RED),)},
            0.5 * INK + 0.5 * toy.predicted(np.array([1.0, 0, 0])),
        ),
    ],
    ids=["one", "by name", "mix", "in equal parts", "weak", "strength", "none of it", "picture", "both kinds"],
)
def test_a_photo_is_painted_in_its_mix(
    values: dict[str, Any], vector: toy.Array, engine: EngineName, open_stylizer: OpenStylizer
) -> None:
    pipeline = open_stylizer(engine)
    assert differs(asked(pipeline, photo(), **values), toy.painted(photo(), vector)) < 0.6


def test_a_weak_style_fades_to_the_photos_own(open_stylizer: OpenStylizer) -> None:
    """Where the bundle says so: to the vector that the predictor has for the photo."""
    grey = np.full((64, 64, 3), 102, np.uint8)
    pipeline = open_stylizer(weakened="content")
    found = asked(pipeline, grey, adapters={"ink": 1.0}, strength=0.25)
    expected = 0.25 * INK + 0.75 * toy.predicted(np.full(3, 0.4))
    assert differs(found, toy.painted(grey, expected)) < 0.6


def test_or_it_fades_to_the_photo_in_pixels(open_stylizer: OpenStylizer) -> None:
    """The mix is at its whole strength then, and what is left of 1 is the photo."""
    pipeline = open_stylizer(weakened="pixels", predictor=False)
    found = asked(pipeline, photo(), adapters={"ink": 0.2, "mosaic": 0.4}, strength=0.5)
    painted = toy.painted(photo(), (INK + 2 * MOSAIC) / 3)
    assert differs(found, 0.3 * painted + 0.7 * photo() / 255) < 1.2


def test_a_net_without_vectors_has_the_style_that_its_weights_are(open_stylizer: OpenStylizer) -> None:
    pipeline = open_stylizer(weakened="pixels", predictor=False, vectors=False)
    painted = toy.painted(photo(), toy.NEUTRAL)
    assert differs(asked(pipeline, photo()), painted) < 0.6
    assert differs(asked(pipeline, photo(), strength=0.5), 0.5 * painted + 0.5 * photo() / 255) < 1.2


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (5, 3), (63, 65), (64, 64), (97, 131)])
def test_a_photo_of_any_size_keeps_it(size: tuple[int, int], stylizer: Pipeline) -> None:
    result = asked(stylizer, photo(0, *size), adapter_names=("ink",))
    assert pixels(result).shape == (*size, 3)
    assert (result.meta["height"], result.meta["width"]) == size


def test_odd_sides_are_painted_with_their_mirror_image(stylizer: Pipeline) -> None:
    odd = photo(0, 75, 67)
    framed = np.pad(odd, ((0, 1), (0, 1), (0, 0)), "reflect")
    assert differs(asked(stylizer, odd, adapter_names=("ink",)), toy.painted(framed, INK)[:75, :67]) < 0.6


def test_a_border_is_painted_and_cut_off(open_stylizer: OpenStylizer) -> None:
    pipeline = open_stylizer(border=10)
    framed = np.pad(photo(), ((10, 10), (10, 10), (0, 0)), "reflect")
    expected = toy.painted(framed, INK)[10:-10, 10:-10]
    assert differs(asked(pipeline, photo(), adapter_names=("ink",)), expected) < 0.6


def test_long_side_is_the_paintings(stylizer: Pipeline) -> None:
    result = asked(stylizer, photo(0, 100, 200), adapter_names=("ink",), long_side=128)
    small = np.asarray(Image.fromarray(photo(0, 100, 200)).resize((128, 64), Image.Resampling.LANCZOS))
    assert differs(result, toy.painted(small, INK)) < 0.6


def test_detail_paints_at_another_size(stylizer: Pipeline) -> None:
    """2: the net sees the photo twice as large."""
    result = asked(stylizer, photo(), adapter_names=("ink",), detail=2.0)
    large = np.asarray(Image.fromarray(photo()).resize((160, 128), Image.Resampling.LANCZOS))
    painted = Image.fromarray((255 * toy.painted(large, INK)).round().astype(np.uint8))
    assert differs(result, np.asarray(painted.resize((80, 64), Image.Resampling.LANCZOS)) / 255) <= 1.01


def test_a_reduced_painting_has_the_detail_of_the_whole_photo(stylizer: Pipeline) -> None:
    """Painted twice as fine at half its size: the net sees the photo as it is."""
    result = asked(stylizer, photo(0, 100, 200), adapter_names=("ink",), long_side=100, detail=2.0)
    painted = Image.fromarray((255 * toy.painted(photo(0, 100, 200), INK)).round().astype(np.uint8))
    assert differs(result, np.asarray(painted.resize((100, 50), Image.Resampling.LANCZOS)) / 255) <= 1.01


def test_the_photo_keeps_its_colours_where_that_is_asked(stylizer: Pipeline) -> None:
    found = pixels(asked(stylizer, photo(), adapter_names=("ink",), preserve_color=True))
    luma = np.array([0.299, 0.587, 0.114])
    wanted = photo() + ((255 * toy.painted(photo(), INK) - photo()) @ luma)[..., None]
    inside = ((wanted > 3) & (wanted < 252)).all(-1)
    assert inside.mean() > 0.1
    assert np.abs(found - wanted)[inside].max() < 3


def test_what_it_says_was_done(stylizer: Pipeline) -> None:
    values = {"adapters": {"ink": 0.5}, "style_images": (png(RED),), "style_image_weights": (0.25,)}
    meta = asked(stylizer, photo(), **values, strength=0.5, detail=0.5, long_side=100).meta
    assert isinstance(meta["adapters"], list)
    assert [(one["name"], one["weight"]) for one in meta["adapters"]] == [("ink", 0.5)]
    assert meta["style_images"] == (hashlib.sha256(png(RED)).hexdigest(),)
    assert meta["style_image_weights"] == (0.25,)
    assert (meta["strength"], meta["detail"], meta["preserve_color"]) == (0.5, 0.5, False)
    assert (meta["width"], meta["height"], meta["long_side"]) == (100, 80, 100)
    assert not {"steps", "guidance", "scheduler", "control_scale", "guidance_scale"} & meta.keys()


@pytest.mark.parametrize("size", [(64, 64), (64, 80)], ids=["the usual size", "another"])
@pytest.mark.parametrize(("engine", "threads"), [("onnxruntime", 2), ("openvino", 1)])
def test_sixteen_rows_of_a_batch_are_each_what_it_is_alone(
    size: tuple[int, int], engine: EngineName, threads: int, open_stylizer: OpenStylizer
) -> None:
    """Sixteen photos in sixteen styles and mixes, bit for bit in float32.

    On several threads OpenVINO sums what it normalises a lone picture by in another order than that of a batch.
    """
    backbone = open_stylizer(engine, max_lanes=16, threads=threads).family.backbones[BASE]
    mixes = np.random.default_rng(0).dirichlet((1, 1, 1), 16)
    mixes[:3] = np.eye(3)
    rows = [
        Row(
            Ask(photo(seed, *size).transpose(2, 0, 1), 0.0, 0, 1), Style(Shares(parts, 1.0).mixed(STYLES, None)), Seat()
        )
        for seed, parts in enumerate(tuple(enumerate(mix)) for mix in mixes)
    ]
    alone = [backbone.run([row])[0] for row in rows]
    np.testing.assert_array_equal(backbone.run(rows), alone)
    np.testing.assert_array_equal(backbone.run(rows[:5]), alone[:5])


def test_a_crowd_gets_what_each_gets_alone(open_stylizer: OpenStylizer) -> None:
    """Through the whole pipeline, of several sizes, which no batch has together."""
    pipeline = open_stylizer("openvino", max_lanes=8)
    requests = [
        pipeline.offer.request(image=png(photo(seed, 64, 64 + 16 * (seed % 3))), adapters={"ink": share / 16})
        for seed, share in enumerate(range(1, 17))
    ]
    alone = [pipeline.generate(request).image for request in requests]
    crowd = together(pipeline, requests)
    assert [one.image for one in crowd if isinstance(one, Result)] == alone
