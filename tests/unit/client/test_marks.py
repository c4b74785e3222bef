"""Marks of pictures: every reader finds them, pixels stay, the second replaces the first, and damage is told."""

from __future__ import annotations

import dataclasses
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from tests.helpers.mark_readers import infotext, parameters_of, properties_of, texts_of

from impasto_client import (
    Client,
    Compose,
    FakeTransport,
    Generation,
    MarkError,
    NamedGuidance,
    StyleContent,
    StyleDrop,
)
from impasto_client.carriers import jpeg, notes, png
from impasto_client.carriers.notes import Notes
from impasto_client.marks import Mark, Style, bare, found_in, marked, parsed, read

FORMATS = ("png", "jpeg", "webp")
PROMPT = 'a red boat, "Łódź": é\nat night <b> & \U0001f6a2'
OPTIONS: dict[str, Any] = {
    "adapters": {"neon": 0.8, "glass": 1.0},
    "negative_prompt": "blurry, dull",
    "seed": 7,
    "steps": 12,
    "scheduler": "euler_a",
    "width": 64,
    "height": 32,
}
SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def painted(fmt: str = "png", prompt: str = PROMPT, **options: Any) -> tuple[Generation, Mark]:
    said = {**OPTIONS, "format": fmt, **options}
    generation = Client(transport=FakeTransport()).generate(prompt, **said)
    return generation, Mark.of(prompt, said, generation)


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.tobytes()


def outcome(data: bytes) -> Mark | str | None:
    """A file's mark, or the error in its place."""
    try:
        return read(data)
    except MarkError as error:
        return str(error)


# what is written


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_mark_is_read_back_and_the_pixels_are_untouched(fmt: str) -> None:
    generation, mark = painted(fmt)
    data = marked(generation.data, mark)
    assert read(data) == mark
    assert bare(data) == bare(generation.data), "the very bytes that were encoded"
    assert pixels(data) == pixels(generation.data)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == (fmt.upper(), (64, 32))


@pytest.mark.parametrize("fmt", FORMATS)
def test_a1111_reads_its_text(fmt: str) -> None:
    generation, mark = painted(fmt)
    found = infotext(parameters_of(marked(generation.data, mark)))
    assert found.prompt == f"{PROMPT} <lora:neon:0.8> <lora:glass:1>"
    assert found.negative == "blurry, dull"
    assert found.loras == {"neon": 0.8, "glass": 1.0}
    neon, glass = (one.digest[:12] for one in mark.adapters)
    assert found.fields == {
        "Steps": "12",
        "Sampler": "Euler a",
        "CFG scale": "3",
        "Seed": "7",
        "Size": "64x32",
        "Model hash": "0" * 10,
        "Model": "fake",
        "Lora hashes": f"neon: {neon}, glass: {glass}",
        "Version": "impasto fake",
    }


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_reader_of_the_formats_finds_all_three(fmt: str) -> None:
    """By struct alone: chunks, segments, checksums, lengths, flags."""
    generation, mark = painted(fmt)
    found = texts_of(marked(generation.data, mark))
    packet = properties_of(found["XML:com.adobe.xmp" if fmt == "png" else "xmp"])
    assert packet["Iptc4xmpExt:DigitalSourceType"] == SOURCES + "trainedAlgorithmicMedia"
    assert packet["xmp:CreatorTool"] == "impasto fake"
    own = found["impasto"] if fmt == "png" else packet["impasto:mark"]
    assert json.loads(own)["request"]["prompt"] == PROMPT
    assert found["parameters" if fmt == "png" else "comment"] == mark.parameters


@pytest.mark.parametrize("fmt", FORMATS)
def test_pillow_reads_the_xmp(fmt: str) -> None:
    generation, mark = painted(fmt)
    with Image.open(io.BytesIO(marked(generation.data, mark))) as image:
        assert b"trainedAlgorithmicMedia" in image.info["xmp"]


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_same_request_gives_the_same_file(fmt: str) -> None:
    """No date and no duration is in it."""
    first, second = (marked(generation.data, mark) for generation, mark in (painted(fmt), painted(fmt)))
    assert first == second
    assert b"_ms" not in first


