"""Headers that go out with requests."""

from __future__ import annotations

import asyncio
from threading import Thread

import pytest

from impasto_client import InvalidRequest, sending
from impasto_client.headers import Headers, headers


def test_they_hold_within_and_add_up() -> None:
    with sending({"traceparent": "00-1-2-01"}):
        with sending({"x-tenant": "blue"}):
            assert headers() == (("traceparent", "00-1-2-01"), ("x-tenant", "blue"))
        assert headers() == (("traceparent", "00-1-2-01"),)
    assert headers() == ()


def test_each_task_has_its_own_and_those_of_whoever_started_it() -> None:
    async def told(name: str) -> Headers:
        with sending({"x-name": name}):
            await asyncio.sleep(0)
            return headers()

    async def both() -> list[Headers]:
        with sending({"x-all": "1"}):
            return [*await asyncio.gather(told("one"), told("two"))]

    one, two = asyncio.run(both())
    assert one == (("x-all", "1"), ("x-name", "one"))
    assert two == (("x-all", "1"), ("x-name", "two"))


def test_another_thread_has_none() -> None:
    found: list[Headers] = []
    with sending({"x-name": "one"}):
        thread = Thread(target=lambda: found.append(headers()))
        thread.start()
        thread.join()
    assert found == [()]


@pytest.mark.parametrize("name", ["Traceparent", "", "grpc-timeout", "x-bytes-bin", "with space", "x\n"])
def test_a_name_that_grpc_cannot_send_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="is no name of a header; pass lower case"), sending({name: "1"}):
        pass


def test_a_value_that_grpc_cannot_send_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="pass printable ASCII"), sending({"x-name": "two\nlines"}):
        pass
