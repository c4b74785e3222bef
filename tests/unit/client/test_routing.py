"""The header x-adapter, by which proxies send a request to where its adapters are."""

from __future__ import annotations

from typing import Any

import pytest

from impasto_client import StyleContent, sending
from impasto_client.routing import routed
from impasto_client.wire import encode


def value(**options: Any) -> str | None:
    return dict(routed(encode("a boat", **options))).get("x-adapter")


def test_the_same_adapters_are_one_key_whatever_their_order_and_weights() -> None:
    one, other = {"wave": 0.3, "ink": 0.7}, {"ink": 1.0, "wave": -1.0}
    assert value(adapters=one) == value(adapters=other) == "ink,wave"


def test_styles_and_contents_are_adapters_too_and_each_counts_once() -> None:
    assert value(style=["neon", "neon"], content="rocket", adapters={"ink": 1.0, "neon": 0.5}) == "ink,neon,rocket"


def test_a_request_that_names_none_has_no_such_header() -> None:
    assert value() is None
    assert value(guidance=StyleContent()) is None


@pytest.mark.parametrize("name", ["a,b", "größe", "line\nbreak", "%"])
def test_a_name_that_a_header_cannot_carry_is_written_in_ascii(name: str) -> None:
    said = value(adapters=name)
    assert said is not None
    assert said.isascii()
    assert said.isprintable()
    assert "," not in said


def test_a_long_key_is_sent_as_its_hash_and_is_the_same_for_the_same_adapters() -> None:
    many = {f"adapter-{place}": 1.0 for place in range(200)}
    assert value(adapters=many) == value(adapters=dict(reversed(many.items())))
    assert value(adapters=many) != value(adapters={**many, "one-more": 1.0})
    assert len(value(adapters=many) or "") == 64


def test_the_callers_own_key_wins_and_other_headers_stay() -> None:
    with sending({"x-adapter": "blue", "traceparent": "00-1-2-01"}):
        assert routed(encode("a boat", adapters="wave")) == (("x-adapter", "blue"), ("traceparent", "00-1-2-01"))
    with sending({"traceparent": "00-1-2-01"}):
        assert routed(encode("a boat", adapters="wave")) == (("traceparent", "00-1-2-01"), ("x-adapter", "wave"))
