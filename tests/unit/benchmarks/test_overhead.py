"""What benchmarks/overhead.py makes of its rounds."""

from __future__ import annotations

import os
from time import process_time

import pytest
from benchmarks.overhead import STEPS, Painted, Round, bare_seconds, cpu_seconds, image_time_ratio, report


def painted(seconds: float, denoise_ms: float, image: bytes = b"picture") -> Painted:
    timings = {"denoise_ms": denoise_ms, "decode_ms": 12.0, "total_ms": 1000 * seconds - 3}
    return Painted(seconds, image, {"timings": timings, "engine": "openvino", "precision": "bf16", "bundle": "d"})


def rounds(grpc_image: bytes = b"picture") -> list[Round]:
    """A forward pass of 10 ms and a decoding of 8 ms: bare, a picture takes 258 ms."""
    return [Round(painted(0.3, 280, grpc_image), painted(0.275, 255), [0.01] * STEPS, 0.008) for _ in range(3)]


def test_ratios_are_over_what_is_left_out_on_each_side() -> None:
    assert bare_seconds(rounds()) == pytest.approx(0.258)
    assert image_time_ratio(rounds()) == pytest.approx(0.275 / 0.258)
    found = report(rounds())
    assert found["p50_ratio"] == pytest.approx(0.3 / 0.275, abs=1e-4)
    assert found["denoise_difference_ms_per_step"] == 1.0
    assert found["where_ms"] == {
        "bare": {"forward": 10.0, "denoise": 250.0, "decode": 8.0},
        "grpc": {"denoise": 280, "decode": 12.0, "total": 297.0, "wire": 3.0, "loop": 30.0, "pixels": 4.0},
        "local": {"denoise": 255, "decode": 12.0, "total": 272.0, "wire": 3.0, "loop": 5.0, "pixels": 4.0},
    }


def test_a_picture_that_differs_is_seen() -> None:
    assert report(rounds())["identical_images"] == 3
    assert report(rounds(b"another"))["identical_images"] == 0


def test_cpu_time_is_read_off_the_kernel() -> None:
    assert cpu_seconds([os.getpid()]) == pytest.approx(process_time(), abs=0.1)
