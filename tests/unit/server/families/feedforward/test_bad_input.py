"""What can't be painted: each is one clear error, which names the field, and nothing else is disturbed."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from impasto_server.errors import ImpastoError, InvalidArgument, NotFound
from impasto_server.families.feedforward import feedforward
from impasto_server.families.feedforward.photo import Bounds
from impasto_server.pipeline import Pipeline
from impasto_server.settings import Settings
from tests.helpers import toy_stylizer
from tests.helpers.asked import pixels
from tests.helpers.pictures import png

from .conftest import OpenStylizer, photo, registered

INK = {"ink": 1.0}
PHOTO = png(photo())
MASK = png(np.full((64, 80), 255, np.uint8))


def of_size(width: int, height: int) -> bytes:
    """A PNG of one colour: some kilobytes for many pixels."""
    file = BytesIO()
    Image.new("1", (width, height)).save(file, "png")
    return file.getvalue()


def animated() -> bytes:
    file = BytesIO()
    frames = [Image.fromarray(photo(seed)) for seed in range(2)]
    frames[0].save(file, "webp", save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """One for all that is refused, since nothing of it may stay."""
    folder = tmp_path_factory.mktemp("refusing")
    bundle = toy_stylizer.write_bundle(folder / "bundle")
    pipeline = Pipeline.load(Settings(bundle, registered(folder / "styles"), "onnxruntime", "f32", threads=1))
    yield pipeline
    pipeline.close()


def refusal(pipeline: Pipeline, **values: Any) -> str:
    with pytest.raises(ImpastoError) as caught:
        pipeline.generate(pipeline.offer.request(**{"image": PHOTO, **values}))
    assert isinstance(caught.value, InvalidArgument), caught.value
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image": None, "adapters": INK}, "IMAGE: is missing; pass the photo to paint"),
        ({"image": b"GIF89a", "adapters": INK}, "IMAGE: is not a PNG, JPEG or WebP file"),
        ({"image": of_size(20_000, 20_000), "adapters": INK}, "IMAGE: 20000 x 20000 is 400000000 pixels"),
        ({"image": of_size(6000, 5000), "adapters": INK}, "IMAGE: is 6000 x 5000, but at most"),
        ({"image": of_size(9000, 10), "adapters": INK}, "pass LONG_SIDE 8192 or less"),
        ({"image": PHOTO[:-20], "adapters": INK}, "IMAGE: is a PNG file without its end"),
        ({"image": animated(), "adapters": INK}, "IMAGE: is animated; pass one frame of it"),
        ({}, "ADAPTER_NAMES: is missing, and 'toy-stylizer' has no style of its own; name a style"),
        (
            {"adapters": {"foreign": 1.0}},
            "ADAPTER_NAMES: adapter 'foreign' belongs to the network 'other-net', but this is",
        ),
        ({"adapters": {"ink": 0.0}}, "ADAPTER_WEIGHTS: the weights of the mixed styles have the sum 0; pass weights"),
        ({"adapters": {"ink": 0.7, "mosaic": 0.5}}, "ADAPTER_WEIGHTS: the weights of the mixed styles have the sum 1"),
        ({"adapters": {"ink": -0.5}}, "ADAPTER_WEIGHTS: the weights of the mixed styles have the sum -0.5"),
        ({"adapters": {f"s{n}": 0.05 for n in range(17)}}, "ADAPTER_NAMES: 17 adapters; pass at most 8"),
        ({"style_images": (PHOTO,) * 17}, "STYLE_IMAGES: 17 files; pass at most 8"),
        ({"style_images": (PHOTO,) * 8, "adapter_names": ("ink",)}, "are 9 styles; pass at most 8 in all"),
        ({"style_images": (b"x",)}, "STYLE_IMAGES: is not a PNG, JPEG or WebP file"),
        ({"style_images": (animated(),)}, "STYLE_IMAGES: is animated"),
        ({"style_images": (of_size(20_000, 20_000),)}, "STYLE_IMAGES: 20000 x 20000 is 400000000 pixels"),
        ({"style_images": (b"x" * (17 << 20),) * 2}, "bytes in 2 files is too large; pass at most 33554432 (32 MiB)"),
        (
            {"style_images": (PHOTO,), "style_image_weights": (0.5, 0.5)},
            "STYLE_IMAGE_WEIGHTS: 2 weights for 1 pictures",
        ),
        (
            {"style_images": (PHOTO,), "style_image_weights": (1.5,)},
            "STYLE_IMAGE_WEIGHTS: the weights of the mixed styles",
        ),
        (
            {"style_images": (PHOTO,), "adapters": {"ink": 0.5}},
            "STYLE_IMAGE_WEIGHTS: is missing, but ADAPTER_WEIGHTS is sent; pass a weight for each style, or none",
        ),
        (
            {"adapters": INK, "masks": (PHOTO, PHOTO)},
            "MASKS: 2 masks for 1 styles; pass one for all of them, or one for",
        ),
        ({"adapters": INK, "masks": (of_size(80, 63),)}, "MASKS: one is 80 x 63, but the photo is 80 x 64; pass masks"),
        ({"adapters": INK, "masks": (b"x",)}, "MASKS: is not a PNG, JPEG or WebP file"),
        (
            {"adapters": {"ink": 1.0, "mosaic": 1.5}, "masks": (MASK, MASK)},
            "ADAPTER_WEIGHTS: the weights of the mixed styles have the sum 1.5",
        ),
        ({"adapters": INK, "strength": 1.5}, "STRENGTH: 1.5 is out of range"),
        ({"adapters": INK, "detail": 5.0}, "DETAIL: 5.0 is out of range; pass a finite number from 0.25 to 4"),
        ({"adapters": INK, "long_side": 8193}, "LONG_SIDE: 8193 is out of range; pass 16 to 8192"),
        ({"adapters": INK, "long_side": 8192}, "LONG_SIDE: 8192 makes 8192 x 6554, but at most"),
        (
            {"adapters": INK, "long_side": 2000, "detail": 4.0},
            "DETAIL: 4 paints a picture of 2000 x 1600 at 8000 x",
        ),
        ({"adapters": INK, "long_side": 5000}, "IMAGE: is painted at 5000 x 4000, but this bundle paints at most"),
        ({"adapters": INK, "prompt": "a boat"}, "PROMPT: means nothing to a feedforward backbone; leave it out"),
        ({"adapters": INK, "guidance": "cfg"}, "GUIDANCE: means nothing to a feedforward backbone"),
        ({"adapters": INK, "guidance_scale": 2.0}, "GUIDANCE_SCALE: means nothing to a feedforward backbone"),
        ({"adapters": INK, "style_strength": 2.0}, "STYLE_STRENGTH: means nothing to a feedforward backbone"),
        ({"adapters": INK, "width": 64}, "WIDTH: means nothing to a feedforward backbone"),
        ({"adapters": INK, "steps": 2}, "STEPS: means nothing to a feedforward backbone"),
        ({"adapters": INK, "scheduler": "once"}, "SCHEDULER: means nothing to a feedforward backbone"),
        ({"adapters": INK, "seed": 1}, "SEED: means nothing to a feedforward backbone"),
        ({"adapters": INK, "preview_every": 1}, "PREVIEW_EVERY: means nothing to a feedforward backbone"),
        ({"adapters": INK, "n": 2}, "N: means nothing to a feedforward backbone"),
        ({"adapters": INK, "depth": PHOTO}, "DEPTH: means nothing to a feedforward backbone"),
        ({"adapters": INK, "style": ("ink",)}, "STYLE: means nothing to a feedforward backbone"),
    ],
)
def test_it_is_refused_by_the_name_of_its_field(values: dict[str, Any], said: str, refusing: Pipeline) -> None:
    assert said in refusal(refusing, **values)
    assert pixels(refusing.generate(refusing.offer.request(image=PHOTO, adapters=INK))).shape == (64, 80, 3)


def test_a_style_that_is_not_there_is_told_with_those_that_are(refusing: Pipeline) -> None:
    with pytest.raises(NotFound, match="ADAPTER_NAMES: no adapter 'inc'; did you mean 'ink'"):
        refusing.generate(refusing.offer.request(image=PHOTO, adapters={"inc": 1.0}))


@pytest.mark.parametrize("field", ["style_images", "style_image_weights"])
def test_a_bundle_without_a_predictor_says_so(field: str, open_stylizer: OpenStylizer) -> None:
    value = {"style_images": (PHOTO,), "style_image_weights": (1.0,)}[field]
    said = refusal(open_stylizer(predictor=False), **{field: value})
    assert said == (
        f"{field.upper()}: needs a predictor, which bundle 'toy-stylizer' doesn't have; "
        "leave it out, or name another bundle in MODEL"
    )


def test_a_net_without_vectors_takes_no_styles(open_stylizer: OpenStylizer) -> None:
    pipeline = open_stylizer(weakened="pixels", predictor=False, vectors=False)
    assert "means nothing to bundle 'toy-stylizer', whose only style is in its weights" in refusal(
        pipeline, style_images=(PHOTO,)
    )
    said = refusal(pipeline, adapters={"foreign": 1.0})
    assert said == (
        "ADAPTER_NAMES: adapter 'foreign' belongs to the network 'other-net', but this is 'toy-stylizer'; leave it "
        "out, since this network has a fixed style, or name the other network's bundle in MODEL"
    )
    assert "ADAPTER_NAMES:" in refusal(pipeline, adapters=INK)


def test_a_pixel_is_painted(stylizer: Pipeline) -> None:
    found = stylizer.generate(stylizer.offer.request(image=png(photo(0, 1, 1)), adapters=INK))
    assert pixels(found).shape == (1, 1, 3)


def test_how_large_a_photo_may_be_is_told_so_that_it_can_be_followed(
    stylizer: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo that is told to be too large is painted with the LONG_SIDE that the message names, and not with more."""
    family = stylizer.family
    assert isinstance(family, feedforward.Feedforward)
    monkeypatch.setattr(family, "_bounds", Bounds(5000, 5000))
    side = int(refusal(stylizer, adapters=INK).partition("pass LONG_SIDE ")[2].split()[0])
    found = stylizer.generate(stylizer.offer.request(image=PHOTO, adapters=INK, long_side=side))
    assert max(pixels(found).shape) == side
    assert "LONG_SIDE" in refusal(stylizer, adapters=INK, long_side=side + 2)
