"""A photo in, a painting out: what is sent for it and what comes back, from a fake and from the pipeline itself."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.helpers import toy, toy_stylizer

from impasto_client import (
    AdapterNotFound,
    AsyncClient,
    AsyncFakeTransport,
    Client,
    FakeTransport,
    InvalidRequest,
    LocalTransport,
    Painting,
    PhotoOptions,
    ProtocolError,
)
from impasto_client.options import Regions
from impasto_client.painting import decode_photo, encode_photo


def file_of(image: Image.Image, format: str = "PNG", **more: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **more)
    return file.getvalue()


def pixels_of(file: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


@pytest.fixture
def photo() -> bytes:
    """JPEG, 96 x 64."""
    return file_of(Image.linear_gradient("L").resize((96, 64)).convert("RGB"), "JPEG")


def asked(photo: Any, style: Any = None, **options: Any) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in encode_photo(photo, style, **options).items()}


def test_only_what_is_said_is_sent(photo: bytes) -> None:
    assert asked(photo) == {"IMAGE": [photo]}
    assert asked(photo, "starry", **dict.fromkeys(PhotoOptions.__annotations__)) == {
        "IMAGE": [photo],
        "ADAPTER_NAMES": [b"starry"],
    }


def test_all_that_can_be_said(photo: bytes) -> None:
    options: PhotoOptions = {
        "strength": 0.5,
        "mask": b"a mask",
        "detail": 2,
        "preserve_color": True,
        "long_side": 640,
        "format": "webp",
        "model": "stylizer",
    }
    assert asked(photo, {"starry": 0.5}, **options) == {
        "IMAGE": [photo],
        "ADAPTER_NAMES": [b"starry"],
        "ADAPTER_WEIGHTS": [0.5],
        "MASKS": [b"a mask"],
        "STRENGTH": [0.5],
        "DETAIL": [2.0],
        "PRESERVE_COLOR": [True],
        "LONG_SIDE": [640],
        "FORMAT": [b"webp"],
        "MODEL": [b"stylizer"],
    }
    assert {*options, "regions"} == {*PhotoOptions.__annotations__}


def test_every_option_is_documented() -> None:
    text = inspect.getdoc(PhotoOptions) or ""
    assert [word for word in PhotoOptions.__annotations__ if f"{word}: " not in text] == []


def test_a_path_is_sent_as_it_is(photo: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo)
    assert asked(path)["IMAGE"] == [photo]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"regions": {"wave": b"a mask"}, "style": "starry"},
            "MASKS: got a style for the whole photo and regions",
        ),
        ({"regions": {"wave": b"a mask"}, "mask": b"a mask"}, "MASKS: got a mask and regions"),
        ({"detail": "fine"}, "DETAIL: 'fine' is not a number"),
        ({"preserve_color": 1}, "PRESERVE_COLOR: 1 is neither true nor false"),
        ({"long_side": 12.5}, "LONG_SIDE: 12.5 is not a whole number"),
        ({"mask": 7}, "MASKS: a value of type int is not a picture"),
    ],
)
def test_what_tensors_cannot_carry_is_refused(photo: bytes, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        asked(photo, **options)


def test_a_word_that_is_no_option_is_a_type_error(photo: bytes) -> None:
    with pytest.raises(TypeError, match="no option 'masks'; did you mean 'mask'"):
        asked(photo, "starry", masks=b"a mask")


@pytest.mark.parametrize("missing", ["IMAGE", "META"])
def test_half_an_answer_is_none(photo: bytes, missing: str) -> None:
    answer = dict(FakeTransport().infer(encode_photo(photo, "starry")))
    del answer[missing]
    with pytest.raises(ProtocolError, match=missing):
        decode_photo(answer)


def test_the_fake_paints_a_photo_in_its_own_size(photo: bytes) -> None:
    with Client(transport=FakeTransport(warnings=["mind the paint"])) as client:
        painting = client.stylize(photo, {"starry": 0.75, b"a painting": 0.25})
    assert isinstance(painting, Painting)
    assert (painting.image.size, painting.image.format) == ((96, 64), "PNG")
    assert painting.warnings == ("mind the paint",)
    assert painting.timings.total_ms == 0
    assert painting.meta["adapters"] == [
        {"name": "starry", "digest": hashlib.sha256(b"starry").hexdigest(), "weight": 0.75}
    ]
    assert painting.meta["style_images"] == [hashlib.sha256(b"a painting").hexdigest()]
    assert painting.meta["style_image_weights"] == [0.25]
    assert (painting.meta["strength"], painting.meta["long_side"]) == (1.0, None)


def test_the_fake_tells_of_a_photo_what_the_pipeline_does(stylizer: Client, photo: bytes) -> None:
    real = stylizer.stylize(photo, "starry", detail=2).meta
    fake = Client(transport=FakeTransport()).stylize(photo, "starry", detail=2).meta
    missing = {"pinned", "embeddings", "model"}
    assert {*real} - {*fake} <= missing
    assert {*fake} <= {*real}
    for key in ("strength", "detail", "preserve_color", "long_side", "masks", "style_images", "width", "height"):
        assert fake[key] == real[key], key


def test_the_fake_answers_by_what_was_asked(photo: bytes) -> None:
    client = Client(transport=FakeTransport())
    starry = client.stylize(photo, "starry")
    assert client.stylize(photo, "starry").data == starry.data
    assert client.stylize(photo, "wave").data != starry.data
    assert client.stylize(photo, "starry", long_side=24, format="webp").image.size == (24, 16)
    turned = Image.new("RGB", (8, 4))
    turned.getexif()[0x0112] = 6
    assert client.stylize(file_of(turned, "JPEG", exif=turned.getexif()), "starry").image.size == (4, 8)


def test_the_fake_refuses_a_photo_that_is_no_picture() -> None:
    with pytest.raises(InvalidRequest, match="IMAGE: is no PNG, JPEG or WebP file") as caught:
        Client(transport=FakeTransport()).stylize(b"no picture", "starry")
    assert caught.value.field == "IMAGE"


def test_errors_pass_through(photo: bytes) -> None:
    with pytest.raises(AdapterNotFound, match="no such style"):
        Client(transport=FakeTransport(error=AdapterNotFound("no such style"))).stylize(photo, "starry")


def test_a_photo_has_its_own_timeout(photo: bytes) -> None:
    fake = FakeTransport()
    client = Client(transport=fake, timeout=60)
    client.stylize(photo, "starry")
    client.stylize(photo, "starry", timeout=5)
    assert fake.timeouts == [60, 5]


def test_the_async_client_does_the_same(photo: bytes) -> None:
    async def paint() -> Painting:
        async with AsyncClient(transport=AsyncFakeTransport()) as client:
            return await client.stylize(photo, ["starry", "wave"], strength=0.5)

    same = Client(transport=FakeTransport()).stylize(photo, ["starry", "wave"], strength=0.5)
    assert asyncio.run(paint()).data == same.data


@pytest.fixture
def stylizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """The pipeline of a toy net with two styles."""
    for seed, name in enumerate(("starry", "wave")):
        toy.register(tmp_path / "registry", name, toy_stylizer.style_bytes(toy_stylizer.style(seed)))
    monkeypatch.setenv("IMPASTO_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("IMPASTO_ENGINE", "onnxruntime")
    with Client(transport=LocalTransport(toy_stylizer.write_bundle(tmp_path / "bundle"))) as client:
        yield client


def test_the_pipeline_paints_what_the_client_says(stylizer: Client, photo: bytes) -> None:
    original = pixels_of(photo)
    mixed = 0.6 * toy_stylizer.style(0) + 0.4 * toy_stylizer.style(1)
    painting = stylizer.stylize(photo, {"starry": 0.6, "wave": 0.4})
    assert np.abs(np.asarray(painting.image) - 255 * toy_stylizer.painted(original, mixed)).max() < 2
    taken = toy_stylizer.predicted(np.array([1.0, 0.0, 0.0]))
    by_picture = np.asarray(stylizer.stylize(photo, Image.new("RGB", (9, 9), (255, 0, 0))).image)
    assert np.abs(by_picture - 255 * toy_stylizer.painted(original, taken)).max() < 2


def test_each_region_is_painted_in_its_style(stylizer: Client, photo: bytes) -> None:
    left = Image.new("L", (96, 64))
    left.paste(255, (0, 0, 48, 64))
    right = left.point(lambda level: 255 - level)
    starry, wave = (np.asarray(stylizer.stylize(photo, name).image) for name in ("starry", "wave"))
    regions: Regions = [("starry", left), ("wave", file_of(right))]
    both = np.asarray(stylizer.stylize(photo, regions=regions).image)
    half = np.asarray(stylizer.stylize(photo, "starry", mask=left).image)
    assert np.abs(both[:, :48].astype(int) - starry[:, :48]).max() <= 1
    assert np.abs(both[:, 48:].astype(int) - wave[:, 48:]).max() <= 1
    assert (
        np.abs(half[:, 48:].astype(int) - np.asarray(Image.open(io.BytesIO(photo)).convert("RGB"))[:, 48:]).max() <= 1
    )


@pytest.mark.parametrize(
    ("style", "options", "message"),
    [
        ([("starry", 0.5), ("starry", 0.5)], {}, "ADAPTER_NAMES: "),
        ([f"style-{number}" for number in range(17)], {}, "ADAPTER_NAMES: |STYLE_IMAGES: "),
        ("nobody", {}, "ADAPTER_NAMES: "),
        ("starry", {"mask": Image.new("L", (9, 9))}, "MASKS: "),
        ("starry", {"detail": 9}, "DETAIL: "),
        (b"no picture", {}, "STYLE_IMAGES: "),
        ("starry", {"long_side": 1}, "LONG_SIDE: "),
    ],
)
def test_the_server_says_what_it_refuses(
    stylizer: Client, photo: bytes, style: Any, options: Any, message: str
) -> None:
    with pytest.raises((InvalidRequest, AdapterNotFound), match=message):
        stylizer.stylize(photo, style, **options)


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_an_animated_photo_is_refused(stylizer: Client, format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    moving = file_of(frames[0], format, save_all=True, append_images=frames[1:])
    with pytest.raises(InvalidRequest, match="IMAGE: "):
        stylizer.stylize(moving, "starry")
