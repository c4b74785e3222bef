"""Errors keep their kind, text, field and hint on their way between Ray's processes."""

from __future__ import annotations

import pytest

from impasto_client import errors
from impasto_deploy.ray.failure import Failure

TOLD = [
    errors.ConnectError("nothing answers"),
    errors.InvalidRequest("STEPS: 0 is too few", "STEPS"),
    errors.AdapterNotFound("ADAPTER_NAMES: no adapter 'x'", "ADAPTER_NAMES"),
    errors.DeadlineExceeded("too late"),
    errors.ServerUnavailable("no scorer"),
    errors.ServerDeclined("stopping"),
    errors.ServerLost("lost"),
    errors.ServerFull("full; try again in 2 s", 2.0),
    errors.ServerError("INTERNAL: broken"),
    errors.ProtocolError("no IMAGE"),
]


@pytest.mark.parametrize("error", TOLD, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_on_the_other_side(error: errors.ImpastoError) -> None:
    again = Failure.of(error, "replica-1").error()
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_an_error_of_a_later_version_is_the_servers() -> None:
    again = Failure("NewError", "something new", "replica-1").error()
    assert type(again) is errors.ServerError
    assert str(again) == "something new"


def test_which_failures_say_that_the_server_is_gone() -> None:
    lost = {type(error).__name__ for error in TOLD if Failure.of(error, "replica-1").is_loss}
    assert lost == {"ConnectError", "ServerDeclined", "ServerLost"}


def test_which_failures_say_that_it_has_not_begun() -> None:
    untouched = {type(error).__name__ for error in TOLD if Failure.of(error, "replica-1").is_untouched}
    assert untouched == {"ConnectError", "ServerDeclined"}
