"""Requests whose server dies are sent again: nobody is lost, the picture is the same, and it ends somewhere."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from impasto_client import AsyncClient, FakeTransport
from impasto_client.errors import (
    AdapterNotFound,
    DeadlineExceeded,
    ImpastoError,
    InvalidRequest,
    ServerDeclined,
    ServerError,
    ServerFull,
    ServerUnavailable,
)
from impasto_gateway import replay, server, upstream
from impasto_gateway.callers import Allowance, Caller
from impasto_gateway.keyring import append, made
from impasto_gateway.replay import DEATHS
from impasto_gateway.routing import Wanted
from impasto_gateway.settings import GatewaySettings
from impasto_gateway.turn import SUSPECT, Turn
from impasto_gateway.upstream import Upstream
from tests.helpers.gateways import app_over, calling, connected, fake, listening, png, post, request_bytes
from tests.helpers.mortals import GONE, LOST, BoxTransport, MortalTransport
from tests.helpers.waiting import eventually

STEPS = 8
BOAT = {"prompt": "a red boat", "steps": STEPS, "seed": 7}
STREAM = {**BOAT, "stream": True, "progress": True, "partial_images": 3}
ALL = STEPS + 1  # responses of a stream: its steps, and the picture
DECLINED = ServerDeclined("the server is stopping; send the request to another one, or later")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are asked again at once whether they are back."""
    monkeypatch.setattr(server, "FRESH_S", 0.0)
    monkeypatch.setattr(upstream, "PAUSE_S", 0.01)


