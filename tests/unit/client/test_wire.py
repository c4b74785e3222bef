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

from impasto_client import (
    Candidate,
    Compose,
    FakeTransport,
    Generation,
    InvalidRequest,
    Options,
    Progress,
    ProtocolError,
    StyleContent,
    StyleDrop,
)
from impasto_client.options import Style
from impasto_client.stages import names_by_stage
from impasto_client.wire import Tensors, decode, decode_part, encode, encode_stream

ANSWER = FakeTransport(warnings=["PROMPT: 41 tokens"]).infer(encode("a red boat", adapters={"neon": 0.5}, seed=7))


def test_what_is_not_said_is_not_sent() -> None:
    assert list(encode("a red boat")) == ["PROMPT"]
    assert list(encode("a red boat", adapters={}, style=[])) == ["PROMPT"]


def test_an_empty_negative_prompt_is_sent_because_a_rule_may_have_a_default() -> None:
    assert encode("a red boat", negative_prompt="")["NEGATIVE_PROMPT"].tolist() == [b""]


def test_every_word_becomes_its_tensor() -> None:
    tensors = encode(
        "ein rotes Boot 🚣",
        adapters={"stained-glass": 0.9, "neon": -1},
        style="sks03",
        content="my-toy",
        negative_prompt="blurry",
        steps=12,
        guidance_scale=4,
        guidance_ramp=True,
        scheduler="euler",
        temperature=4.5,
        seed=2**63 - 1,
        n=4,
        rerank="style",
        style_image=b"\0\x89",
        width=256,
        height=128,
        format="webp",
        image=b"\x89PNG\0",
        strength=1,
        depth=b"\xff\xd8\0",
        control_scale=0,
    )
    assert {name: (str(tensor.dtype), tensor.tolist()) for name, tensor in tensors.items()} == {
        "PROMPT": ("object", ["ein rotes Boot 🚣".encode()]),
        "ADAPTER_NAMES": ("object", [b"stained-glass", b"neon"]),
        "ADAPTER_WEIGHTS": ("float32", pytest.approx([0.9, -1])),
        "STYLE": ("object", [b"sks03"]),
        "CONTENT": ("object", [b"my-toy"]),
        "NEGATIVE_PROMPT": ("object", [b"blurry"]),
        "STEPS": ("int32", [12]),
        "GUIDANCE_SCALE": ("float32", [4.0]),
        "GUIDANCE_RAMP": ("bool", [True]),
        "SCHEDULER": ("object", [b"euler"]),
        "TEMPERATURE": ("float32", [4.5]),
        "SEED": ("int64", [2**63 - 1]),
        "N": ("int32", [4]),
        "RERANK": ("object", [b"style"]),
        "STYLE_IMAGE": ("object", [b"\0\x89"]),
        "WIDTH": ("int32", [256]),
        "HEIGHT": ("int32", [128]),
        "FORMAT": ("object", [b"webp"]),
        "IMAGE": ("object", [b"\x89PNG\0"]),
        "STRENGTH": ("float32", [1.0]),
        "DEPTH": ("object", [b"\xff\xd8\0"]),
        "CONTROL_SCALE": ("float32", [0.0]),
    }


def test_style_and_content_apart_are_a_rule_of_their_own() -> None:
    guidance = StyleContent(style=2, content=-0.5, scale=7)
    assert _told(encode("a red boat", style="sks03", guidance=guidance)) == {
        "PROMPT": [b"a red boat"],
        "STYLE": [b"sks03"],
        "GUIDANCE": [b"dreamstyler"],
        "GUIDANCE_SCALE": [7.0],
        "STYLE_GUIDANCE": [2.0],
        "CONTENT_GUIDANCE": [-0.5],
    }


def test_what_a_rule_leaves_open_is_not_sent() -> None:
    tensors = encode("a red boat", guidance=StyleContent(content=0, convention="code"))
    assert _told(tensors) == {
        "PROMPT": [b"a red boat"],
        "GUIDANCE": [b"dreamstyler-code"],
        "CONTENT_GUIDANCE": [0.0],
    }


