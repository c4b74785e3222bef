"""A picture whose style is kept is prepared as the server prepares it: turned, in its profile's colours, onto white."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from impasto_export import manifest
from impasto_export.adapters.registry import Registry
from impasto_export.feedforward import pictured, pictures
from impasto_export.feedforward.link import link
from impasto_server.pictures.content import read_middle
from impasto_server.pipeline import Pipeline
from impasto_server.settings import Settings
from tests.helpers import trunks
from tests.helpers.profiles import exchanged
from tests.helpers.trunks import Trunk

SIZE = 32
COLOURS = np.kron(np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8), np.ones((9, 9, 1), np.uint8))


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def translucent() -> Image.Image:
    picture = Image.fromarray(COLOURS).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture


FILES = {
    "plain.png": (Image.fromarray(COLOURS), {}),
    "plain.jpg": (Image.fromarray(COLOURS), {"quality": 95}),
    "turned.jpg": (Image.fromarray(COLOURS), {"exif": turned(6)}),
    "mirrored.webp": (Image.fromarray(COLOURS), {"exif": turned(5), "lossless": True}),
    "coloured.png": (Image.fromarray(COLOURS), {"icc_profile": exchanged()}),
    "coloured and turned.jpg": (Image.fromarray(COLOURS), {"icc_profile": exchanged(), "exif": turned(8)}),
    "a useless profile.png": (Image.fromarray(COLOURS), {"icc_profile": b"none" * 50}),
    "translucent.png": (translucent(), {"icc_profile": exchanged()}),
    "grey.png": (Image.fromarray(COLOURS[..., 0]), {}),
    "pressed.jpg": (Image.fromarray(COLOURS).convert("CMYK"), {}),
    "palette.png": (Image.fromarray(COLOURS).quantize(32), {}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_picture_is_the_servers(name: str, tmp_path: Path) -> None:
    picture, options = FILES[name]
    picture.save(tmp_path / name, **options)  # type: ignore[arg-type]
    expected, _ = read_middle((tmp_path / name).read_bytes(), "STYLE_IMAGES", (SIZE, SIZE))
    found = pictures.square(tmp_path / name, SIZE)
    assert found.shape == expected.shape
    # A level of rounding lies between turning before and behind a resize.
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_style_that_was_kept_is_the_one_of_its_picture(tmp_path: Path) -> None:
    """Whole, and weakened: then it fades to the neutral vector."""
    trunks.studio(tmp_path / "mini", Trunk((4, 6, 8), 1))
    bundle, place = tmp_path / "bundle", tmp_path / "style.jpg"
    link(tmp_path / "mini", bundle)
    Image.fromarray(COLOURS).save(place, exif=turned(6))
    registry = Registry(tmp_path / "registry")
    for name, strength in (("whole", 1.0), ("half", 0.5)):
        registry.put(name, pictured.convert(place, manifest.load(bundle), bundle, strength).data)
    photo = BytesIO()
    Image.fromarray(COLOURS[:64, :96]).save(photo, "png")
    pipeline = Pipeline.load(Settings(bundle, registry.folder, "onnxruntime", precision="f32", max_lanes=1))

    def paint(**values: Any) -> Any:
        result = pipeline.generate(pipeline.offer.request(image=photo.getvalue(), **values))
        return np.asarray(Image.open(BytesIO(result.images[0])).convert("RGB")).astype(int)

    try:
        whole = paint(style_images=(place.read_bytes(),))
        assert np.abs(paint(adapters={"whole": 1.0}) - whole).max() <= 1
        half = paint(style_images=(place.read_bytes(),), strength=0.5)
        assert np.abs(paint(adapters={"half": 1.0}) - half).max() <= 1
        assert np.abs(half - whole).max() > 8, "a strength must change something"
    finally:
        pipeline.close()
