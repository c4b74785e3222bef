"""A request as JSON: it becomes the same tensors again, whatever it asks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from impasto_client import Compose, MarkError, Options
from impasto_client.asked import digest_of, digests_in, tensors_of, words_of
from impasto_client.fields import TABLE
from impasto_client.painting import encode_photo
from impasto_client.wire import Tensors, encode

FILES = [b"one", b"two", b"three"]
EVERY: Options = {
    "negative_prompt": "",
    "adapters": {"neon": 0.8, "glass": -1 / 3},
    "style": ["sks03", "sks03", "sks05"],
    "content": "cat",
    "guidance": Compose(gamma=0.1, style_strength=-2.5, text_strength=5, content_prompt="a café"),
    "steps": 25,
    "scheduler": "euler",
    "guidance_ramp": False,
    "seed": 2**63 - 1,
    "n": 2,
    "rerank": "style",
    "style_image": FILES[0],
    "width": 64,
    "height": 48,
    "format": "webp",
    "image": FILES[1],
    "strength": 0.7,
    "depth": FILES[2],
    "control_scale": 0.1,
    "model": "studio",
    "temperature": 4.5,
    "upscale_steps": 0,
}
PHOTO: dict[str, Any] = {
    "regions": [(("starry", 0.1), FILES[0]), ((FILES[1], 0.7), FILES[2])],
    "strength": 0.9,
    "detail": 0.25,
    "preserve_color": True,
    "long_side": 640,
}
CASES: dict[str, Tensors] = {
    "a prompt alone": encode("a boat"),
    "every option": encode("a boat", **EVERY),
    "adapters without weights": encode("a boat", adapters="neon"),
    "the plain scale": encode("a boat", guidance_scale=7.1),
    "a photo": encode_photo(FILES[0], None),
    "a photo in a mix": encode_photo(FILES[0], [("starry", 0.5), (FILES[1], 0.25)], mask=FILES[2]),
    "a photo in equal shares": encode_photo(FILES[0], ["starry", "wave", FILES[1]]),
    "a photo in regions": encode_photo(FILES[0], None, **PHOTO),
    "the same style twice": encode_photo(FILES[0], [("starry", 0.5), ("starry", 0.25)]),
}


def picture(field: str, digest: str) -> bytes:
    return next(file for file in FILES if digest_of(file) == digest)


@pytest.mark.parametrize("case", CASES)
def test_it_becomes_the_same_tensors_again(case: str) -> None:
    words = json.loads(json.dumps(words_of(CASES[case]), allow_nan=False))
    again = tensors_of(words, picture)
    assert sorted(again) == sorted(CASES[case])
    for name, tensor in CASES[case].items():
        assert again[name].dtype == tensor.dtype
        assert again[name].tolist() == tensor.tolist(), name


def test_numbers_are_written_as_people_write_them() -> None:
    words = words_of(encode("a boat", adapters={"neon": 0.8}, strength=0.1))
    assert words == {"prompt": "a boat", "adapters": [{"name": "neon", "weight": 0.8}], "strength": 0.1}


def test_no_field_of_the_table_is_left_out() -> None:
    """Of those that change a picture: a new row must be in a mark by itself."""
    every = {
        field.name: np.array([_example(field.dtype)], object if field.dtype == "BYTES" else None)
        for field in TABLE.fields
    }
    unsaid = {"PREVIEW_EVERY", "ADAPTER_WEIGHTS"}  # the second stands beside its name
    assert set(words_of(every)) == {field.word for field in TABLE.fields if field.name not in unsaid}


def _example(dtype: str) -> Any:
    return {"BYTES": b"x", "FP32": np.float32(1), "BOOL": np.True_, "INT32": np.int32(1), "INT64": np.int64(1)}[dtype]


def test_the_pictures_of_a_request_are_listed_with_their_fields() -> None:
    assert digests_in(words_of(CASES["every option"])) == {
        digest_of(FILES[0]): "STYLE_IMAGE",
        digest_of(FILES[1]): "IMAGE",
        digest_of(FILES[2]): "DEPTH",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"colour": "red"}, "the mark's request has 'colour', which this version doesn't know; update impasto"),
        ({"prompt": 7}, "has a bad prompt, 7"),
        ({"prompt": ["a", "b"]}, "has a bad prompt"),
        ({"steps": "25"}, "has a bad steps, '25'"),
        ({"steps": 2.5}, "has a bad steps, 2.5"),
        ({"seed": 2**64}, "has a bad seed"),
        ({"guidance_ramp": 1}, "has a bad guidance_ramp, 1"),
        ({"strength": None}, "has a bad strength, None"),
        ({"adapters": {"neon": 1}}, "has a bad adapters"),
        ({"adapters": [{"name": "a", "weight": 1}, {"name": "b"}]}, "has a bad adapters"),
        ({"adapters": [{"name": 7}]}, "has a bad adapters"),
        ({"style": "sks03"}, "has a bad style"),
        ({"style": []}, "has a bad style"),
        ({"image": "boat.png"}, "has a bad image"),
        ({"masks": [{"sha": ""}]}, "has a bad masks"),
    ],
)
def test_what_is_no_request_is_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(MarkError, match=said):
        tensors_of(words, picture)