@pytest.mark.parametrize(
    ("guidance", "sent"),
    [
        (StyleDrop(), {"GUIDANCE": [b"styledrop"]}),
        (StyleDrop(0, -5), {"GUIDANCE": [b"styledrop"], "STYLE_STRENGTH": [0.0], "TEXT_STRENGTH": [-5.0]}),
        (Compose(), {"GUIDANCE": [b"styledrop-compose"]}),
        (
            Compose(gamma=0.75, style_strength=2, text_strength=5, content_prompt=""),
            {
                "GUIDANCE": [b"styledrop-compose"],
                "GAMMA": [0.75],
                "STYLE_STRENGTH": [2.0],
                "TEXT_STRENGTH": [5.0],
                "CONTENT_PROMPT": [b""],
            },
        ),
    ],
)
def test_guidance_by_adapters_says_its_strengths(guidance: StyleDrop | Compose, sent: dict[str, list[Any]]) -> None:
    told = _told(encode("a red fish", style="stained-glass", content="my-toy", guidance=guidance))
    assert told == {"PROMPT": [b"a red fish"], "STYLE": [b"stained-glass"], "CONTENT": [b"my-toy"], **sent}


def test_what_contradicts_itself_reaches_the_server() -> None:
    told = _told(encode("a red fish", content="my-toy", guidance=StyleDrop(), guidance_scale=4))
    assert told == {
        "PROMPT": [b"a red fish"],
        "CONTENT": [b"my-toy"],
        "GUIDANCE": [b"styledrop"],
        "GUIDANCE_SCALE": [4.0],
    }


@pytest.mark.parametrize("flag", [False, np.False_])
def test_a_flag_that_is_false_is_said(flag: Any) -> None:
    assert _told(encode("a red boat", guidance_ramp=flag))["GUIDANCE_RAMP"] == [False]


@pytest.mark.parametrize(
    ("style", "names"),
    [
        ("sks03", ["sks03"]),
        (["sks03"], ["sks03"]),
        (("sks03", "sks05", "sks03"), ["sks03", "sks05", "sks03"]),
        ({"sks03": range(2), "sks05": range(2, 3)}, ["sks03", "sks03", "sks05"]),
        ({"sks05": range(2, 3), "sks03": range(2)}, ["sks03", "sks03", "sks05"]),
        ({"sks03": range(0, 5, 2), "sks05": range(3, 0, -2)}, ["sks03", "sks05", "sks03", "sks05", "sks03"]),
        ({"sks03": range(64)}, ["sks03"] * 64),
    ],
)
def test_a_style_is_one_name_or_one_for_each_stage(style: Style, names: list[str]) -> None:
    assert _told(encode("a red boat", style=style))["STYLE"] == [name.encode() for name in names]


