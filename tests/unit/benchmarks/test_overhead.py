"""What benchmarks/overhead.py makes of its rounds."""

from __future__ import annotations

import io
import os
from collections import Counter
from time import process_time

import pytest
from benchmarks.common.door import pixels
from benchmarks.overhead import STEPS, Painted, Round, bare_seconds, cpu_seconds, image_time_ratio, report
from benchmarks.parts.overhead.refusals import Windows
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def png(colour: str, marks: PngInfo | None = None) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG", pnginfo=marks)
    return file.getvalue()


def marked(colour: str) -> bytes:
    marks = PngInfo()
    marks.add_text("parameters", "a red boat")
    return png(colour, marks)


PLAIN, MARKED = png("red"), marked("red")


def painted(seconds: float, denoise_ms: float, image: bytes = PLAIN) -> Painted:
    timings = {"denoise_ms": denoise_ms, "decode_ms": 12.0, "total_ms": 1000 * seconds - 3}
    return Painted(seconds, image, {"timings": timings, "engine": "openvino", "precision": "bf16", "bundle": "d"})


def rounds(grpc_image: bytes = PLAIN) -> list[Round]:
    """A forward pass of 10 ms and a decoding of 8 ms: bare, a picture takes 258 ms."""
    return [
        Round(painted(0.3, 280, grpc_image), painted(0.303, 280, MARKED), painted(0.275, 255), [0.01] * STEPS, 0.008)
        for _ in range(3)
    ]


def test_ratios_are_over_what_is_left_out_on_each_side() -> None:
    assert bare_seconds(rounds()) == pytest.approx(0.258)
    assert image_time_ratio(rounds()) == pytest.approx(0.275 / 0.258)
    found = report(rounds())
    assert found["http_ratio"] == pytest.approx(0.303 / 0.3, abs=1e-4)
    assert found["p50_ratio"] == pytest.approx(0.3 / 0.275, abs=1e-4)
    assert found["denoise_difference_ms_per_step"] == 1.0
    assert found["where_ms"] == {
        "bare": {"forward": 10.0, "denoise": 250.0, "decode": 8.0},
        "grpc": {"denoise": 280, "decode": 12.0, "total": 297.0, "wire": 3.0, "loop": 30.0, "pixels": 4.0},
        "local": {"denoise": 255, "decode": 12.0, "total": 272.0, "wire": 3.0, "loop": 5.0, "pixels": 4.0},
    }


def test_a_picture_that_differs_is_seen() -> None:
    assert report(rounds())["identical_images"] == 3
    assert report(rounds(png("blue")))["identical_images"] == 0


def test_marks_are_no_difference_over_http_but_pixels_are() -> None:
    assert report(rounds())["identical_http"] == 3
    assert report(rounds(png("blue")))["identical_http"] == 0
    assert pixels(MARKED) == pixels(PLAIN) != pixels(marked("blue"))


def test_what_refused_traffic_takes_is_a_share_of_the_crowds_pictures() -> None:
    found = Windows([20.0, 40.0, 10.0], [19.0, 38.0, 9.5], Counter({429: 3, 401: 4})).report()
    assert found["throughput_ratio"] == 0.95
    assert found["refused"] == {"401": 4, "429": 3}


def test_cpu_time_is_read_off_the_kernel() -> None:
    assert cpu_seconds([os.getpid()]) == pytest.approx(process_time(), abs=0.1)
