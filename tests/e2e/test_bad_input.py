"""Every request that can't be served is answered with the field and the fix, and the next good one succeeds."""

from __future__ import annotations

import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import InferenceServerClient  # type: ignore[import-untyped]

from tests.helpers.likeness import assert_same
from tests.helpers.wire import Tensor, ask, floats, ints, refused, texts

BOAT = {"PROMPT": texts("a red boat"), "STEPS": ints(2), "SEED": np.array([7], np.int64)}


@pytest.fixture(scope="module")
def good(toy_client: InferenceServerClient) -> bytes:
    """The picture of BOAT, before anything bad was asked."""
    return bytes(ask(toy_client, **BOAT)["IMAGE"])


def styled(name: str, *weights: float) -> dict[str, Tensor]:
    return {"ADAPTER_NAMES": texts(name), **({"ADAPTER_WEIGHTS": floats(*weights)} if weights else {})}


def dual(**changed: Tensor) -> dict[str, Tensor]:
    """Style and content guidance."""
    return {"STYLE": texts("sks03"), "GUIDANCE": texts("dreamstyler"), **changed}


def picture(file_format: str) -> bytes:
    file = BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(file, file_format)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG file of a few bytes that says it is 60000 x 60000 pixels large."""
    header = (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    parts = {b"IHDR": header, b"IDAT": zlib.compress(bytes(1000)), b"IEND": b""}
    chunks = [
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        for kind, body in parts.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


NAN = floats(float("nan"))
INVALID: dict[str, tuple[dict[str, Tensor], str]] = {
    "no prompt": ({"PROMPT": texts("")}, "PROMPT: .*say what to paint"),
    "blank prompt": ({"PROMPT": texts(" \n")}, "PROMPT: .*say what to paint"),
    "100 kB prompt": ({"PROMPT": texts("a" * 100_000)}, "PROMPT: 100000 bytes .*at most 8192"),
    "prompt not UTF-8": ({"PROMPT": texts(b"a \xff boat")}, "PROMPT: byte 2 is not UTF-8"),
    "negative prompt not UTF-8": ({"NEGATIVE_PROMPT": texts(b"\xc3")}, "NEGATIVE_PROMPT: .*not UTF-8"),
    "adapter name not UTF-8": ({"ADAPTER_NAMES": texts(b"\xff")}, "ADAPTER_NAMES: .*not UTF-8"),
    "no steps": ({"STEPS": ints(0)}, "STEPS: 0 is out of range; pass 1 to 200"),
    "10000 steps": ({"STEPS": ints(10_000)}, "STEPS: 10000 is out of range; pass 1 to 200"),
    "odd width": ({"WIDTH": ints(65)}, "WIDTH: 65 is not a multiple of 16; pass 64 or 80"),
    "odd height": ({"HEIGHT": ints(1)}, "HEIGHT: 1 is not a multiple of 16"),
    "huge": ({"WIDTH": ints(4096), "HEIGHT": ints(4096)}, "WIDTH: .*pass a size of at most"),
    "weight NaN": (styled("neon", float("nan")), "ADAPTER_WEIGHTS: nan .*from -4 to 4"),
    "weight infinite": (styled("neon", float("inf")), "ADAPTER_WEIGHTS: inf .*from -4 to 4"),
    "weight out of range": (styled("neon", 5.0), "ADAPTER_WEIGHTS: 5.0 .*from -4 to 4"),
    "weight without a name": ({"ADAPTER_WEIGHTS": floats(1.0)}, "ADAPTER_WEIGHTS: 1 weights for 0 names"),
    "adapter twice": ({"ADAPTER_NAMES": texts("neon", "neon")}, "ADAPTER_NAMES: 'neon' is named twice"),
    "truncated adapter": (styled("truncated"), "ADAPTER_NAMES: adapter 'truncated' can't be used: .*import it again"),
    "adapter with NaN": (styled("nan"), "ADAPTER_NAMES: adapter 'nan' can't be used: .*NaN"),
    "adapter with a book for a prompt": (styled("book"), "ADAPTER_NAMES: adapter 'book' can't be used: its prompt '"),
    "adapter for another backbone": (styled("foreign"), "ADAPTER_NAMES: .*'foreign' .*another backbone"),
    "guidance NaN": ({"GUIDANCE_SCALE": floats(float("nan"))}, "GUIDANCE_SCALE: nan"),
    "unknown scheduler": ({"SCHEDULER": texts("ddpm")}, "SCHEDULER: 'ddpm' is unknown; pass one of ddim, "),
    "unknown format": ({"FORMAT": texts("gif")}, "FORMAT: 'gif' is unknown; pass one of png, "),
    "negative seed": ({"SEED": np.array([-1], np.int64)}, "SEED: -1 is out of range"),
    # What Triton itself refuses, by config.pbtxt:
    "wrong dtype": ({"STEPS": np.array([2], np.int64)}, "'STEPS' data-type is 'INT64', .*expects 'INT32'"),
    "text as numbers": ({"PROMPT": ints(1)}, "'PROMPT' data-type is 'INT32', .*expects 'BYTES'"),
    "two values": ({"STEPS": ints(2, 2)}, r"input 'STEPS' .*Expected \[1\], got \[2\]"),
    "two dimensions": ({"PROMPT": texts("a boat").reshape(1, 1)}, r"input 'PROMPT' .*Expected \[1\], got \[1,1\]"),
    "no values": ({"PROMPT": texts()}, r"input 'PROMPT' .*Expected \[1\], got \[0\]"),
    "unknown input": ({"STYLES": texts("neon")}, "unexpected inference input 'STYLES'"),
}
# Of styles and content images.
INVALID |= {
    "style of another width": (
        {"STYLE": texts("wide")},
        "STYLE: embedding 'wide' is 12 wide, but text_encoder of 'toy' is 8",
    ),
    "trigger of another width": ({"PROMPT": texts("a <wide>")}, "PROMPT: embedding 'wide' is 12 wide"),
    "style missing": ({"GUIDANCE": texts("dreamstyler")}, "STYLE: is missing, and GUIDANCE dreamstyler needs it"),
    "65 stages": ({"STYLE": texts(*["sks03"] * 65)}, "STYLE: 65 stages; pass one name, or at most 64"),
    "a LoRA as a style": (
        {"STYLE": texts("neon")},
        "STYLE: 'neon' is an adapter, not an embedding; name it in ADAPTER_",
    ),
    "a style as a LoRA": (styled("sks03"), "ADAPTER_NAMES: 'sks03' is an embedding; write <sks03> in PROMPT"),
    "unknown rule": (dual(GUIDANCE=texts("apg")), "GUIDANCE: 'apg' is unknown; pass one of cfg, dreamstyler"),
    "strength of no rule": ({"STYLE_GUIDANCE": floats(1.0)}, "STYLE_GUIDANCE: means nothing to GUIDANCE cfg"),
    "scale NaN": (dual(GUIDANCE_SCALE=NAN), "GUIDANCE_SCALE: nan .*from -50 to 50"),
    "style guidance NaN": (dual(STYLE_GUIDANCE=NAN), "STYLE_GUIDANCE: nan .*from -50 to 50"),
    "content guidance NaN": (dual(CONTENT_GUIDANCE=NAN), "CONTENT_GUIDANCE: nan .*from -50 to 50"),
    "content guidance infinite": (dual(CONTENT_GUIDANCE=floats(-np.inf)), "CONTENT_GUIDANCE: -inf .*from -50 to 50"),
    "bomb": ({"IMAGE": texts(bomb())}, "IMAGE: 60000 x 60000 is 3600000000 pixels; pass at most 50000000"),
    "bomb as depth": ({"IMAGE": texts(picture("png")), "DEPTH": texts(bomb())}, "DEPTH: 60000 x 60000 is "),
    "GIF": ({"IMAGE": texts(picture("gif"))}, "IMAGE: is not a PNG, JPEG or WebP file"),
    "truncated JPEG": ({"IMAGE": texts(picture("jpeg")[:-200])}, "IMAGE: can't be read as JPEG: .*the whole file"),
    "truncated PNG": ({"IMAGE": texts(picture("png")[:-200])}, "IMAGE: is a PNG file without its end"),
    "truncated WebP": ({"IMAGE": texts(picture("webp")[:-200])}, "IMAGE: can't be read as WebP"),
    "empty file": ({"IMAGE": texts(b"")}, "IMAGE: is not a PNG, JPEG or WebP file"),
    "strength without content": ({"STRENGTH": floats(0.5)}, "STRENGTH: means nothing without IMAGE"),
    "strength too little": (
        {"IMAGE": texts(picture("png")), "STRENGTH": floats(0.3)},
        "STRENGTH: 0.3 of 2 steps is no step; pass at least 0.5, or more STEPS",
    ),
    "strength NaN": ({"IMAGE": texts(picture("png")), "STRENGTH": NAN}, "STRENGTH: nan .*from 0 to 1"),
    "control NaN": ({"IMAGE": texts(picture("png")), "CONTROL_SCALE": NAN}, "CONTROL_SCALE: nan .*from 0 to 2"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_argument(case: str, toy_client: InferenceServerClient, good: bytes) -> None:
    tensors, message = INVALID[case]
    status, said = refused(toy_client, **{**BOAT, **tensors})
    assert status == "INVALID_ARGUMENT"
    assert_matches(message, said)
    assert ask(toy_client, **BOAT)["IMAGE"] == good


def test_a_prompt_is_required(toy_client: InferenceServerClient, good: bytes) -> None:
    status, said = refused(toy_client, STEPS=ints(2))
    assert status == "INVALID_ARGUMENT"
    assert "PROMPT" in said
    assert ask(toy_client, **BOAT)["IMAGE"] == good


def test_an_unknown_adapter_is_answered_with_the_nearest(toy_client: InferenceServerClient, good: bytes) -> None:
    status, said = refused(toy_client, **BOAT, **styled("staned-glass"))
    assert status == "NOT_FOUND"
    assert_matches("ADAPTER_NAMES: no adapter 'staned-glass'; did you mean 'stained-glass'", said)
    assert ask(toy_client, **BOAT)["IMAGE"] == good


@pytest.mark.parametrize("name", ["x" * 8000, "\N{ROCKET}" * 2000])
def test_a_name_that_is_too_long_for_a_status_message_is_not_found_all_the_same(
    name: str, toy_client: InferenceServerClient
) -> None:
    """gRPC would drop the answer, and tell of RESOURCE_EXHAUSTED in its place."""
    for tensors, field in ((styled(name), "ADAPTER_NAMES"), ({"PROMPT": texts(f"a <{name}>")}, "PROMPT")):
        status, said = refused(toy_client, **{**BOAT, **tensors})
        assert (status, said[: len(field)]) == ("NOT_FOUND", field)
        assert "known: " in said


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"PROMPT": texts("a <sks30> boat")}, "PROMPT: no adapter 'sks30'; did you mean 'sks0"),
        ({"NEGATIVE_PROMPT": texts("<sks30>")}, "NEGATIVE_PROMPT: no adapter 'sks30'; did you mean 'sks0"),
        ({"STYLE": texts("sks03", "sks5")}, "STYLE: no adapter 'sks5'; did you mean 'sks05'"),
    ],
)
def test_an_unknown_trigger_is_answered_with_the_nearest(
    tensors: dict[str, Tensor], message: str, toy_client: InferenceServerClient, good: bytes
) -> None:
    status, said = refused(toy_client, **{**BOAT, **tensors})
    assert status == "NOT_FOUND"
    assert_matches(message, said)
    assert ask(toy_client, **BOAT)["IMAGE"] == good


def test_negative_strengths_are_allowed(toy_client: InferenceServerClient) -> None:
    strengths = {name: floats(-1.5) for name in ("GUIDANCE_SCALE", "STYLE_GUIDANCE", "CONTENT_GUIDANCE")}
    meta = json.loads(ask(toy_client, **BOAT, **dual(**strengths))["META"])
    assert [meta[name.lower()] for name in strengths] == [-1.5, -1.5, -1.5]


def test_a_prompt_over_the_token_limit_is_answered_with_a_warning(toy_client: InferenceServerClient) -> None:
    prompt = texts("a red boat at night in stained glass style")
    meta = json.loads(ask(toy_client, **{**BOAT, "PROMPT": prompt})["META"])
    assert len(meta["warnings"]) == 1
    assert_matches(r"^PROMPT: 9 tokens, but the text encoder reads \d+; not read: '.*style'", meta["warnings"][0])


def test_bad_company_does_not_change_a_picture(toy_client: InferenceServerClient, good: bytes) -> None:
    """Good and bad requests in flight together: each gets its own answer."""
    bad = [{**BOAT, **tensors} for tensors, _ in INVALID.values()]
    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(lambda: ask(toy_client, **BOAT)["IMAGE"]) for _ in range(16)]
        refusals = [pool.submit(refused, toy_client, **tensors) for tensors in bad]
    for answer in answers:
        assert_same(answer.result(), good)
    assert {refusal.result()[0] for refusal in refusals} == {"INVALID_ARGUMENT"}


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)
