from __future__ import annotations

from urllib.parse import quote

import pytest

from impasto_server.errors import InvalidArgument, brief, shown

ROOM = 8 << 10  # of gRPC's metadata; a status message is percent-encoded there


@pytest.mark.parametrize("text", ["a" * 100_000, "é" * 10_000, "\N{ROCKET}" * 10_000, "\ud800" * 10_000])
def test_a_message_fits_where_it_has_to_travel(text: str) -> None:
    said = brief(f"PROMPT: {text}")
    assert said.startswith("PROMPT: ")
    assert 1000 < len(quote(said)) < ROOM


def test_most_messages_are_not_cut() -> None:
    message = str(InvalidArgument("PROMPT", "is \N{ROCKET}", "say what to paint"))
    assert brief(message) == message


def test_of_a_long_text_the_beginning_is_shown() -> None:
    assert shown("a boat") == "'a boat'"
    assert shown("x" * 65) == "'" + "x" * 64 + "…'"