@pytest.mark.parametrize("fmt", FORMATS)
def test_marking_twice_replaces(fmt: str) -> None:
    (generation, old), (_, new) = painted(fmt), painted(fmt, prompt="a blue house")
    once = marked(generation.data, new)
    assert marked(marked(generation.data, old), new) == once
    assert read(once) == new


@pytest.mark.parametrize("fmt", FORMATS)
def test_an_edited_photo_says_that_it_is_one(fmt: str) -> None:
    photo = io.BytesIO()
    Image.new("RGB", (64, 32), "navy").save(photo, "png")
    options: Any = {"photo": photo.getvalue(), "style": {"starry": 0.5}, "format": fmt, "detail": 2.0}
    painting = Client(transport=FakeTransport()).stylize(**options)
    data = marked(painting.data, Mark.of("", options, painting))
    assert found_in(data).source == "compositeWithTrainedAlgorithmicMedia"
    mark = read(data)
    assert mark is not None
    assert mark.request["adapters"] == [{"name": "starry", "weight": 0.5}]
    assert mark.adapters == (Style("starry", mark.adapters[0].digest, 0.5, "vector"),)
    assert "Seed" not in infotext(parameters_of(data)).fields


def test_what_starts_from_a_picture_or_enlarges_one_is_composite() -> None:
    file = painted()[0].data
    assert painted(image=file)[1].repainted
    larger = Client(transport=FakeTransport()).upscale(file, PROMPT)
    assert Mark.of(PROMPT, {"picture": file}, larger).repainted
    assert not painted(depth=file)[1].repainted, "a depth map lends its shapes, and no pixel"


def test_a1111_reads_the_steps_to_ask_for_and_not_those_that_a_strength_left() -> None:
    generation, mark = painted(image=painted()[0].data, steps=None, strength=0.6)
    ran = {**generation.meta, "steps": 15, "asked_steps": 25}
    for request in (mark.request, {**mark.request, "steps": 25}):
        said = Mark.reported(request, ran, 7)
        assert infotext(said.parameters).fields["Steps"] == "25"
        assert said.settings["steps"] == 15


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_files_of_other_kinds_of_pixels_are_marked(mode: str) -> None:
    for fmt in ("png", "webp"):
        file = io.BytesIO()
        Image.new("RGBA", (9, 7), (9, 99, 200, 120)).convert(mode).save(file, fmt)
        data = marked(file.getvalue(), painted()[1])
        assert read(data) is not None
        assert pixels(data) == pixels(file.getvalue())


def test_what_else_is_in_a_file_stays() -> None:
    file, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("Title", "boats")
    Image.new("RGB", (8, 8)).save(file, "png", pnginfo=info, icc_profile=b"profile", dpi=(96, 96))
    with Image.open(io.BytesIO(marked(file.getvalue(), painted()[1]))) as image:
        assert (image.info["Title"], image.info["icc_profile"]) == ("boats", b"profile")
    Image.new("RGB", (8, 8)).save(file := io.BytesIO(), "jpeg", icc_profile=b"profile", comment="boats")
    with Image.open(io.BytesIO(marked(file.getvalue(), painted("jpeg")[1]))) as image:
        assert (image.info["comment"], image.info["icc_profile"]) == (b"boats", b"profile")


# what it says


def test_it_says_what_was_asked_and_what_was_used() -> None:
    _, mark = painted(guidance=StyleDrop(style_strength=1.5), style="glass", adapters=None, guidance_ramp=True)
    assert mark.request == {
        "prompt": PROMPT,
        "negative_prompt": "blurry, dull",
        "style": ["glass"],
        "guidance": "styledrop",
        "style_strength": 1.5,
        "steps": 12,
        "scheduler": "euler_a",
        "guidance_ramp": True,
        "seed": 7,
        "width": 64,
        "height": 32,
        "format": "png",
    }
    assert mark.settings["text_strength"] == 5.0, "the server's default"
    assert (mark.engine, mark.precision, mark.bundle, mark.digest) == ("fake", "f32", "fake", "0" * 64)


