"""`impasto show` and `impasto reproduce`: what a file says, and whether it can be painted again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from tests.helpers.photo_home import furnish, impasto, words_of

from impasto_client import ConnectError, FakeTransport
from impasto_client.catalogue import Adapter, Catalogue
from impasto_client.example import EXAMPLE
from impasto_client.marks import Mark, bare, marked, read
from impasto_client.simulation import digest_of
from impasto_client.wire import Tensors

FORMATS = ("png", "jpg", "webp")
NAMES = ("neon", "glass", "starry", "wave", "sks03")


def adapter(name: str, digest: str = "") -> Adapter:
    return Adapter(name, digest or digest_of(name.encode()), "lora", "fake", "", "", 4, 1, (), ("fake",))


HAS = dataclasses.replace(EXAMPLE, adapters=tuple(map(adapter, NAMES)))


def server(catalogue: Catalogue = HAS, **said: Any) -> FakeTransport:
    return FakeTransport(catalogue=catalogue, **said)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(tmp_path, monkeypatch)


def paint(out: str = "boat.png", words: str = "--adapter neon:0.8 --seed 7 --steps 12") -> str:
    result = impasto("generate", "a red boat", *words.split(), "--out", out, fake=server())
    assert result.exit_code == 0, result.output
    return out


# show


@pytest.mark.parametrize("suffix", FORMATS)
def test_show_tells_how_it_was_painted(suffix: str) -> None:
    result = impasto("show", paint(f"boat.{suffix}"))
    assert result.exit_code == 0, result.output
    said = words_of(result.output)
    for part in ("prompt a red boat", "steps 12", "seed 7", "adapter neon x 0.8", "guidance_scale 3.0", "bundle fake"):
        assert part in said
    assert "painted by impasto fake, fake, f32" in said


def test_show_as_json_has_all_of_it() -> None:
    document = json.loads(impasto("show", paint(), "--json").stdout)
    assert document["mark"]["request"]["adapters"] == [{"name": "neon", "weight": 0.8}]
    assert document["mark"]["adapters"][0]["digest"] == digest_of(b"neon")
    assert document["digital_source_type"] == "trainedAlgorithmicMedia"
    assert document["parameters"].startswith("a red boat <lora:neon:0.8>")
    assert document["manifest"] is False


def test_show_of_a_painting_names_the_photo_by_its_digest() -> None:
    assert impasto("stylize", "boat.jpg", "--style", "starry:0.5", "--out", "painted.png", fake=server()).exit_code == 0
    said = words_of(impasto("show", "painted.png").output)
    digest = digest_of(Path("boat.jpg").read_bytes())[:12]
    assert f"image a picture ({digest})" in said
    assert "vector starry x 0.5" in said
    assert "digital source type compositeWithTrainedAlgorithmicMedia" in said
    assert not [name for name in ("style_images", "masks", "long_side") if name in said], "nothing was said of them"
    parameters = json.loads(impasto("show", "painted.png", "--json").stdout)["parameters"]
    assert 'Styles: "starry: 0.5"' in parameters


def test_without_metadata_there_is_nothing_to_show() -> None:
    words = "--style starry --no-metadata --out painted.png"
    assert impasto("stylize", "boat.jpg", *words.split(), fake=server()).exit_code == 0
    for file in ("painted.png", paint(words="--no-metadata"), "boat.jpg"):
        result = impasto("show", file)
        assert result.exit_code == 0
        assert "has no mark; nothing in it says how it was made" in words_of(result.output)
        assert json.loads(impasto("show", file, "--json").stdout)["mark"] is None


def test_show_reads_the_text_of_other_programs() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", 'a fox\nNegative prompt: dull\nSteps: 20, Sampler: Euler, Note: "a, b", Seed: 3')
    Image.new("RGB", (8, 8)).save("fox.png", pnginfo=info)
    said = words_of(impasto("show", "fox.png").output)
    assert "has no mark of impasto, but text in the words of A1111" in said
    assert "prompt a fox negative prompt dull Steps 20 Sampler Euler Note a, b Seed 3" in said


def test_a_cameras_comment_is_no_mark() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0at the sea, in May"
    Image.new("RGB", (8, 8)).save("sea.jpg", exif=exif)
    assert "has no mark; nothing in it says how it was made" in words_of(impasto("show", "sea.jpg").output)


def test_show_moves_no_cursor() -> None:
    """A file's text reaches a terminal: its control characters don't."""
    mark = Mark({"prompt": "a \x1b[2J\x07 boat [bold]"}, 7, "fake", "0" * 64)
    Path("evil.png").write_bytes(marked(Path(paint()).read_bytes(), mark))
    result = impasto("show", "evil.png")
    assert "\x1b[2J" not in result.output
    assert "\x07" not in result.output
    assert "boat [bold]" in words_of(result.output)


@pytest.mark.parametrize("command", ["show", "reproduce"])
def test_what_is_no_picture_is_one_line(command: str) -> None:
    Path("notes.png").write_text("not a picture")
    result = impasto(command, "notes.png")
    assert result.exit_code == 1
    assert words_of(result.output) == "error this is not a PNG, JPEG or WebP file; pass one"


# reproduce


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_picture_is_painted_again_to_the_last_byte(suffix: str) -> None:
    file = paint(f"boat.{suffix}")
    result = impasto("reproduce", file, "--out", f"again.{suffix}", fake=server())
    assert result.exit_code == 0, result.output
    assert words_of(result.output) == f"identical, every byte {file}"
    assert Path(f"again.{suffix}").read_bytes() == Path(file).read_bytes()


def test_every_candidate_is_found_again_by_its_seed() -> None:
    """Ranks are not asked for again, and need no picture."""
    words = "--n 3 --seed 7 --rerank style --style-image painting.jpg"
    paint("fish.png", words)
    for place in (1, 2, 3):
        fake = server()
        result = impasto("reproduce", f"fish-{place}.png", "--json", fake=fake)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["same_picture"] is True
        assert "RERANK" not in fake.requests[0]


def test_a_photo_must_be_there_again_to_be_painted_again() -> None:
    words = "--style starry:0.5 --style-image painting.jpg:0.25 --mask sky.png --out painted.webp"
    assert impasto("stylize", "boat.jpg", *words.split(), fake=server()).exit_code == 0
    result = impasto("reproduce", "painted.webp", fake=server())
    assert result.exit_code == 1
    assert "pictures were sent that the mark only names, by sha256: IMAGE " in words_of(result.output)
    given = "--picture sky.png --picture painting.jpg --picture boat.jpg"
    result = impasto("reproduce", "painted.webp", *given.split(), fake=server())
    assert result.exit_code == 0, result.output
    assert "identical, every byte" in result.output


def test_a_picture_that_was_not_sent_is_told() -> None:
    result = impasto("reproduce", paint(), "--picture", "sky.png", fake=server())
    assert result.exit_code == 1
    assert "was not sent with this request; leave it out" in words_of(result.output)


def test_a_picture_without_a_mark_cannot_be_painted_again() -> None:
    fake = server()
    result = impasto("reproduce", "boat.jpg", fake=fake)
    assert result.exit_code == 1
    assert "boat.jpg: has no mark of impasto, so nobody knows how it was painted" in words_of(result.output)
    assert not fake.requests


OTHERS = {
    "another bundle": (
        dataclasses.replace(HAS, bundles=(dataclasses.replace(HAS.bundles[0], digest="9" * 64),)),
        "bundle: 'fake' was 000000000000, and the server's is 999999999999",
    ),
    "no such bundle": (
        dataclasses.replace(HAS, bundles=(dataclasses.replace(HAS.bundles[0], name="muse", digest="9" * 64),)),
        "bundle: it was painted by 'fake' (000000000000), and the server has muse",
    ),
    "another adapter": (
        dataclasses.replace(HAS, adapters=(adapter("neon", "8" * 64),)),
        f"adapter: 'neon' was {digest_of(b'neon')[:12]}, and the server's is 888888888888",
    ),
    "no such adapter": (dataclasses.replace(HAS, adapters=()), "is not in the server's registry"),
    "another name": (
        dataclasses.replace(HAS, adapters=(adapter("light", digest_of(b"neon")),)),
        "is not in the server's registry; it is there as 'light'",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_the_server_has_otherwise_is_told_before_anything_is_painted(case: str) -> None:
    catalogue, said = OTHERS[case]
    fake = server(catalogue)
    result = impasto("reproduce", paint(), fake=fake)
    assert result.exit_code == 1
    assert "this server can't paint the same. " in words_of(result.output)
    assert said in words_of(result.output)
    assert not fake.requests


def test_anyway_it_is_painted_and_the_differences_are_told() -> None:
    catalogue, said = OTHERS["another adapter"]
    result = impasto("reproduce", paint(), "--anyway", "--json", fake=server(catalogue))
    document = json.loads(result.stdout)
    assert document["differences"] == [said]
    assert document["identical"] is True, "the fake paints by names alone"


def test_a_bundle_of_another_name_is_found_by_its_digest() -> None:
    bundles = (
        dataclasses.replace(HAS.bundles[0], digest="9" * 64),
        dataclasses.replace(HAS.bundles[0], name="renamed"),
    )
    fake = server(dataclasses.replace(HAS, bundles=bundles))
    impasto("reproduce", paint(), fake=fake)
    assert fake.requests[0]["MODEL"].tolist() == [b"renamed"]


class Elsewhere(FakeTransport):
    """Another engine, which rounds otherwise; and one default is another."""

    def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        answer = dict(super().infer({**tensors, "NEGATIVE_PROMPT": np.array([b"x"], object)}, timeout_s))
        meta = json.loads(answer["META"].item()) | {"engine": "onnxruntime", "guidance_scale": 4.0}
        return {**answer, "META": np.array([json.dumps(meta).encode()], object)}


def test_another_picture_is_told_apart_with_what_may_be_why() -> None:
    result = impasto("reproduce", paint(), "--out", "again.png", fake=Elsewhere(catalogue=HAS))
    said = words_of(result.output)
    assert result.exit_code == 3
    assert "not identical boat.png" in said
    assert "engine: fake then, onnxruntime now" in said
    assert "guidance_scale: 3.0 then, 4.0 now" in said
    assert "% differ, by " in said
    assert read(Path("again.png").read_bytes()) != read(Path("boat.png").read_bytes())


@pytest.mark.parametrize("bad", ["\x1b[2J", "\x9b2J", "\x7f"])
def test_no_text_of_a_mark_moves_the_cursor(bad: str) -> None:
    file = Path(paint())
    mark = read(file.read_bytes())
    assert mark is not None
    pictured = {**mark.request, bad: {"sha256": bad}}
    for forged in (dataclasses.replace(mark, engine=bad), dataclasses.replace(mark, request=pictured)):
        file.write_bytes(marked(file.read_bytes(), forged))
        said = impasto("reproduce", file, fake=server()).output
        assert "\ufffd" in said
        assert bad[0] not in said


def test_an_unexplained_difference_says_so() -> None:
    file = Path(paint())
    mark = read(file.read_bytes())
    assert mark is not None
    other = impasto("generate", "a blue house", "--seed", "7", "--out", "house.png", fake=server())
    assert other.exit_code == 0
    file.write_bytes(marked(Path("house.png").read_bytes(), mark))
    result = impasto("reproduce", file, fake=server())
    assert result.exit_code == 3
    assert "Nothing else that the mark tells differs. Another processor" in words_of(result.output)


def test_what_others_wrote_beside_the_picture_is_no_other_picture() -> None:
    file = Path(paint())
    data = file.read_bytes()
    comment = b"\0\0\0\7tEXtfor\0you\xba\x04\xc2\xb9"
    file.write_bytes(data[:-12] + comment + data[-12:])
    assert bare(file.read_bytes()) == bare(data)
    result = impasto("reproduce", file, "--json", fake=server())
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (document["identical"], document["same_picture"]) == (False, True)
    assert document["differences"] == ["beside the picture: a signature, or what another program wrote"]


def test_a_check_of_the_gateways_is_named() -> None:
    file = Path(paint())
    mark = read(file.read_bytes())
    assert mark is not None
    file.write_bytes(marked(file.read_bytes(), dataclasses.replace(mark, check="checks:corner")))
    result = impasto("reproduce", file, fake=server())
    assert "the gateway's 'checks:corner' changed the picture after it was painted" in words_of(result.output)


def test_a_server_that_is_not_there_is_one_line() -> None:
    result = impasto("reproduce", paint(), fake=server(error=ConnectError("nothing answers")))
    assert (result.exit_code, words_of(result.output)) == (1, "error nothing answers")