def events(answer: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    assert answer.status_code == 200, answer.text
    lines = [one.split("\n") for one in answer.text.split("\n\n") if one and not one.startswith(":")]
    return [(name.removeprefix("event: image_generation."), json.loads(data[6:])) for name, data in lines]


def picture(answer: httpx.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def seeds(*transports: FakeTransport) -> list[int]:
    return [tensors["SEED"].item() for one in transports for tensors in one.requests]


@pytest.mark.parametrize("servers", [1, 2])
def test_a_request_whose_server_died_gets_the_same_picture(servers: int) -> None:
    mortals = [MortalTransport(deaths=[0]) for _ in range(servers)]
    answer, quiet = post(BOAT, *mortals), post(BOAT)
    assert picture(answer) == picture(quiet)
    assert sum(len(one.fake.requests) for one in mortals) == 1 + servers


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("death", [0, 1, STEPS // 2, STEPS - 1, STEPS, ALL])
def test_a_stream_goes_on_with_the_next_step(death: int, servers: int) -> None:
    """It died before the first step, after some, after the last preview, while it sent the picture, or after that."""
    mortals = [MortalTransport(deaths=[death]) for _ in range(servers)]
    told, quiet = events(post(STREAM, *mortals)), events(post(STREAM))
    assert [name for name, _ in told] == [name for name, _ in quiet]
    assert [data["step"] for name, data in told if name == "progress"] == list(range(1, ALL))
    previews = [[one for one in both if one[0] == "partial_image"] for both in (told, quiet)]
    assert [one["partial_image_index"] for _, one in previews[0]] == [0, 1, 2]
    assert [one["b64_json"] for _, one in previews[0]] == [one["b64_json"] for _, one in previews[1]]
    assert told[-1][0] == "completed"
    assert told[-1][1]["b64_json"] == quiet[-1][1]["b64_json"]


def test_a_stream_may_lose_two_servers() -> None:
    told = events(post(STREAM, MortalTransport(deaths=[5]), MortalTransport(deaths=[2])))
    assert [data["step"] for name, data in told if name == "progress"] == list(range(1, ALL))
    assert [name for name, _ in told].count("completed") == 1


@pytest.mark.parametrize("stream", [False, True])
def test_who_gave_no_seed_gets_the_picture_that_was_begun(stream: bool) -> None:
    mortals = [MortalTransport(deaths=[3]), MortalTransport(deaths=[3])]
    answer = post({"prompt": "a red boat", "stream": stream}, *mortals)
    assert answer.status_code == 200
    drawn = seeds(*(one.fake for one in mortals))
    assert len(drawn) == 3
    assert len(set(drawn)) == 1
    assert str(drawn[0]) in answer.text


def test_seeds_that_nobody_gave_differ() -> None:
    one = fake()
    for _ in range(2):
        post({"prompt": "a red boat"}, one)
    assert len(set(seeds(one))) == 2


def test_a_photo_is_painted_again_too() -> None:
    async def asked(*transports: Any) -> httpx.Response:
        async with calling(app_over(*transports)) as client:
            form = {"model": "stylizer", "style": "starry"}
            return await client.post("/v1/images/edits", data=form, files={"image": png()})

    assert picture(asyncio.run(asked(MortalTransport(deaths=[0])))) == picture(asyncio.run(asked(fake())))


REFUSALS: Sequence[ImpastoError] = (
    InvalidRequest("STEPS: 0 is out of range; pass 1 to 200", "STEPS"),
    AdapterNotFound("no adapter 'x'"),
    ServerFull("the server is full with 64 requests; try again in 1.0 s", 1.0),
    DeadlineExceeded("1 s have passed"),
    ServerError("INTERNAL: it failed"),
    ServerUnavailable("ADAPTER_NAMES: 'neon': the registry doesn't answer; try again later"),
)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_what_a_server_refuses_is_never_sent_again(error: ImpastoError, stream: bool) -> None:
    mortals = [MortalTransport(deaths=[0] * 9, error=error) for _ in range(2)]
    assert post({**BOAT, "stream": stream}, *mortals).status_code >= 400
    assert sum(len(one.fake.requests) for one in mortals) == 1


def test_a_server_that_stops_sends_requests_to_another() -> None:
    """Which is no death: it may happen more often."""
    mortals = [MortalTransport(deaths=[0] * 9, error=DECLINED, away=99) for _ in range(DEATHS + 1)]
    answer = post(BOAT, *mortals, fake())
    assert picture(answer) == picture(post(BOAT))


@pytest.mark.parametrize("error", [DECLINED, GONE])
def test_a_request_that_nobody_has_taken_does_not_wait(error: ImpastoError) -> None:
    mortals = [MortalTransport(deaths=[0] * 9, error=error) for _ in range(2)]
    answer = post(BOAT, *mortals)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert answer.headers["x-should-retry"] == "true"
    assert [len(one.fake.requests) for one in mortals] == [1, 1], "each was asked once"


@pytest.mark.parametrize("error", [DECLINED, GONE])
def test_unless_another_may_come_to_take_it(error: ImpastoError) -> None:
    """As when servers are replaced in turn, and one more dies."""
    stopping, starting = MortalTransport(deaths=[0] * 9, error=error, away=10**9), MortalTransport(away=5)
    starting.leave()
    assert picture(post(BOAT, stopping, starting)) == picture(post(BOAT))
    assert [len(one.fake.requests) for one in (stopping, starting)] == [1, 1]


def test_it_waits_for_that_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "AWAY_S", 0.2)
    mortals = [MortalTransport(deaths=[0] * 9, error=DECLINED, away=10**9) for _ in range(2)]
    assert post(BOAT, *mortals).status_code == 503


def test_the_only_server_is_waited_for() -> None:
    mortal = MortalTransport(deaths=[0], away=5)
    assert picture(post(BOAT, mortal)) == picture(post(BOAT))


def test_it_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "WAIT_S", 0.2)
    answer = post(BOAT, MortalTransport(deaths=[0], away=10**9))
    assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "true")


def test_nor_beyond_the_requests_own_time() -> None:
    began_s = time.monotonic()
    answer = post({**BOAT, "timeout": 0.3}, MortalTransport(deaths=[0], away=10**9))
    assert answer.status_code in (503, 504)
    assert time.monotonic() - began_s < replay.WAIT_S / 2


def test_it_has_the_time_that_is_left() -> None:
    class Slow(MortalTransport):
        async def is_ready(self) -> bool:
            await asyncio.sleep(0.05)
            return await super().is_ready()

    mortal = Slow(deaths=[0], away=2)
    assert post({**BOAT, "timeout": 9.0}, mortal).status_code == 200
    first, second = mortal.fake.timeouts[1:]  # before them, the catalogue's
    assert first == 9.0
    assert second is not None
    assert second <= 8.9


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("servers", [1, 2, 5])
def test_a_request_that_kills_is_refused_after_a_few_deaths(servers: int, stream: bool) -> None:
    mortals = [MortalTransport(deaths=[0] * 9) for _ in range(servers)]
    answer = post({**BOAT, "stream": stream}, *mortals)
    assert answer.status_code == 502
    error = answer.json()["error"]
    assert error["code"] == "server_lost"
    assert f"was lost {DEATHS} times" in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert sum(len(one.fake.requests) for one in mortals) == DEATHS


def test_others_outlive_a_request_that_kills() -> None:
    """Though they die with it at first: each server has one suspect at a time."""
    boxes = [BoxTransport() for _ in range(2)]

    async def asked() -> list[httpx.Response]:
        async with calling(app_over(*boxes)) as client:
            prompts = ["poison", *(f"boat {place}" for place in range(8))]
            return await asyncio.gather(
                *(client.post("/v1/images/generations", json={"prompt": one}) for one in prompts)
            )

    poison, *others = asyncio.run(asked())
    assert poison.status_code == 502
    assert [one.status_code for one in others] == [200] * 8
    assert sum(box.died for box in boxes) == DEATHS


def test_two_suspects_are_never_at_one_server() -> None:
    async def seen() -> list[int]:
        clients = [AsyncClient(transport=MortalTransport()) for _ in range(2)]
        behind = Upstream.over(*clients)
        inside, most = dict.fromkeys(range(2), 0), list[int]()

        async def one(place: int) -> None:
            turn = Turn(Wanted("studio", frozenset({"neon"}), str(place)))
            turn.failed["lost"] = SUSPECT
            async with behind.painter(turn) as client:
                inside[clients.index(client)] += 1
                most.extend(inside.values())
                await asyncio.sleep(0.01)
                inside[clients.index(client)] -= 1

        await asyncio.gather(*map(one, range(6)))
        return most

    most = asyncio.run(seen())
    assert max(most) == 1
    assert len(most) == 12, "all six had their turn"


def test_a_suspect_waits_for_another_no_longer_than_its_own_time() -> None:
    async def waited() -> None:
        behind = Upstream.over(AsyncClient(transport=MortalTransport()))
        first, second = (Turn(Wanted("studio", spread=one)) for one in "ab")
        first.failed["lost"] = second.failed["lost"] = SUSPECT
        async with behind.painter(first):
            with pytest.raises(DeadlineExceeded, match="send it again later, or with a longer timeout"):
                async with behind.painter(second, time.monotonic() + 0.05):
                    pytest.fail("two suspects are at one server")
        async with behind.painter(second):  # the first has left
            pass

    asyncio.run(asyncio.wait_for(waited(), 60))


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_leaves_ends_the_replay(stream: bool) -> None:
    mortal = MortalTransport(deaths=[0], away=10**9)
    asked = list[float]()

    class Watched(MortalTransport):
        async def is_ready(self) -> bool:
            asked.append(time.monotonic())
            return await super().is_ready()

    mortal = Watched(deaths=[0], away=10**9)
    with listening(app_over(mortal)) as url:
        with connected(url) as connection:
            connection.sendall(request_bytes(json.dumps({**BOAT, "stream": stream}).encode()))
            eventually(lambda: len(asked) > 3)
        eventually(lambda: time.monotonic() - asked[-1] > 0.5)  # nobody looks any more whether it is back
    assert len(mortal.fake.requests) == 1


def test_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    async def asked() -> tuple[httpx.Response, str]:
        async with calling(app_over(MortalTransport(deaths=[0]), MortalTransport(deaths=[0], error=GONE))) as client:
            answer = await client.post("/v1/images/generations", json=BOAT)
            return answer, (await client.get("/metrics")).text

    answer, page = asyncio.run(asked())
    assert answer.headers["x-impasto-replays"] == "2"
    assert answer.json()["warnings"] == [
        "server: the request was sent again (lost 1, unreachable 1); the picture is the same"
    ]
    families = {one.name: one for one in text_string_to_metric_families(page)}
    counted = {one.labels["reason"]: one.value for one in families["impasto_http_replays"].samples}
    assert counted == {"lost": 1, "unreachable": 1, "declined": 0}
    line = json.loads(next(one for one in capsys.readouterr().out.splitlines() if "/v1/images" in one))
    assert line["replays"] == {"lost": 1, "unreachable": 1}


def test_a_stream_tells_it_with_its_picture() -> None:
    last = events(post(STREAM, MortalTransport(deaths=[3])))[-1][1]
    assert last["warnings"] == ["server: the request was sent again (lost 1); the picture is the same"]


def test_nothing_is_told_of_what_did_not_happen() -> None:
    answer = post(BOAT)
    assert "x-impasto-replays" not in answer.headers
    assert answer.json()["warnings"] == []


def test_it_counts_once(tmp_path: Any) -> None:
    """As a request, in pixels, and among those at once."""
    allowance = Allowance(requests_per_minute=1, pixels_per_minute=128 * 128, concurrent=1)
    secret, key = made(Caller("shop", frozenset({"generate"}), allowance))
    append(tmp_path / "keys.txt", key)
    settings = GatewaySettings(("127.0.0.1:1",), keys=tmp_path / "keys.txt")

    async def asked() -> list[int]:
        async with calling(app_over(MortalTransport(deaths=[0, 0]), settings=settings)) as client:
            headers = {"authorization": f"Bearer {secret}"}
            answers = [await client.post("/v1/images/generations", json=BOAT, headers=headers) for _ in range(2)]
            return [one.status_code for one in answers]

    assert asyncio.run(asked()) == [200, 429]


def test_an_idempotency_key_knows_one_answer() -> None:
    mortal = MortalTransport(deaths=[0])

    async def asked() -> list[httpx.Response]:
        async with calling(app_over(mortal)) as client:
            headers = {"idempotency-key": "one"}
            return [await client.post("/v1/images/generations", json=BOAT, headers=headers) for _ in range(2)]

    first, second = asyncio.run(asked())
    assert first.content == second.content
    assert second.headers["idempotent-replayed"] == "true"
    assert len(mortal.fake.requests) == 2


def test_an_adapters_preview_is_painted_again() -> None:
    async def asked() -> int:
        async with calling(app_over(MortalTransport(deaths=[0]))) as client:
            return (await client.get("/v1/adapters/neon/preview")).status_code

    assert asyncio.run(asked()) == 200


@pytest.mark.parametrize(("error", "status"), [(GONE, 200), (DECLINED, 200), (LOST, 503)])
def test_scores_are_asked_elsewhere_only_if_nobody_has_begun_with_them(error: ImpastoError, status: int) -> None:
    """They are no pictures: what a server was lost with is an error at once."""
    other = fake()

    async def asked() -> int:
        async with calling(app_over(MortalScorer(error), other)) as client:
            form = {"files": [("image", png())], "data": {"text": "a boat"}}
            return (await client.post("/v1/score", **form)).status_code  # type: ignore[arg-type]

    assert asyncio.run(asked()) == status
    assert bool(other.requests) == (status == 200)


class MortalScorer(MortalTransport):
    def __init__(self, error: ImpastoError) -> None:
        super().__init__()
        self._error = error

    async def score(self, tensors: Any, timeout_s: float | None = None) -> Any:
        raise self._error