@pytest.mark.parametrize(
    "guidance",
    [StyleContent(style=2.0, convention="code"), Compose(gamma=0.25), NamedGuidance("styledrop", {"text_strength": 1})],
)
def test_every_kind_of_guidance_is_words_and_numbers(guidance: Any) -> None:
    _, mark = painted(guidance=guidance, style="glass", content="cat", adapters=None)
    assert parsed(mark.json) == mark


def test_a_picture_is_there_by_its_digest_alone(tmp_path: Path) -> None:
    file = tmp_path / "private.png"
    Image.new("RGB", (8, 8), "red").save(file)
    _, mark = painted(image=file)
    assert list(mark.request["image"]) == ["sha256"]
    assert "private" not in mark.json


def test_each_candidate_has_its_own_seed() -> None:
    options = {**OPTIONS, "n": 3}
    generation = Client(transport=FakeTransport()).generate(PROMPT, **options)
    marks = [Mark.of(PROMPT, options, generation, one.seed) for one in generation.candidates]
    assert [mark.seed for mark in marks] == [7, 8, 9]
    assert {mark.request["seed"] for mark in marks} == {7}
    assert [infotext(mark.parameters).fields["Seed"] for mark in marks] == ["7", "8", "9"]


def test_the_seed_that_the_server_chose_is_in_it() -> None:
    _, mark = painted(seed=None)
    assert (mark.seed, mark.request["seed"]) == (0, 0)


def test_the_first_seed_is_found_where_seeds_begin_anew() -> None:
    last = 2**63 - 1
    _, mark = painted(seed=last, n=3)
    assert mark.request["seed"] == last


def test_previews_are_not_the_pictures_business() -> None:
    generation, mark = painted()
    assert isinstance(generation, Generation)
    assert "preview_every" not in mark.request


@pytest.mark.parametrize("fmt", FORMATS)
@given(prompt=st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
def test_any_prompt_comes_back(fmt: str, prompt: str) -> None:
    generation, mark = painted(fmt, prompt=prompt)
    data = marked(generation.data, mark)
    found = read(data)
    assert found is not None
    assert found.prompt == prompt
    assert infotext(parameters_of(data)).fields["Seed"] == "7", "no prompt takes the last line's place"
    properties_of(texts_of(data)["XML:com.adobe.xmp" if fmt == "png" else "xmp"])


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_longest_prompts_fit(fmt: str) -> None:
    """Three texts of 8192 bytes, in which every character is written in several."""
    for text in ("x" * 8192, '"' * 8192, "<" * 4096, "é" * 4096, "船" * 2730, "\U0001f6a2" * 2048):
        generation, mark = painted(fmt, prompt=text, negative_prompt=text)
        assert read(marked(generation.data, mark)) == mark


# damage


def test_a_file_without_marks_has_none() -> None:
    for fmt in FORMATS:
        assert read(painted(fmt)[0].data) is None


def test_a_text_that_a_jpeg_cannot_hold_is_refused() -> None:
    generation, mark = painted("jpeg")
    long = dataclasses.replace(mark, request={**mark.request, "prompt": "<" * 20000})
    with pytest.raises(MarkError, match="bytes of text are too long for a JPEG, which holds 65533; ask for a png"):
        marked(generation.data, long)


@pytest.mark.parametrize("fmt", FORMATS)
def test_no_file_is_written_with_a_text_beyond_all_bounds(fmt: str) -> None:
    generation, mark = painted(fmt)
    with pytest.raises(MarkError, match="too long"):
        marked(generation.data, dataclasses.replace(mark, request={"prompt": "x" * (notes.MAX_TEXT + 1)}))


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"GIF89a", b"RIFF\0\0\0\0WAVE", b"\xff\xd8", b"%PDF-1.7"])
def test_what_is_no_picture_is_told(data: bytes) -> None:
    with pytest.raises(MarkError, match="this is not a PNG, JPEG or WebP file; pass one"):
        read(data)


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_file_cut_anywhere_is_one_clear_error_or_its_mark(fmt: str) -> None:
    generation, mark = painted(fmt)
    data = marked(generation.data, mark)
    for length in range(len(data)):
        told = outcome(data[:length])
        assert told == mark or (isinstance(told, str) and len(told) < 200)


