"""A scorer says how pictures fit, in any company; a comparison that can't be made is refused by its field."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import model_config_pb2  # type: ignore[import-untyped]

from impasto_server.engines.runtime import Runtime
from impasto_server.errors import InvalidArgument, SetupError
from impasto_server.ops.local import Local
from impasto_server.ops.repository import model_repository
from impasto_server.pictures.content import MAX_BYTES
from impasto_server.scoring import comparison
from impasto_server.scoring.comparison import FIELDS, MAX_IMAGES
from impasto_server.scoring.score import BATCH, Scorer, ScorerBundle
from impasto_server.settings import Settings
from tests.helpers import toy
from tests.helpers.pictures import png
from tests.helpers.wire import texts

Tensors = Mapping[str, NDArray[Any]]
LONG = "a red boat at night, " * 12


@pytest.fixture(scope="module")
def scorer(scorer_bundle: Path) -> Scorer:
    """bf16 isn't available of this engine: a scorer doesn't ask for it."""
    return Scorer.open(scorer_bundle, Runtime("onnxruntime", "bf16", threads=1))


def noise(count: int, *size: int) -> list[NDArray[np.uint8]]:
    draw = np.random.default_rng(0)
    return list(draw.integers(0, 256, (count, *(size or (40, 60)), 3), dtype=np.uint8))


FILES = [png(pixels) for pixels in noise(3)]
IMAGES, TEXT = texts(*FILES), texts("a red boat")


def scores(scorer: Scorer, **tensors: NDArray[Any]) -> list[float]:
    found: list[float] = comparison.scores(comparison.parse(tensors, scorer.unread), scorer).tolist()
    return found


def test_scores_do_not_depend_on_company(scorer: Scorer) -> None:
    pictures = noise(BATCH + 3)
    together = scorer.text(pictures, "a red boat"), scorer.picture(pictures, pictures[4])
    alone = [scorer.text([one], "a red boat")[0] for one in pictures]
    np.testing.assert_allclose(together[0], alone, atol=1e-5)
    np.testing.assert_allclose(together[1], [scorer.picture([one], pictures[4])[0] for one in pictures], atol=1e-5)
    assert np.ptp(alone) > 0.01


def test_a_picture_is_nearest_to_itself(scorer: Scorer) -> None:
    pictures = noise(5)
    found = scorer.picture(pictures, pictures[2])
    assert np.argmax(found) == 2
    assert found[2] == pytest.approx(1, abs=1e-6)
    assert all(-1 <= score <= 1 for score in found)


def test_another_text_is_another_score(scorer: Scorer) -> None:
    assert scorer.text(noise(1), "a red boat") != scorer.text(noise(1), "a blue boat")


def test_it_is_safe_to_use_from_several_threads(scorer: Scorer) -> None:
    pictures = noise(8)
    alone = [scorer.text([one], "a red boat")[0] for one in pictures]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda one: scorer.text([one], "a red boat")[0], pictures * 5))
    np.testing.assert_allclose(together, alone * 5, atol=1e-6)


def test_what_is_not_read_of_a_long_text_is_told_and_does_not_count(scorer: Scorer) -> None:
    unread = scorer.unread(LONG)
    assert unread
    assert LONG.strip().endswith(unread)
    kept = LONG.strip().removesuffix(unread)
    assert scorer.unread(kept) == "" == scorer.unread("a <red> boat")
    assert scorer.text(noise(1), LONG) == scorer.text(noise(1), kept)


def test_one_for_all_or_one_each(scorer: Scorer) -> None:
    words = "a red boat", "a blue boat", "a fish"
    one, each = scores(scorer, IMAGE=IMAGES, TEXT=TEXT), scores(scorer, IMAGE=IMAGES, TEXT=texts(*words))
    expected = [scorer.text([pixels], text)[0] for pixels, text in zip(noise(3), words, strict=True)]
    np.testing.assert_allclose(each, expected, atol=1e-5)
    np.testing.assert_allclose(one, scorer.text(noise(3), words[0]), atol=1e-5)
    turned = texts(FILES[1], FILES[2], FILES[0])
    np.testing.assert_allclose(
        scores(scorer, IMAGE=IMAGES, REFERENCE=turned), scores(scorer, IMAGE=turned, REFERENCE=IMAGES), atol=1e-5
    )
    np.testing.assert_allclose(
        scores(scorer, IMAGE=IMAGES, REFERENCE=texts(FILES[1])), scorer.picture(noise(3), noise(3)[1]), atol=1e-5
    )


def test_a_file_is_scored_as_it_is_meant_to_be_seen(scorer: Scorer) -> None:
    """On white where it is transparent, and turned as EXIF says."""
    (pixels,) = noise(1)
    clear = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    clear[:, :20, 3] = 0
    white = pixels.copy()
    white[:, :20] = 255
    turned, exif, upright = BytesIO(), Image.Exif(), Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_270)
    exif[0x0112] = 6
    Image.fromarray(pixels).save(turned, "png", exif=exif)
    found = scores(scorer, IMAGE=texts(png(clear), turned.getvalue()), TEXT=TEXT)
    np.testing.assert_allclose(found, scorer.text([white, np.array(upright)], "a red boat"), atol=1e-5)
    assert abs(found[0] - scorer.text([pixels], "a red boat")[0]) > 1e-3


def test_a_strip_costs_no_more_than_another_picture(scorer: Scorer) -> None:
    """All of it at 64 pixels' height would take 600 MB."""
    strip = np.zeros((1, 50_000, 3), np.uint8)
    assert len(scorer.text([strip], "a red boat")) == 1


