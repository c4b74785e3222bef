"""Who is let in, and when the door is shut."""

from __future__ import annotations

import pytest

from impasto_server.admission import Admission
from impasto_server.errors import Exhausted
from impasto_server.stats import Stats


def let_in(admission: Admission, bundle: Stats) -> int:
    """How many requests of a bundle are let in until one is refused."""
    for count in range(100):
        try:
            admission.enter(bundle)
        except Exhausted:
            return count
    raise AssertionError("nobody was refused")


def test_requests_of_one_bundle_never_shut_the_door_on_another() -> None:
    """Of 64 places each of two bundles has 16 for itself, and 32 are for whoever comes."""
    admission, slow, fast = Admission(64, bundles=2), Stats(), Stats()
    assert let_in(admission, slow) == 48
    assert let_in(admission, fast) == 16
    admission.leave(slow)
    admission.enter(fast)  # the place that was given back is a common one
    with pytest.raises(Exhausted, match="full with 64 requests"):
        admission.enter(slow)


def test_a_lone_bundle_has_all_places() -> None:
    admission, only = Admission(64), Stats()
    assert let_in(admission, only) == 64
    assert only.read()["rejected"] == 1
