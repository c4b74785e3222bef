"""What servers' metrics tell routing."""

from __future__ import annotations

import asyncio

import pytest

from impasto_client import AsyncClient, AsyncFakeTransport
from impasto_gateway import server as module
from impasto_gateway.load import NOTHING, Load, load_in
from impasto_gateway.routing import Wanted
from impasto_gateway.server import Server
from impasto_gateway.turn import Turn
from impasto_gateway.upstream import Upstream
from tests.helpers.gateways import CATALOGUE, fake
from tests.helpers.waiting import PATIENCE_S

INFO = (
    'impasto_lora_requests_info{bundle="%s",max_lora="%d",running_lora_adapters="%s",waiting_lora_adapters="x"} 1.7e9'
)
METRICS = f"""# HELP impasto_requests Requests under way
# TYPE impasto_requests gauge
impasto_requests{{bundle="studio"}} 5
impasto_requests{{bundle="photos"}} 2
impasto_requests_other{{bundle="studio"}} 99
# TYPE impasto_lora_requests_info gauge
{INFO % ("studio", 63, "glass,neon")}
{INFO % ("photos", 8, "")}
"""
DIGESTS = {one.name: one.digest for one in CATALOGUE.adapters}
NEON = Wanted("studio", frozenset({DIGESTS["neon"]}))


def test_requests_of_all_bundles_and_what_they_wear() -> None:
    expected = {"studio": frozenset({"glass", "neon"}), "photos": frozenset()}
    assert load_in(METRICS) == Load(7, expected, {"studio": 63, "photos": 8})


def test_metrics_of_something_else_tell_nothing() -> None:
    assert load_in("nv_gpu_utilization 0.5\n") == NOTHING


def servers(monkeypatch: pytest.MonkeyPatch, *texts: str | Exception) -> list[Server]:
    """With these metrics."""
    told = {f"http://{place}": text for place, text in enumerate(texts)}
    monkeypatch.setattr(module, "read", told.__getitem__)

    def made(place: int) -> Server:
        client = AsyncClient(transport=AsyncFakeTransport(fake()))
        return Server(f"server {place}", lambda: client, f"http://{place}")

    return list(map(made, range(len(texts))))


async def heard(several: list[Server]) -> Upstream:
    """After a first request, and when all have told."""
    upstream = Upstream(several)
    await upstream.catalogue()
    async with upstream.painter(Turn(NEON)), asyncio.timeout(PATIENCE_S):
        while any(one.heard_at < 0 for one in several):
            await asyncio.sleep(0.01)
    return upstream


def test_requests_from_elsewhere_count(monkeypatch: pytest.MonkeyPatch) -> None:
    async def chosen() -> tuple[list[int], str]:
        several = servers(monkeypatch, "impasto_requests 50\n", "impasto_requests 1\n")
        upstream, turn = await heard(several), Turn(Wanted("studio"))
        async with upstream.painter(turn):
            assert turn.server is not None
            return [one.others for one in several], turn.server.url

    others, where = asyncio.run(chosen())
    assert others[0] >= 49
    assert others[1] in (0, 1), "one may be our own"
    assert where == "server 1"


def test_a_gateways_own_requests_are_none_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not if they are over by the time that the metrics come."""

    async def told() -> int:
        (one,) = servers(monkeypatch, "impasto_requests 3\n")
        for _ in range(3):
            one.entered()
        one.in_flight = 0
        one.hear({})
        while one.heard_at < 0:
            await asyncio.sleep(0.01)
        return one.others

    assert asyncio.run(told()) == 0


def test_what_others_wear_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def seen() -> set[str]:
        (one,) = servers(monkeypatch, METRICS)
        one.hear({"glass": "its digest", "wave": "another"})
        while one.heard_at < 0:
            await asyncio.sleep(0.01)
        return set(one.seen(NEON).resident)

    assert asyncio.run(seen()) == {"its digest"}


def test_a_bank_is_as_large_as_its_server_says(monkeypatch: pytest.MonkeyPatch) -> None:
    async def held() -> int:
        (one,) = servers(monkeypatch, METRICS.replace('max_lora="63"', 'max_lora="3"'))
        one.hear(DIGESTS)
        while one.heard_at < 0:
            await asyncio.sleep(0.01)
        for place in range(9):
            one.holds.sent(Wanted("studio", frozenset({str(place)})))
        return len(one.seen(NEON).resident)

    assert asyncio.run(held()) == 3


@pytest.mark.parametrize("text", [OSError("nobody"), "impasto_requests many\n"])
def test_metrics_that_cannot_be_read_stop_nothing(text: str | Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    async def others() -> list[int]:
        several = servers(monkeypatch, text, "impasto_requests 9\n")
        await heard(several)
        return [one.others for one in several]

    assert asyncio.run(others())[0] == 0


def test_metrics_whose_server_nobody_knows_are_not_read() -> None:
    both, one = ["a:1", "b:1"], ["http://a"]
    assert [server.metrics_url for server in Upstream.of(both, one).servers] == [None, None]
    assert [server.metrics_url for server in Upstream.of(both, [*one, "http://b"]).servers] == ["http://a", "http://b"]