@pytest.mark.parametrize(
    ("style", "problem"),
    [
        ({"a": range(2), "b": range(3, 6)}, "stage 2 has no style; cover 0 to 5, each once"),
        ({"a": range(1, 3)}, "stage 0 has no style; cover 0 to 2, each once"),
        ({"a": range(3), "b": range(2, 6)}, "stage 2 has both 'a' and 'b'; give it one of them"),
        ({"a": range(-1, 3)}, "stage -1 of 'a' is out of range; pass 0 to 63"),
        ({"a": range(10**15)}, "stage 64 of 'a' is out of range; pass 0 to 63"),
        ({"a": range(3), "b": range(0)}, "range(0, 0) of 'b' is empty"),
        ({"neon": 0.5}, "0.5 of 'neon' is not a range of stages; pass e.g. range(0, 3); a weight belongs in adapters"),
        (["a", 3], "3 is not text; pass a str"),
        ({"a", "b"}, "is not a style; pass a name, or one for each stage"),
    ],
)
def test_stages_that_are_not_covered_once_are_named(style: Any, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^STYLE: .*{re.escape(problem)}") as caught:
        encode("a red boat", style=style)
    assert caught.value.field == "STYLE"


@given(names=st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_shares_of_every_kind_become_the_names_they_came_from(names: list[str]) -> None:
    shares = [(name, range(stage, stage + 1)) for stage, name in enumerate(names)]
    assert names_by_stage(reversed(shares)) == names


def test_every_option_is_documented_and_none_is_needed() -> None:
    words = re.findall(r"^    ([a-z_]+(?:, [a-z_]+)*):", Options.__doc__ or "", re.MULTILINE)
    assert ", ".join(words).split(", ") == list(Options.__annotations__)
    nothing: Any = dict.fromkeys(Options.__annotations__)
    assert list(encode("a red boat", **nothing)) == ["PROMPT"]


def test_previews_are_a_tensor_of_their_own() -> None:
    asked = encode_stream("a red boat", 5, steps=12)
    assert (str(asked["PREVIEW_EVERY"].dtype), asked["PREVIEW_EVERY"].tolist()) == ("int32", [5])
    assert list(encode_stream("a red boat", 0, steps=12)) == list(encode("a red boat", steps=12))


@pytest.mark.parametrize("every", [0.5, False, "", [], np.array([1, 2])], ids=str)
def test_previews_come_after_a_whole_number_of_steps(every: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^PREVIEW_EVERY: .* is not a whole number"):
        encode_stream("a red boat", every)


WRONG: Any = [
    3,
    0.5,
    True,
    b"x",
    "x",
    [],
    ["x"],
    (3,),
    {"x"},
    {"x": 1},
    {},
    object(),
    10**5000,
    np.array([1, 2]),
    range(3),
]


@pytest.mark.parametrize("word", Options.__annotations__)
@pytest.mark.parametrize("value", WRONG, ids=lambda value: type(value).__name__)
def test_a_value_of_any_type_is_sent_or_refused_by_name(word: Any, value: object) -> None:
    error = _refused({word: value})
    if error is not None:
        assert str(error).startswith(f"{error.field}: ")
        assert error.field in (word.upper(), *{"adapters": ("ADAPTER_NAMES", "ADAPTER_WEIGHTS")}.get(word, ()))


def _refused(options: Any) -> InvalidRequest | None:
    try:
        encode("a red boat", **options)
    except InvalidRequest as error:
        return error
    return None


def test_a_lone_adapter_leaves_its_weight_to_the_server() -> None:
    assert list(encode("a red boat", adapters="neon")) == ["PROMPT", "ADAPTER_NAMES"]


def test_numpy_numbers_are_numbers() -> None:
    tensors = encode("a red boat", steps=np.int64(9), guidance_scale=np.float32(1.5))  # type: ignore[arg-type]
    assert (tensors["STEPS"].tolist(), tensors["GUIDANCE_SCALE"].tolist()) == ([9], [1.5])


@pytest.mark.parametrize(
    ("words", "field", "problem"),
    [
        ({"steps": 2**31}, "STEPS", "does not fit in 32 bits"),
        ({"steps": np.int64(2**40)}, "STEPS", "does not fit in 32 bits"),
        ({"steps": 2.5}, "STEPS", "2.5 is not a whole number"),
        ({"steps": True}, "STEPS", "True is not a whole number"),
        ({"seed": 2**63}, "SEED", "does not fit in 64 bits"),
        ({"guidance_scale": "5"}, "GUIDANCE_SCALE", "'5' is not a number"),
        ({"adapters": {"neon": None}}, "ADAPTER_WEIGHTS", "None is not a number"),
        ({"adapters": {"\ud800": 1}}, "ADAPTER_NAMES", "character 0 can't be encoded"),
        ({"style": ["sks03", "\ud800"]}, "STYLE", "character 0 can't be encoded"),
        (
            {"adapters": ["neon", "halftone"]},
            "ADAPTER_NAMES",
            r"\['neon', 'halftone'\] does not name .*dict of names to weights",
        ),
        ({"adapters": ("neon",)}, "ADAPTER_NAMES", "pass a name or a dict of names to weights"),
        ({"adapters": {"neon"}}, "ADAPTER_NAMES", "pass a name or a dict of names to weights"),
        ({"adapters": 3}, "ADAPTER_NAMES", "3 does not name adapters; pass a name or a dict"),
        ({"adapters": []}, "ADAPTER_NAMES", "pass a name or a dict"),
        ({"adapters": 0}, "ADAPTER_NAMES", "0 does not name adapters"),
        ({"adapters": np.array(["neon", "halftone"])}, "ADAPTER_NAMES", "pass a name or a dict"),
        ({"adapters": {3: 0.5}}, "ADAPTER_NAMES", "3 is not text"),
        ({"style": 0}, "STYLE", "0 is not a style; pass a name"),
        ({"style": b"sks03"}, "STYLE", "b'sks03' is not a style"),
        ({"style": np.array(["sks03", "sks05"])}, "STYLE", "is not a style"),
        ({"content": 3}, "CONTENT", "3 is not text; pass a str"),
        ({"negative_prompt": ["blurry"]}, "NEGATIVE_PROMPT", "is not text; pass a str"),
        ({"steps": 10**5000}, "STEPS", "a value of type int does not fit in 32 bits"),
        ({"steps": np.array([3, 4])}, "STEPS", "is not a whole number"),
        ({"guidance_scale": np.array([3.0, 4.0])}, "GUIDANCE_SCALE", "is not a number"),
        ({"guidance": StyleContent(convention=["paper"])}, "GUIDANCE", "is unknown"),  # type: ignore[arg-type]
        ({"strength": "all"}, "STRENGTH", "'all' is not a number"),
        ({"control_scale": True}, "CONTROL_SCALE", "True is not a number"),
        ({"guidance": StyleContent("much")}, "STYLE_GUIDANCE", "'much' is not a number"),  # type: ignore[arg-type]
        ({"guidance": StyleContent(content="much")}, "CONTENT_GUIDANCE", "'much' is no"),  # type: ignore[arg-type]
        ({"guidance": StyleContent(convention="mine")}, "GUIDANCE", "'mine' is unknown"),  # type: ignore[arg-type]
        ({"guidance": "dreamstyler"}, "GUIDANCE", "'dreamstyler' is not a guidance; pass a StyleContent, a StyleDrop"),
        ({"guidance": StyleDrop}, "GUIDANCE", "is not a guidance"),
        ({"guidance": StyleDrop("much")}, "STYLE_STRENGTH", "'much' is not a number"),  # type: ignore[arg-type]
        ({"guidance": StyleDrop(None, True)}, "TEXT_STRENGTH", "True is not a number"),
        ({"guidance": Compose(gamma="half")}, "GAMMA", "'half' is not a number"),  # type: ignore[arg-type]
        ({"guidance": Compose(content_prompt=3)}, "CONTENT_PROMPT", "3 is not text"),  # type: ignore[arg-type]
        ({"content": b"my-toy"}, "CONTENT", "b'my-toy' is not text"),
        ({"guidance_ramp": 1}, "GUIDANCE_RAMP", "1 is neither true nor false; pass a bool"),
        ({"temperature": "hot"}, "TEMPERATURE", "'hot' is not a number"),
        ({"n": 2.0}, "N", "2.0 is not a whole number"),
        ({"rerank": True}, "RERANK", "True is not text"),
        ({"style_image": "style.png"}, "STYLE_IMAGE", "a value of type str is not a picture"),
        ({"guidance": StyleContent(), "guidance_scale": 4}, "GUIDANCE_SCALE", r"pass StyleContent\(scale=4\)"),
    ],
)
def test_what_a_tensor_cannot_carry_is_refused(words: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}: .*{problem}") as caught:
        encode("a red boat", **words)
    assert caught.value.field == field


def test_ranges_are_left_to_the_server() -> None:
    tensors = encode("", steps=-1, guidance_scale=1e60, adapters={"neon": float("nan")})
    assert tensors["GUIDANCE_SCALE"].tolist() == [float("inf")]
    assert np.isnan(tensors["ADAPTER_WEIGHTS"]).all()
    assert _told(encode("", guidance=StyleContent(style=-99), strength=7))["STYLE_GUIDANCE"] == [-99]


@given(prompt=st.text(), weights=st.dictionaries(st.text(min_size=1), st.floats(width=32), max_size=8))
def test_every_tensor_is_one_dimensional(prompt: str, weights: dict[str, float]) -> None:
    for tensor in encode(prompt, adapters=weights).values():
        assert tensor.ndim == 1


def test_an_answer_is_read_whole() -> None:
    generation = decode(ANSWER)
    assert (generation.seed, generation.warnings) == (7, ("PROMPT: 41 tokens",))
    assert generation.meta["adapters"] == [{"name": "neon", "weight": 0.5, "digest": _digest(generation.meta)}]
    assert generation.image.size == (128, 128)
    assert generation.image is generation.image


MANY = {**ANSWER, "IMAGE": np.array([b"best", b"next"], np.object_), "SEED": np.array([9, 7])}
SCORED = {**MANY, "SCORE": np.array([0.5, 0.25], np.float32)}


def test_the_first_of_many_candidates_is_the_one_that_is_meant() -> None:
    generation = decode(MANY)
    assert generation.candidates == (Candidate(b"best", 9, None), Candidate(b"next", 7, None))
    assert (generation.data, generation.seed) == (b"best", 9)
    assert decode(SCORED).candidates == (Candidate(b"best", 9, 0.5), Candidate(b"next", 7, 0.25))


@pytest.mark.parametrize(
    ("name", "tensor", "problem"),
    [
        ("IMAGE", np.array([b"best"], np.object_), "1 of IMAGE, 2 of SEED and 2 of SCORE"),
        ("SEED", np.array([9, 7, 8]), "2 of IMAGE, 3 of SEED and 2 of SCORE"),
        ("SCORE", np.array([0.5], np.float32), "2 of IMAGE, 2 of SEED and 1 of SCORE"),
        ("SCORE", np.array([1, 2]), "no SCORE of type float"),
        ("SEED", np.array([[9], [7]]), "no SEED of type int"),
    ],
)
def test_candidates_that_do_not_agree_are_a_protocol_error(name: str, tensor: NDArray[Any], problem: str) -> None:
    with pytest.raises(ProtocolError, match=problem):
        decode({**SCORED, name: tensor})


META = json.loads(ANSWER["META"].tolist()[0])


@pytest.mark.parametrize(
    ("name", "tensor", "problem"),
    [
        ("IMAGE", None, "no IMAGE of type bytes"),
        ("IMAGE", np.array([], dtype=np.object_), "no IMAGE of type bytes"),
        ("SEED", np.array([1.5]), "no SEED of type int"),
        ("META", np.array([b"{}", b"{}"], dtype=np.object_), "no META of one bytes"),
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
    assert decode_part(STEP) == Progress(3, 25, 1.5, (b"png",))
    assert decode_part({name: STEP[name] for name in STEP if name != "PREVIEW"}) == Progress(3, 25, 1.5, ())
    assert isinstance(decode_part(ANSWER), Generation)


def test_a_step_shows_every_candidate() -> None:
    part = decode_part({**STEP, "PREVIEW": np.array([b"png", b"gnp"], np.object_)})
    assert isinstance(part, Progress)
    assert (part.previews, part.preview) == ((b"png", b"gnp"), b"png")
    assert Progress(3, 25, 1.5).preview is None


@pytest.mark.parametrize("name", ["STEP", "STEPS", "ETA_S"])
def test_a_step_that_is_not_understood_says_so(name: str) -> None:
    with pytest.raises(ProtocolError, match=f"no {name} of type"):
        decode_part({other: STEP[other] for other in STEP if other != name})


def _told(tensors: Tensors) -> dict[str, list[Any]]:
    return {name: tensor.tolist() for name, tensor in tensors.items()}


def _digest(meta: Any) -> str:
    return str(meta["adapters"][0]["digest"])
