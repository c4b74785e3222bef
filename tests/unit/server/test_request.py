from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from impasto_server.bundle import Manifest
from impasto_server.errors import InvalidArgument
from impasto_server.request import parse


def text(*values: str | bytes) -> Any:
    return np.array([v.encode() if isinstance(v, str) else v for v in values], object)


def test_a_prompt_is_enough(manifest: Manifest) -> None:
    request = parse({"PROMPT": text("a red boat")}, manifest)
    assert (request.prompt, request.negative_prompt, request.adapters) == ("a red boat", "", ())
    assert (request.steps, request.guidance_scale, request.scheduler) == (25, 3.0, "dpmpp_2m")
    assert (request.width, request.height, request.format) == (64, 64, "png")
    assert 0 <= request.seed < 2**32


def test_a_seed_is_drawn_anew_when_none_is_given(manifest: Manifest) -> None:
    assert len({parse({"PROMPT": text("a boat")}, manifest).seed for _ in range(8)}) > 1


def test_every_field_is_read(manifest: Manifest) -> None:
    request = parse(
        {
            "PROMPT": text("a réd boat"),
            "NEGATIVE_PROMPT": text("blurry"),
            "ADAPTER_NAMES": text("neon", "glass"),
            "ADAPTER_WEIGHTS": np.array([0.5, -1], np.float32),
            "STEPS": np.array([7], np.int32),
            "GUIDANCE_SCALE": np.array([1.5], np.float32),
            "SCHEDULER": text("euler"),
            "SEED": np.array([2**63 - 1], np.int64),
            "WIDTH": np.array([32], np.int32),
            "HEIGHT": np.array([48], np.int32),
            "FORMAT": text("webp"),
        },
        manifest,
    )
    assert request.prompt == "a réd boat"
    assert request.adapters == (("neon", 0.5), ("glass", -1.0))
    assert (request.steps, request.guidance_scale, request.scheduler) == (7, 1.5, "euler")
    assert (request.seed, request.width, request.height, request.format) == (2**63 - 1, 32, 48, "webp")


BAD: list[tuple[str, Any, str]] = [
    ("PROMPT", text(""), "say what to paint"),
    ("PROMPT", text(" \n"), "say what to paint"),
    ("PROMPT", text(b"\xff\xfe"), "UTF-8"),
    ("PROMPT", text("x" * 100_000), "at most 8192"),
    ("PROMPT", text("a", "b"), "exactly one"),
    ("STEPS", np.array([0], np.int32), "pass 1 to 200"),
    ("STEPS", np.array([10_000], np.int32), "pass 1 to 200"),
    ("GUIDANCE_SCALE", np.array([np.nan], np.float32), "finite"),
    ("GUIDANCE_SCALE", np.array([51], np.float32), "0 to 50"),
    ("SCHEDULER", text("heun"), "ddim, dpmpp_2m, euler"),
    ("SEED", np.array([-1], np.int64), "pass 0 to"),
    ("WIDTH", np.array([60], np.int32), "pass 48 or 64"),
    ("HEIGHT", np.array([3], np.int32), "pass 16 or 32"),
    ("WIDTH", np.array([4096], np.int32), "at most 16384 pixels"),
    ("FORMAT", text("gif"), "png, jpeg, webp"),
    ("ADAPTER_NAMES", text("neon", "neon"), "name it once"),
    ("ADAPTER_NAMES", text(*(f"s{i}" for i in range(9))), "at most 8"),
    ("ADAPTER_WEIGHTS", np.array([1], np.float32), "one weight for each"),
    ("COLOUR", text("red"), "known inputs"),
]


@pytest.mark.parametrize(("field", "value", "fix"), BAD)
def test_bad_input_names_the_field_and_the_fix(field: str, value: Any, fix: str, manifest: Manifest) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse({"PROMPT": text("a boat"), field: value}, manifest)
    assert str(caught.value).startswith(f"{field}: ")
    assert fix in str(caught.value)


@pytest.mark.parametrize("weight", [np.nan, np.inf, 4.5, -5])
def test_a_weight_must_be_finite_and_in_range(weight: float, manifest: Manifest) -> None:
    tensors = {"PROMPT": text("a"), "ADAPTER_NAMES": text("neon"), "ADAPTER_WEIGHTS": np.array([weight], np.float32)}
    with pytest.raises(InvalidArgument, match="^ADAPTER_WEIGHTS: .* from -4 to 4"):
        parse(tensors, manifest)


def test_a_prompt_must_be_there(manifest: Manifest) -> None:
    with pytest.raises(InvalidArgument, match="^PROMPT: "):
        parse({}, manifest)
