"""Pictures and what they are compared with to tensors, tensors to scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from impasto_client import InvalidRequest, ProtocolError
from impasto_client.options import Pictures
from impasto_client.scoring import decode_score, encode_score


@pytest.mark.parametrize(
    ("images", "text", "reference", "sent"),
    [
        ([b"a\0", b"b"], "a fish", None, {"IMAGE": [b"a\0", b"b"], "TEXT": [b"a fish"]}),
        (
            (b"a", b"b"),
            ["a fish", "ein Fisch 🐟"],
            None,
            {"IMAGE": [b"a", b"b"], "TEXT": [b"a fish", b"ein Fisch \xf0\x9f\x90\x9f"]},
        ),
        (b"ab", None, b"cd", {"IMAGE": [b"ab"], "REFERENCE": [b"cd"]}),
        ([b"a", b"b"], None, [b"c", b"d"], {"IMAGE": [b"a", b"b"], "REFERENCE": [b"c", b"d"]}),
        ([b"a"], None, None, {"IMAGE": [b"a"]}),
        ([b"a"], "", b"c", {"IMAGE": [b"a"], "TEXT": [b""], "REFERENCE": [b"c"]}),
    ],
)
def test_what_is_said_is_sent_and_the_rest_is_the_servers_to_judge(
    images: Pictures, text: str | list[str] | None, reference: Pictures | None, sent: dict[str, list[bytes]]
) -> None:
    tensors = encode_score(images, text, reference)
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == sent
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.object_)}


def test_a_picture_is_bytes_a_path_or_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8")
    first, second = encode_score([tmp_path / "a.jpg", Image.new("L", (2, 2))], None, None)["IMAGE"].tolist()
    assert first == b"\xff\xd8"
    assert second.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("images", "text", "reference", "problem"),
    [
        ([], "a fish", None, "IMAGE: there is no picture; pass at least one"),
        ("a.png", "a fish", None, "IMAGE: a value of type str is not a picture"),
        (3, "a fish", None, "IMAGE: a value of type int is not a picture"),
        ([b"a"], [], None, "TEXT: there is no text; pass at least one"),
        ([b"a"], 3, None, "TEXT: 3 is not text; pass a str"),
        ([b"a"], None, Path("no/such.png"), "REFERENCE: can't read 'no/such.png'"),
    ],
)
def test_what_a_tensor_cannot_carry_is_refused(images: Any, text: Any, reference: Any, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{problem}") as caught:
        encode_score(images, text, reference)
    assert caught.value.field == problem.partition(":")[0]


def test_an_answer_has_a_score_for_each_picture() -> None:
    assert decode_score({"SCORE": np.array([0.5, -1], np.float32)}, 2) == [0.5, -1.0]


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({}, "no SCORE of type float"),
        ({"SCORE": np.array([0.5], np.float32)}, "1 values of SCORE for 2 pictures"),
        ({"SCORE": np.array([[0.5], [1.0]], np.float32)}, "no SCORE of type float"),
    ],
)
def test_an_answer_that_is_not_understood_says_so(tensors: dict[str, NDArray[Any]], problem: str) -> None:
    with pytest.raises(ProtocolError, match=problem):
        decode_score(tensors, 2)
