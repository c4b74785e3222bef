"""Marks in a gateway's pictures: whatever a request says, its file says it, or the request is refused."""

from __future__ import annotations

import base64

import httpx
import pytest

from impasto_client.marks import read
from tests.helpers.gateways import post

# No prompt has these, but they pass every other bound; in XML and JSON each becomes six characters.
UNSEEN = "\x01" * 8000


@pytest.mark.parametrize("format", ["png", "webp"])
def test_the_longest_words_fit_into_a_file(format: str) -> None:
    answer = said(format)
    assert answer.status_code == 200, answer.text
    mark = read(base64.b64decode(answer.json()["data"][0]["b64_json"]))
    assert mark is not None
    assert mark.request["negative_prompt"] == UNSEEN


def test_words_that_a_jpeg_cannot_hold_are_refused() -> None:
    answer = said("jpeg")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["message"].startswith("metadata: ")
    assert error["message"].endswith("ask for a png or webp, or leave metadata out")
    assert (error["param"], error["code"]) == ("metadata", "too_long_to_mark")
    assert answer.headers["x-should-retry"] == "false"


def test_without_metadata_they_are_painted() -> None:
    assert said("jpeg", metadata=False).status_code == 200


def said(format: str, **more: object) -> httpx.Response:
    words = {"prompt": f"a red boat {UNSEEN}", "negative_prompt": UNSEEN, "output_format": format}
    return post({**words, **more})
