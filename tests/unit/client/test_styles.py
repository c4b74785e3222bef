"""Styles of a photo as tensors: names, pictures, mixes of both, and a style for each region."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from impasto_client import InvalidRequest
from impasto_client.options import PhotoStyles, Regions
from impasto_client.styles import region_tensors, style_tensors

PAINTING, OTHER = b"the bytes of a painting", b"those of another one"


@pytest.fixture
def painting(tmp_path: Path) -> Path:
    path = tmp_path / "painting.jpg"
    path.write_bytes(PAINTING)
    return path


def sent(styles: PhotoStyles) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in style_tensors(styles).items()}


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """FP32's nearest to 0.6 isn't 0.6."""
    return {name: pytest.approx(value) if "WEIGHTS" in name else value for name, value in values.items()}


@pytest.mark.parametrize(
    ("styles", "tensors"),
    [
        (None, {}),
        ("", {}),
        ([], {}),
        ({}, {}),
        ("starry", {"ADAPTER_NAMES": [b"starry"]}),
        (["starry", "wave"], {"ADAPTER_NAMES": [b"starry", b"wave"]}),
        (("starry", "wave"), {"ADAPTER_NAMES": [b"starry", b"wave"]}),
        ({"starry": 0.6, "wave": 0.4}, {"ADAPTER_NAMES": [b"starry", b"wave"], "ADAPTER_WEIGHTS": [0.6, 0.4]}),
        ([("starry", 0.6), ("wave", 0.4)], {"ADAPTER_NAMES": [b"starry", b"wave"], "ADAPTER_WEIGHTS": [0.6, 0.4]}),
        (PAINTING, {"STYLE_IMAGES": [PAINTING]}),
        ([PAINTING, "starry", OTHER], {"ADAPTER_NAMES": [b"starry"], "STYLE_IMAGES": [PAINTING, OTHER]}),
        (
            [(PAINTING, 0.1), ("starry", 0.2), (OTHER, 0.3)],
            {
                "ADAPTER_NAMES": [b"starry"],
                "ADAPTER_WEIGHTS": [0.2],
                "STYLE_IMAGES": [PAINTING, OTHER],
                "STYLE_IMAGE_WEIGHTS": [0.1, 0.3],
            },
        ),
    ],
)
def test_styles_are_names_or_pictures_or_several(styles: PhotoStyles, tensors: dict[str, Any]) -> None:
    assert sent(styles) == rounded(tensors)


def test_a_path_is_sent_as_it_is_and_may_have_a_weight(painting: Path) -> None:
    assert sent(painting) == {"STYLE_IMAGES": [PAINTING]}
    assert sent({painting: 0.5, "starry": 0.5}) == {
        "ADAPTER_NAMES": [b"starry"],
        "ADAPTER_WEIGHTS": [0.5],
        "STYLE_IMAGES": [PAINTING],
        "STYLE_IMAGE_WEIGHTS": [0.5],
    }


def test_a_pil_image_is_sent_as_a_file() -> None:
    image = Image.new("RGB", (3, 2), "teal")
    (data,) = sent([(image, 1)])["STYLE_IMAGES"]
    with Image.open(io.BytesIO(data)) as read:
        assert (read.size, read.getpixel((0, 0))) == ((3, 2), (0, 128, 128))


@pytest.mark.parametrize(
    ("styles", "message"),
    [
        (7, "ADAPTER_NAMES: 7 is not a style; pass a name, a picture"),
        ([7], "ADAPTER_NAMES: 7 is not a style"),
        (("starry", 0.6), "ADAPTER_NAMES: 0.6 is not a style; .*'starry': 0.6"),
        ([("starry", 0.6), b"\x89PNG"], "ADAPTER_WEIGHTS: the picture has no weight, but others have; give one"),
        ([("starry", 0.6), "wave"], "ADAPTER_WEIGHTS: 'wave' has no weight, but others have; give one"),
        ({"starry": "much"}, "ADAPTER_WEIGHTS: 'much' is not a number"),
        ([(PAINTING, "much")], "STYLE_IMAGE_WEIGHTS: 'much' is not a number"),
        (Path("no-such-painting.jpg"), "STYLE_IMAGES: can't read 'no-such-painting.jpg'"),
    ],
)
def test_what_is_no_style_is_refused_by_name(styles: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        style_tensors(styles)


def test_masks_come_in_the_order_of_their_styles_names_first() -> None:
    regions: Regions = [(PAINTING, b"ground"), ("starry", b"sky"), (OTHER, b"house"), ("wave", b"sea")]
    assert {name: tensor.tolist() for name, tensor in region_tensors(regions).items()} == {
        "ADAPTER_NAMES": [b"starry", b"wave"],
        "STYLE_IMAGES": [PAINTING, OTHER],
        "MASKS": [b"sky", b"sea", b"ground", b"house"],
    }


def test_regions_may_be_a_mapping_and_have_weights(painting: Path) -> None:
    mapped = region_tensors({painting: b"ground", "starry": b"sky"})
    assert mapped["MASKS"].tolist() == [b"sky", b"ground"]
    weighted = region_tensors([(("starry", 0.5), b"sky"), (("wave", 1), b"sea")])
    assert weighted["ADAPTER_WEIGHTS"].tolist() == [0.5, 1]


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({}, "MASKS: there is no region"),
        ([], "MASKS: there is no region"),
        (["starry"], "MASKS: 'starry' is not a region; pass pairs of a style and its mask"),
        ({"starry": 7}, "MASKS: a value of type int is not a picture"),
        ({"starry": Path("no-such-mask.png")}, "MASKS: can't read 'no-such-mask.png'"),
        (7, "MASKS: 7 is not a style"),
    ],
)
def test_what_is_no_region_is_refused(regions: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        region_tensors(regions)
