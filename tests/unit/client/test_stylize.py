"""`impasto stylize`: photos, folders of them, and what goes wrong with some."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.helpers.photo_home import files, furnish, impasto, words_of

from impasto_client import (
    AdapterNotFound,
    ConnectError,
    FakeTransport,
    ImpastoError,
    InvalidRequest,
    ServerFull,
)
from impasto_client.wire import Tensors


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(tmp_path, monkeypatch)


def test_a_photo_becomes_a_painting_beside_which_it_stays() -> None:
    fake, before = FakeTransport(), Path("boat.jpg").read_bytes()
    words = "--style starry:0.5 --style wave:0.25 --style-image painting.jpg:0.25 --strength 0.9 --mask sky.png"
    more = "--detail 2 --preserve-color --long-side 48 --model stylizer --timeout 9"
    result = impasto("stylize", "boat.jpg", *words.split(), *more.split(), fake=fake)
    assert result.exit_code == 0, result.output
    assert {name: tensor.tolist() for name, tensor in fake.requests[0].items()} == {
        "IMAGE": [before],
        "ADAPTER_NAMES": [b"starry", b"wave"],
        "ADAPTER_WEIGHTS": [0.5, 0.25],
        "STYLE_IMAGES": [Path("painting.jpg").read_bytes()],
        "STYLE_IMAGE_WEIGHTS": [0.25],
        "STRENGTH": [pytest.approx(0.9)],
        "MASKS": [Path("sky.png").read_bytes()],
        "DETAIL": [2.0],
        "PRESERVE_COLOR": [True],
        "LONG_SIDE": [48],
        "MODEL": [b"stylizer"],
        "FORMAT": [b"jpeg"],
    }
    assert fake.timeouts == [9]
    assert result.stdout == "boat-starry+wave+painting.jpg\n"
    with Image.open("boat-starry+wave+painting.jpg") as painting:
        assert (painting.format, painting.size) == ("JPEG", (48, 32))
    assert Path("boat.jpg").read_bytes() == before
    assert fake.closed


def test_nothing_is_sent_that_was_not_said() -> None:
    fake = FakeTransport()
    assert impasto("stylize", "boat.jpg", "--style", "starry", fake=fake).exit_code == 0
    assert list(fake.requests[0]) == ["IMAGE", "ADAPTER_NAMES", "FORMAT"]


def test_of_several_masks_each_style_has_one() -> None:
    fake = FakeTransport()
    words = "--style starry --style-image painting.jpg --mask sky.png --mask sea.png"
    assert impasto("stylize", "boat.jpg", *words.split(), fake=fake).exit_code == 0
    request = fake.requests[0]
    assert list(request) == ["IMAGE", "ADAPTER_NAMES", "STYLE_IMAGES", "MASKS", "FORMAT"]
    assert request["MASKS"].tolist() == [Path("sky.png").read_bytes(), Path("sea.png").read_bytes()]


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("boat.jpg --out painted.webp", ["painted.webp"]),
        ("boat.jpg --out new/folder", ["new/folder/boat-starry.jpg"]),
        ("boat.jpg --out painted", ["painted/boat-starry.jpg"]),
        ("boat.jpg --format png", ["boat-starry.png"]),
        ("album", ["a-starry.png", "b-starry.JPG", "c-starry.webp"]),
        ("album boat.jpg --out painted", [f"painted/{name}" for name in ("a-starry.png", "b-starry.JPG")]),
        ("album --out painted --format jpeg", ["painted/a-starry.jpg", "painted/b-starry.JPG", "painted/c-starry.jpg"]),
    ],
)
def test_where_paintings_go(words: str, written: list[str]) -> None:
    before = set(files())
    result = impasto("stylize", *words.split(), "--style", "starry")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [name for name in result.stdout.split() if name not in before]
    assert set(written) <= set(result.stdout.split())
    assert {*files()} - before == {*result.stdout.split()}
    formats = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
    for name in result.stdout.split():
        with Image.open(name) as painting:
            assert painting.format == formats[Path(name).suffix.lower()]


def test_one_that_fails_does_not_stop_the_others() -> None:
    Path("album/aa.png").write_bytes(b"no picture")
    Path("album/bb.png").write_bytes(b"no picture either")
    result = impasto("stylize", "album", "--style", "starry", "--out", "painted")
    assert result.exit_code == 1
    assert sorted(path.name for path in Path("painted").iterdir()) == ["a-starry.png", "b-starry.JPG", "c-starry.webp"]
    assert "error album/aa.png, album/bb.png: IMAGE: is no PNG, JPEG or WebP file" in words_of(result.stderr)
    assert "2 of 5 failed" in words_of(result.stderr)


def test_as_json() -> None:
    Path("album/aa.png").write_bytes(b"no picture")
    result = impasto("stylize", "album", "--style", "starry", "--json", fake=FakeTransport(warnings=["mind the paint"]))
    first, second, *_ = json.loads(result.stdout)
    assert (first["photo"], first["out"], first["warnings"]) == ("album/a.png", "a-starry.png", ["mind the paint"])
    assert first["meta"]["width"] == 24
    assert second["photo"] == "album/aa.png"
    assert "IMAGE: is no PNG" in second["error"]
    assert "warning mind the paint" in words_of(result.stderr)


@pytest.mark.parametrize(
    "error",
    [
        AdapterNotFound("ADAPTER_NAMES: there is no 'starry'; see `impasto models`", "ADAPTER_NAMES"),
        InvalidRequest("STYLE_IMAGES: 17 styles; pass at most 8 in all", "STYLE_IMAGES"),
        ConnectError("nothing answers at localhost:8001"),
    ],
)
def test_what_would_befall_all_of_them_is_said_once(error: ImpastoError) -> None:
    fake = FakeTransport(error=error)
    result = impasto("stylize", "album", "boat.jpg", "--style", "starry", "--in-flight", "1", fake=fake)
    assert result.exit_code == 1
    assert words_of(result.stderr).endswith(f"error {error}")
    assert len(fake.requests) == 1


class Together(FakeTransport):
    """Answers once two requests are there; more than two at a time are a fault."""

    def __init__(self) -> None:
        super().__init__()
        self.door = threading.Barrier(2)

    def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        self.door.wait(60)
        return super().infer(tensors, timeout_s)


def test_several_are_in_flight() -> None:
    result = impasto("stylize", "album", "boat.jpg", "--style", "starry", "--in-flight", "2", fake=Together())
    assert result.exit_code == 0, result.output


def test_a_full_server_is_asked_again() -> None:
    class Full(FakeTransport):
        def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
            answer = super().infer(tensors, timeout_s)
            if len(self.requests) == 1:
                raise ServerFull("no room; try again in 0.01 s", 0.01)
            return answer

    fake = Full()
    assert impasto("stylize", "boat.jpg", "--style", "starry", fake=fake).exit_code == 0
    assert len(fake.requests) == 2


def test_a_folder_that_cannot_be_written_is_the_photos_own_fault() -> None:
    Path("painted").mkdir()
    Path("painted/a-starry.png").mkdir()
    result = impasto("stylize", "album", "--style", "starry", "--out", "painted")
    assert result.exit_code == 1
    assert "1 of 3 failed" in words_of(result.stderr)
    assert Path("painted/c-starry.webp").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("no-such-photo.jpg", "'no-such-photo.jpg' does not exist"),
        ("empty", "folder 'empty' holds no photo and no clip"),
        ("boat.jpg --out boat.jpg", "'boat.jpg' is a photo to paint; choose another file"),
        ("boat.jpg --out painted.gif", "'painted.gif' does not end in .png, .jpg, .jpeg, .webp"),
        ("album --out painted.png", "'painted.png' is one file, but there are 3 to paint; pass a folder"),
        ("boat.jpg --out painted.png --format jpeg", "jpeg is not what 'painted.png' ends in"),
        ("boat.jpg album/a.png album/a.png", "'album/a.png' and 'album/a.png' would both become 'a-starry.png'"),
        ("boat.jpg --style starry", "'starry' is named twice; name it once"),
        ("boat.jpg --style :0.5", "':0.5' names no style"),
        ("boat.jpg --style wave:much", "'wave:much': 'much' is not a weight"),
        ("boat.jpg --style wave:inf", "'wave:inf': 'inf' is not a weight"),
        ("boat.jpg --style-image nothing.jpg", "there is no file 'nothing.jpg'"),
        ("boat.jpg --style-image nothing.jpg:0.5", "there is no file 'nothing.jpg'"),
        ("boat.jpg --mask sky.png --mask sea.png", "2 masks for 1 styles; give one mask, or one for each style"),
        ("boat.jpg --mask nothing.png", "'nothing.png' does not exist"),
        ("boat.jpg --smooth 0.5", "is for clips, but there is none"),
        ("boat.jpg --out nowhere/painted.png", "there is no folder nowhere"),
        ("boat.jpg --out boat.jpg/paintings", "folder 'boat.jpg/paintings' can't be made (Not a directory)"),
        ("boat.jpg --in-flight 0", "'--in-flight'"),
    ],
)
def test_wrong_usage_paints_nothing(words: str, message: str) -> None:
    fake, before = FakeTransport(), files()
    result = impasto("stylize", *words.split(), "--style", "starry", fake=fake)
    assert result.exit_code == 2
    assert message in words_of(result.output)
    assert (fake.requests, files()) == ([], before)


def test_a_painting_never_goes_over_a_photo_of_the_same_run() -> None:
    Path("boat.jpg").rename("album/boat.jpg")
    Path("album/boat-starry.jpg").write_bytes(Path("album/boat.jpg").read_bytes())
    result = impasto("stylize", "album", "--style", "starry", "--out", "album")
    assert result.exit_code == 2
    assert "'album/boat-starry.jpg' is a photo to paint" in words_of(result.output)


def test_a_link_to_a_photo_is_the_photo() -> None:
    Path("boat-starry.jpg").hardlink_to("boat.jpg")
    assert impasto("stylize", "boat.jpg", "--style", "starry").exit_code == 2


def test_weights_are_of_all_styles_or_of_none() -> None:
    result = impasto("stylize", "boat.jpg", "--style", "starry:0.5", "--style", "wave")
    assert result.exit_code == 1
    assert "ADAPTER_WEIGHTS: 'wave' has no weight, but others have" in words_of(result.stderr)


def test_a_file_may_have_a_colon_in_its_name() -> None:
    fake: Any = FakeTransport()
    Path("painting.jpg").rename("a:0.5")
    assert impasto("stylize", "boat.jpg", "--style-image", "a:0.5", fake=fake).exit_code == 0
    assert "STYLE_IMAGE_WEIGHTS" not in fake.requests[0]
    assert impasto("stylize", "boat.jpg", "--style-image", "a:0.5:0.25", fake=fake).exit_code == 0
    assert fake.requests[1]["STYLE_IMAGE_WEIGHTS"].tolist() == [0.25]
