"""Files that are made to harm: whatever is changed in them, they are read or refused, and none takes many steps."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest
from PIL import Image
from tests.helpers.photo_home import furnish, impasto

from impasto_client import MarkError, a1111, show, xmp
from impasto_client.carriers import jpeg
from impasto_client.carriers.carrier import carrier_of
from impasto_client.carriers.notes import Notes
from impasto_client.marks import Mark, Style, bare, found_in, marked

MARK = Mark(
    {"prompt": "a red boat", "steps": 12, "seed": 7, "image": {"sha256": "2" * 64}, "adapters": [{"name": "neon"}]},
    7,
    "studio",
    "0" * 64,
    (Style("neon", "1" * 64, 0.8),),
    {"steps": 12, "guidance_scale": 3.0, "width": 64, "height": 32},
)
CONTROL = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f]")
FORMATS = ("png", "jpeg", "webp")
NUMBERS = (10**400, -(10**400), -1e300, 2**63, -1)
BAD: tuple[Any, ...] = (*NUMBERS, None, True, "\x1b[2J", "\x9b", "", "[b]", [], {}, [[]], {"sha256": 1})


def picture(fmt: str) -> bytes:
    Image.new("RGB", (64, 32), "navy").save(file := io.BytesIO(), fmt)
    return file.getvalue()


def used(data: bytes) -> str:
    """All that is done with a file's marks: "read", or "refused" by one short line."""
    try:
        found = found_in(data)
        bare(data)
    except MarkError as error:
        return "refused" if len(str(error)) < 300 and str(error).isprintable() else str(error)
    json.dumps(show.document(found))
    said = [one for mark in (found.mark,) if mark for one in (mark.json, mark.parameters)]
    a1111.read("\n".join([*said, found.parameters or ""]))
    return "read"


def bent(random: Random, value: Any) -> Any:
    """JSON with something bad in it, here and there."""
    if random.random() < 0.02:
        return random.choice(BAD)
    if isinstance(value, int | float) and random.random() < 0.1:
        return random.choice(NUMBERS)
    if isinstance(value, dict):
        return {name: bent(random, one) for name, one in value.items()}
    return [bent(random, one) for one in value] if isinstance(value, list) else value


def torn(random: Random, data: bytes) -> bytes:
    """Bytes changed, left out and repeated."""
    some = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at, length = random.randrange(12, len(some)), random.randint(1, 20)
        left_out = random.choice([0, 1, length])
        some[at : at + left_out] = random.choice([b"", random.randbytes(2), some[12 : 12 + length]])
    return bytes(some)


@pytest.mark.parametrize("fmt", FORMATS)
def test_damaged_files_are_read_or_refused(fmt: str) -> None:
    random, data = Random(5), marked(picture(fmt), MARK)
    assert {used(torn(random, data)) for _ in range(300)} == {"read", "refused"}


@pytest.mark.parametrize("fmt", FORMATS)
def test_forged_marks_are_read_or_refused(fmt: str) -> None:
    """In whole files, whose checksums are right."""
    random, plain = Random(6), picture(fmt)
    carrier = carrier_of(plain)

    def forged() -> bytes:
        own = json.dumps(bent(random, json.loads(MARK.json)))
        packet = xmp.packet("tool", xmp.PAINTED, None if carrier.has_own else own)
        text = torn(random, MARK.parameters.encode("utf-16-le")).decode("latin-1")
        return carrier.written(plain, Notes(own if carrier.has_own else None, text, packet))

    assert {used(forged()) for _ in range(300)} == {"read", "refused"}


def test_forged_marks_are_shown_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With whatever stands where a name or a number is expected; nothing reaches the terminal that it would obey."""
    furnish(tmp_path, monkeypatch)
    random, plain, file = Random(7), picture("png"), tmp_path / "forged.png"
    outcomes = set()
    for _ in range(60):
        own = json.dumps(bent(random, json.loads(MARK.json)))
        file.write_bytes(carrier_of(plain).written(plain, Notes(own)))
        for said in ((), ("--json",)):
            result = impasto("show", file, *said)
            assert result.exception is None or isinstance(result.exception, SystemExit)
            assert not CONTROL.search(result.output)
            outcomes.add(result.exit_code)
    assert outcomes == {0, 1}


def test_names_and_texts_with_control_characters_are_shown_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(tmp_path, monkeypatch)
    bad = "".join(map(chr, (*range(9), 27, *range(0x7F, 0xA0))))
    mark = replace(MARK, request={"prompt": bad, bad: bad}, engine=bad, adapters=(Style(bad, "1" * 64, kind=bad),))
    (file := tmp_path / "boat.png").write_bytes(marked(picture("png"), mark))
    assert not CONTROL.search(impasto("show", file).output)
    said = impasto("show", file, "--json").output
    assert not CONTROL.search(said)
    assert json.loads(said)["mark"]["request"] == {"prompt": bad, bad: bad}


def steps(work: Callable[[], object]) -> int:
    """How many lines of Python are run."""
    count, before = 0, sys.gettrace()

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        count += 1
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("rest", [b"", b"\xda"])
def test_a_jpeg_of_fill_bytes_alone_takes_few_steps(rest: bytes) -> None:
    data = jpeg.SIGNATURE + b"\xff" * (1 << 20) + rest

    def tried() -> None:
        with pytest.raises(MarkError, match="begins no segment"):
            jpeg.read(data)

    assert steps(tried) < 2000


def test_fill_bytes_before_a_segment_are_passed_over() -> None:
    data = marked(picture("jpeg"), MARK)
    assert found_in(data[:2] + b"\xff" * 9 + data[2:]).mark == MARK