REFUSED: dict[str, tuple[Tensors, str]] = {
    "no image": ({"TEXT": TEXT}, "IMAGE: holds no picture; pass the bytes"),
    "an empty image tensor": ({"IMAGE": texts(), "TEXT": TEXT}, "IMAGE: holds no picture"),
    "neither": ({"IMAGE": IMAGES}, "TEXT: is missing, and so is REFERENCE; pass one"),
    "both": ({"IMAGE": IMAGES, "TEXT": TEXT, "REFERENCE": IMAGES}, "REFERENCE: is there as well as TEXT; pass one"),
    "two texts": ({"IMAGE": IMAGES, "TEXT": texts("a", "b")}, "TEXT: 2 for 3 of IMAGE; pass one, or one for each"),
    "two references": ({"IMAGE": IMAGES, "REFERENCE": IMAGES[:2]}, "REFERENCE: 2 for 3 of IMAGE"),
    "too many": ({"IMAGE": texts(*FILES[:1] * 65), "TEXT": TEXT}, "IMAGE: 65 pictures are too many; pass at most 64"),
    "blank text": ({"IMAGE": IMAGES, "TEXT": texts(" \n")}, "TEXT: is blank; say what"),
    "not UTF-8": ({"IMAGE": IMAGES, "TEXT": texts(b"a \xff")}, "TEXT: byte 2 is not UTF-8"),
    "a book": ({"IMAGE": IMAGES, "TEXT": texts("a" * 9000)}, "TEXT: 9000 bytes is too long; pass at most 8192"),
    "long text": (
        {"IMAGE": IMAGES, "TEXT": texts(LONG)},
        "TEXT: is too long for this scorer, which doesn't read '.*'; shor",
    ),
    "no picture": ({"IMAGE": texts(b"x"), "TEXT": TEXT}, "IMAGE: is not a PNG, JPEG or WebP file"),
    "one of them": ({"IMAGE": texts(FILES[0], b"x"), "TEXT": TEXT}, "IMAGE: picture 2: is not a PNG, JPEG"),
    "cut short": ({"IMAGE": IMAGES, "REFERENCE": texts(FILES[0][:-40])}, "REFERENCE: is a PNG file without its end"),
    "a film": (
        {"IMAGE": texts(FILES[0], bytes(MAX_BYTES + 1)), "TEXT": TEXT},
        "IMAGE: picture 2: 33554433 bytes is too large; pass at most 33554432",
    ),
    "another input": (
        {"IMAGE": IMAGES, "PROMPT": TEXT},
        "PROMPT: is not an input of this model; pass only IMAGE, TEXT",
    ),
}


@pytest.mark.parametrize(("tensors", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compared_is_refused_by_name(tensors: Tensors, message: str, scorer: Scorer) -> None:
    with pytest.raises(InvalidArgument, match=f"^{message}"):
        scores(scorer, **tensors)


def test_as_many_as_are_allowed(scorer: Scorer) -> None:
    assert len(scores(scorer, IMAGE=texts(*FILES[:1] * MAX_IMAGES), TEXT=TEXT)) == MAX_IMAGES


def test_config_says_what_is_read() -> None:
    text = (model_repository() / "clip_score" / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    text_type, float_type = (model_config_pb2.DataType.Value(name) for name in ("TYPE_STRING", "TYPE_FP32"))
    inputs = {one.name: (one.data_type, list(one.dims), one.optional) for one in config.input}
    assert inputs == {name: (text_type, [-1], not field.required) for name, field in FIELDS.items()}
    assert {one.name: (one.data_type, list(one.dims)) for one in config.output} == {"SCORE": (float_type, [-1])}
    assert config.max_batch_size == 0


def test_a_bundle_that_is_none_says_how_to_make_one(scorer_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="^scorer: .* has no manifest.json; make one with `impasto link CLIP --out"):
        ScorerBundle.open(tmp_path)
    with pytest.raises(SetupError, match="^scorer: .*family: Input should be 'clip'"):
        ScorerBundle.open(toy.write_bundle(tmp_path / "painter"))
    broken = shutil.copytree(scorer_bundle, tmp_path / "broken")
    (broken / "image_encoder.onnx").unlink()
    with pytest.raises(SetupError, match="^scorer: .* lacks image_encoder.onnx"):
        ScorerBundle.open(broken)
    manifest = json.loads((broken / "manifest.json").read_text())
    del manifest["graphs"]["image_encoder"]
    (broken / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SetupError, match="^scorer: .*graphs"):
        ScorerBundle.open(broken)


@pytest.mark.parametrize("scorer", [None, Path("s")])
def test_the_setting_travels_through_the_environment(scorer: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPASTO_SCORER", "the parent's own")
    settings = Settings(Path("b"), Path("r"), scorer=scorer)
    for name, value in settings.to_env().items():
        monkeypatch.setenv(name, value)
    assert Settings.from_env() == settings


def test_scores_without_a_server(
    bundle: Path, scorer: Scorer, scorer_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPASTO_ENGINE", "onnxruntime")
    local = Local(bundle)
    with pytest.raises(SetupError, match="IMPASTO_SCORER is not set"):
        local.score({"IMAGE": IMAGES, "TEXT": TEXT})
    local.close()
    monkeypatch.setenv("IMPASTO_SCORER", str(scorer_bundle))
    local = Local(bundle)
    found = local.score({"IMAGE": IMAGES, "TEXT": TEXT})
    local.close()
    np.testing.assert_allclose(found["SCORE"], scores(scorer, IMAGE=IMAGES, TEXT=TEXT), atol=1e-5)
    assert found["SCORE"].dtype == np.float32
