"""Requests to tensors, tensors to answers."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from impasto_client import FakeTransport, Generation, InvalidRequest, Options, Progress, ProtocolError
from impasto_client.wire import decode, decode_part, encode, encode_stream

ANSWER = FakeTransport(warnings=["PROMPT: 41 tokens"]).infer(encode("a red boat", styles={"neon": 0.5}, seed=7))


def test_what_is_not_said_is_not_sent() -> None:
    assert list(encode("a red boat")) == ["PROMPT"]
    assert list(encode("a red boat", styles={}, negative_prompt="")) == ["PROMPT"]


def test_every_word_becomes_its_tensor() -> None:
    tensors = encode(
        "ein rotes Boot 🚣",
        styles={"stained-glass": 0.9, "neon": -1},
        negative_prompt="blurry",
        steps=12,
        guidance_scale=4,
        scheduler="euler",
        seed=2**63 - 1,
        width=256,
        height=128,
        format="webp",
    )
    assert {name: (str(tensor.dtype), tensor.tolist()) for name, tensor in tensors.items()} == {
        "PROMPT": ("object", ["ein rotes Boot 🚣".encode()]),
        "ADAPTER_NAMES": ("object", [b"stained-glass", b"neon"]),
        "ADAPTER_WEIGHTS": ("float32", pytest.approx([0.9, -1])),
        "NEGATIVE_PROMPT": ("object", [b"blurry"]),
        "STEPS": ("int32", [12]),
        "GUIDANCE_SCALE": ("float32", [4.0]),
        "SCHEDULER": ("object", [b"euler"]),
        "SEED": ("int64", [2**63 - 1]),
        "WIDTH": ("int32", [256]),
        "HEIGHT": ("int32", [128]),
        "FORMAT": ("object", [b"webp"]),
    }


def test_every_option_is_documented_and_none_is_needed() -> None:
    words = re.findall(r"^    ([a-z_]+(?:, [a-z_]+)*):", Options.__doc__ or "", re.MULTILINE)
    assert ", ".join(words).split(", ") == list(Options.__annotations__)
    nothing: Any = dict.fromkeys(Options.__annotations__)
    assert list(encode("a red boat", **nothing)) == ["PROMPT"]


def test_previews_are_a_tensor_of_their_own() -> None:
    asked = encode_stream("a red boat", 5, steps=12)
    assert (str(asked["PREVIEW_EVERY"].dtype), asked["PREVIEW_EVERY"].tolist()) == ("int32", [5])
    assert list(encode_stream("a red boat", 0, steps=12)) == list(encode("a red boat", steps=12))
    with pytest.raises(InvalidRequest, match=r"PREVIEW_EVERY: 0\.5 is no whole number"):
        encode_stream("a red boat", 0.5)  # type: ignore[arg-type]


def test_a_lone_style_leaves_its_weight_to_the_server() -> None:
    assert list(encode("a red boat", styles="neon")) == ["PROMPT", "ADAPTER_NAMES"]


def test_numpy_numbers_are_numbers() -> None:
    tensors = encode("a red boat", steps=np.int64(9), guidance_scale=np.float32(1.5))  # type: ignore[arg-type]
    assert (tensors["STEPS"].tolist(), tensors["GUIDANCE_SCALE"].tolist()) == ([9], [1.5])


@pytest.mark.parametrize(
    ("words", "field", "problem"),
    [
        ({"steps": 2**31}, "STEPS", "does not fit in 32 bits"),
        ({"steps": np.int64(2**40)}, "STEPS", "does not fit in 32 bits"),
        ({"steps": 2.5}, "STEPS", "2.5 is no whole number"),
        ({"steps": True}, "STEPS", "True is no whole number"),
        ({"seed": 2**63}, "SEED", "does not fit in 64 bits"),
        ({"guidance_scale": "5"}, "GUIDANCE_SCALE", "'5' is no number"),
        ({"styles": {"neon": None}}, "ADAPTER_WEIGHTS", "None is no number"),
        ({"styles": {"\ud800": 1}}, "ADAPTER_NAMES", "character 0 can't be encoded"),
    ],
)
def test_what_a_tensor_cannot_carry_is_refused(words: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}: .*{problem}") as caught:
        encode("a red boat", **words)
    assert caught.value.field == field


def test_ranges_are_left_to_the_server() -> None:
    tensors = encode("", steps=-1, guidance_scale=1e60, styles={"neon": float("nan")})
    assert tensors["GUIDANCE_SCALE"].tolist() == [float("inf")]
    assert np.isnan(tensors["ADAPTER_WEIGHTS"]).all()


@given(prompt=st.text(), weights=st.dictionaries(st.text(min_size=1), st.floats(width=32), max_size=8))
def test_every_tensor_is_one_dimensional(prompt: str, weights: dict[str, float]) -> None:
    for tensor in encode(prompt, styles=weights).values():
        assert tensor.ndim == 1


def test_an_answer_is_read_whole() -> None:
    generation = decode(ANSWER)
    assert (generation.seed, generation.warnings) == (7, ("PROMPT: 41 tokens",))
    assert generation.meta["adapters"] == [{"name": "neon", "weight": 0.5, "digest": _digest(generation.meta)}]
    assert generation.image.size == (128, 128)
    assert generation.image is generation.image


META = json.loads(ANSWER["META"].tolist()[0])


@pytest.mark.parametrize(
    ("name", "tensor", "problem"),
    [
        ("IMAGE", None, "no IMAGE holding one bytes"),
        ("IMAGE", np.array([], dtype=np.object_), "no IMAGE holding one bytes"),
        ("SEED", np.array([1.5]), "no SEED holding one int"),
        ("META", np.array([b"{"], dtype=np.object_), "META is not JSON"),
        ("META", np.array([b"\xff"], dtype=np.object_), "META is not JSON"),
        ("META", np.array([b"[]"], dtype=np.object_), "not a JSON object"),
        ("META", np.array([b"{}"], dtype=np.object_), "no timings with queue_ms"),
        ("META", np.array([json.dumps({**META, "warnings": [1]}).encode()], dtype=np.object_), "no list of warnings"),
    ],
)
def test_an_answer_that_is_not_understood_says_so(name: str, tensor: NDArray[Any] | None, problem: str) -> None:
    answer = {**ANSWER, name: tensor} if tensor is not None else {key: ANSWER[key] for key in ANSWER if key != name}
    with pytest.raises(ProtocolError, match=problem):
        decode(answer)


STEP = {
    "STEP": np.array([3], np.int32),
    "STEPS": np.array([25], np.int32),
    "ETA_S": np.array([1.5], np.float32),
    "PREVIEW": np.array([b"png"], np.object_),
}


def test_a_part_is_a_step_or_the_answer() -> None:
    assert decode_part(STEP) == Progress(3, 25, 1.5, b"png")
    assert decode_part({name: STEP[name] for name in STEP if name != "PREVIEW"}) == Progress(3, 25, 1.5, None)
    assert isinstance(decode_part(ANSWER), Generation)


@pytest.mark.parametrize("name", ["STEP", "STEPS", "ETA_S"])
def test_a_step_that_is_not_understood_says_so(name: str) -> None:
    with pytest.raises(ProtocolError, match=f"no {name} holding one"):
        decode_part({other: STEP[other] for other in STEP if other != name})


def _digest(meta: Any) -> str:
    return str(meta["adapters"][0]["digest"])
