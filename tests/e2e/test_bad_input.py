"""Every request that can't be served is answered with the field and the fix, and the next good one succeeds."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient  # type: ignore[import-untyped]

from .wire import Tensor, ask, floats, ints, refused, texts

BOAT = {"PROMPT": texts("a red boat"), "STEPS": ints(2), "SEED": np.array([7], np.int64)}


@pytest.fixture(scope="module")
def good(toy_client: InferenceServerClient) -> bytes:
    """The picture of BOAT, before anything bad was asked."""
    return bytes(ask(toy_client, **BOAT)["IMAGE"])


def styled(name: str, *weights: float) -> dict[str, Tensor]:
    return {"ADAPTER_NAMES": texts(name), **({"ADAPTER_WEIGHTS": floats(*weights)} if weights else {})}


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
    "adapter twice": ({"ADAPTER_NAMES": texts("neon", "neon")}, "ADAPTER_NAMES: 'neon' stands there twice"),
    "truncated adapter": (styled("truncated"), "ADAPTER_NAMES: adapter 'truncated' can't be used: .*import it again"),
    "adapter with NaN": (styled("nan"), "ADAPTER_NAMES: adapter 'nan' can't be used: .*NaN"),
    "adapter of another backbone": (styled("foreign"), "ADAPTER_NAMES: .*'foreign' .*another backbone"),
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
    "unknown input": ({"STYLE": texts("neon")}, "unexpected inference input 'STYLE'"),
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


def test_a_prompt_over_the_token_limit_is_answered_with_a_warning(toy_client: InferenceServerClient) -> None:
    prompt = texts("a red boat at night in stained glass style")
    meta = json.loads(ask(toy_client, **{**BOAT, "PROMPT": prompt})["META"])
    assert len(meta["warnings"]) == 1
    assert_matches(r"^PROMPT: 9 tokens, the text encoder reads \d+; not read: '.*style'", meta["warnings"][0])


def test_bad_company_does_not_change_a_picture(toy_client: InferenceServerClient, good: bytes) -> None:
    """Good and bad requests in flight together: each gets its own answer."""
    bad = [{**BOAT, **tensors} for tensors, _ in INVALID.values()]
    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(lambda: ask(toy_client, **BOAT)["IMAGE"]) for _ in range(16)]
        refusals = [pool.submit(refused, toy_client, **tensors) for tensors in bad]
    assert all(answer.result() == good for answer in answers)
    assert {refusal.result()[0] for refusal in refusals} == {"INVALID_ARGUMENT"}


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)