@pytest.mark.parametrize("fmt", FORMATS)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_file_with_changed_bytes_is_one_clear_error_or_a_mark(fmt: str, seed: int) -> None:
    generation, mark = painted(fmt)
    data = bytearray(marked(generation.data, mark))
    random = np.random.default_rng(seed)
    for place in random.integers(8, 1200, 4):
        data[place % len(data)] = random.integers(256)
    told = outcome(bytes(data))
    assert told is None or isinstance(told, Mark) or "\n" not in told


def png_with(kind: bytes, body: bytes) -> bytes:
    """A small PNG with one more chunk."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "png")
    checked = kind + body
    chunk = len(body).to_bytes(4, "big") + checked + zlib.crc32(checked).to_bytes(4, "big")
    return file.getvalue()[:33] + chunk + file.getvalue()[33:]


BOMB = zlib.compress(b"x" * (64 << 20))
HOSTILE = {
    "a bomb in zTXt": (png_with(b"zTXt", b"parameters\0\0" + BOMB), "is longer than the 262144 bytes"),
    "a bomb in iTXt": (png_with(b"iTXt", b"impasto\0\1\0\0\0" + BOMB), "is longer than the 262144 bytes"),
    "no zlib": (png_with(b"zTXt", b"parameters\0\0rubbish"), "can't be decompressed"),
    "too long": (png_with(b"tEXt", b"parameters\0" + b"x" * 300_000), "300000 bytes is too long"),
    "not UTF-8": (png_with(b"iTXt", b"impasto\0\0\0\0\0\xff"), "is not utf-8"),
    "not JSON": (png_with(b"iTXt", b"impasto\0\0\0\0\0{"), "impasto's mark is not JSON"),
    "deep JSON": (png_with(b"iTXt", b"impasto\0\0\0\0\0" + b"[" * 100_000), "is nested too deeply"),
    "rather deep JSON": (
        png_with(b"iTXt", b'impasto\0\0\0\0\0{"a":' + b"[" * 20 + b"]" * 20 + b"}"),
        "is nested too deeply",
    ),
    "NaN": (png_with(b"iTXt", b'impasto\0\0\0\0\0{"impasto":NaN}'), "is not JSON"),
    "infinite": (png_with(b"iTXt", b'impasto\0\0\0\0\0{"impasto":1e999}'), "is not JSON"),
    "a huge number": (png_with(b"iTXt", b'impasto\0\0\0\0\0{"impasto":' + b"9" * 9999 + b"}"), "is not JSON"),
    "half a character": (png_with(b"iTXt", b'impasto\0\0\0\0\0{"impasto":"\\ud800"}'), "is not JSON"),
    "a list": (png_with(b"iTXt", b"impasto\0\0\0\0\0[]"), "has the layout None; this version reads 1"),
    "a later layout": (png_with(b"iTXt", b'impasto\0\0\0\0\0{"impasto":2}'), "has the layout 2; this version reads 1"),
    "no request": (png_with(b"iTXt", b'impasto\0\0\0\0\0{"impasto":1}'), "has a bad request, None"),
    "entities": (
        png_with(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'),
        "the XMP packet has a document type",
    ),
    "deep XML": (
        png_with(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<a>" * 60_000),
        "the XMP packet is not well-formed",
    ),
    "a length beyond the file": (png_with(b"tEXt", b"a")[:33] + b"\xff\xff\xff\xfftEXt", "begins no whole chunk"),
    "a comment beyond its EXIF": (
        jpeg.written(painted("jpeg")[0].data, Notes(parameters="boat")).replace(
            b"\x92\x86\0\7\0\0", b"\x92\x86\0\7\xff\xff"
        ),
        "EXIF's UserComment doesn't fit",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_one_clear_error(case: str) -> None:
    data, said = HOSTILE[case]
    with pytest.raises(MarkError, match=said) as error:
        read(data)
    assert len(str(error.value)) < 200


def test_more_chunks_than_any_picture_has_are_refused() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "png")
    empty = b"\0\0\0\0teSt" + zlib.crc32(b"teSt").to_bytes(4, "big")
    with pytest.raises(MarkError, match="more than 65536 chunks"):
        png.read(file.getvalue()[:33] + empty * 70_000 + file.getvalue()[33:])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("request", []),
        ("seed", "7"),
        ("seed", True),
        ("digest", "0" * 63),
        ("digest", 0),
        ("settings", None),
        ("adapters", {}),
        ("adapters", [1]),
        ("adapters", [{"name": "neon"}]),
        ("engine", None),
        ("seed", -1),
        ("seed", 2**63),
        ("settings", {"guidance_scale": 10**400}),
        ("request", {"prompt": "a boat", "style_strength": [-1e300]}),
        ("adapters", [{"name": "neon", "digest": "1" * 64, "weight": 10**400, "kind": "adapter"}]),
        ("adapters", [{"name": "neon", "digest": "1" * 64, "weight": 4.5, "kind": "adapter"}]),
        ("adapters", [{"name": "neon", "digest": "\x1b[2J", "weight": 1.0, "kind": "adapter"}]),
    ],
)
def test_a_mark_of_wrong_types_or_beyond_bounds_is_refused(name: str, value: Any) -> None:
    said = {**json.loads(painted()[1].json), name: value}
    with pytest.raises(MarkError, match="damaged or forged"):
        parsed(json.dumps(said))


# what others write


def jpeg_with_comment(comment: bytes) -> bytes:
    """A photo with EXIF's UserComment."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    Image.new("RGB", (8, 8)).save(file := io.BytesIO(), "jpeg", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(
    ("comment", "said"),
    [
        (b"UNICODE\0" + "a fox".encode("utf-16-be"), "a fox"),
        (b"UNICODE\0" + "a fox".encode("utf-16-le"), "a fox"),
        (b"ASCII\0\0\0a fox\0\0", "a fox"),
        (bytes(8) + b"a fox", "a fox"),
        (b"ASCII\0\0\0" + b" " * 40, None),
        (bytes(64), None),
        (b"JIS\0\0\0\0\0\x30\x21", None),
    ],
)
def test_comments_of_cameras_and_other_programs_are_read(comment: bytes, said: str | None) -> None:
    """Pillow writes them in the other order of bytes, too."""
    assert found_in(jpeg_with_comment(comment)).parameters == said


@pytest.mark.parametrize(
    "inner",
    [
        '<rdf:Description xmlns:I="{iptc}" I:DigitalSourceType="{source}"/>',
        '<rdf:Description xmlns:I="{iptc}"><I:DigitalSourceType rdf:resource="{source}"/></rdf:Description>',
        "<!-- by hand --><rdf:Description xmlns:I='{iptc}'>"
        "<I:DigitalSourceType>{source}</I:DigitalSourceType></rdf:Description>",
    ],
)
def test_xmp_is_read_however_it_is_spelt(inner: str) -> None:
    said = inner.format(iptc="http://iptc.org/std/Iptc4xmpExt/2008-02-29/", source=f"{SOURCES}digitalCapture")
    rdf = f'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{said}</rdf:RDF>'
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{rdf}</x:xmpmeta>'
    for fmt in FORMATS:
        Image.new("RGB", (8, 8)).save(file := io.BytesIO(), fmt, **({} if fmt == "png" else {"xmp": packet.encode()}))
        data = png_with(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet.encode()) if fmt == "png" else file.getvalue()
        assert (found_in(data).source, found_in(data).mark) == ("digitalCapture", None)
