"""What an operator sees of requests: ids, the log, metrics."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from impasto_gateway.telemetry import Record, Telemetry, TelemetryMiddleware
from impasto_gateway.telemetry.logs import Log
from impasto_gateway.telemetry.metrics import Metrics
from impasto_gateway.telemetry.middleware import outcome_of
from impasto_gateway.telemetry.record import id_of

META = {
    "model": "studio",
    "steps": 25,
    "adapters": [{"name": "neon", "weight": 0.5}],
    "timings": {"queue_ms": 40.0, "encode_ms": 10.0, "denoise_ms": 200.0, "decode_ms": 50.0, "total_ms": 300.0},
}

Handler = Callable[[Request], Awaitable[Response]]


class Seen:
    """A gateway of one handler, and what is seen of it."""

    def __init__(self, handler: Handler, prompts: bool = False) -> None:
        self.out = io.StringIO()
        self.telemetry = Telemetry(Log(prompts, self.out), Metrics())
        routes = [Route("/v1/things/{name}", handler, methods=["GET"])]
        self.app = TelemetryMiddleware(Starlette(routes=routes), self.telemetry)

    def get(self, path: str = "/v1/things/boat", **headers: str) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as caller:
                return await caller.get(
                    path, headers={name.replace("_", "-"): value for name, value in headers.items()}
                )

        return asyncio.run(asked())

    def lines(self) -> list[dict[str, Any]]:
        """The log, once it is closed."""
        self.telemetry.close()
        return [json.loads(line) for line in self.out.getvalue().splitlines()]

    def samples(self) -> dict[str, float]:
        """Each of the gateway's metrics as Prometheus reads it, by its name and labels."""
        families = text_string_to_metric_families(self.telemetry.metrics.text().decode())
        return {
            f"{one.name}{''.join(f' {name}={value}' for name, value in one.labels.items())}": one.value
            for family in families
            for one in family.samples
        }


async def painted(request: Request) -> Response:
    """A handler that paints two pictures."""
    record: Record = request.state.record
    record.key, record.lanes, record.prompt = "shop", 2, "a secret"
    record.stepped()
    record.answered(META)
    return JSONResponse({"id": record.id})


def test_a_line_tells_of_a_request() -> None:
    seen = Seen(painted)
    seen.get(x_request_id="order-7")
    (line,) = seen.lines()
    told: dict[str, Any] = {
        "id": "order-7",
        "key": "shop",
        "route": "/v1/things/{name}",
        "bundle": "studio",
        "adapters": ["neon"],
    }
    told |= {"lanes": 2, "steps": 25, "queue_ms": 40.0, "outcome": "done", "status": 200}
    assert line.items() >= told.items()
    assert line["total_ms"] >= line["first_step_ms"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])


def test_what_was_asked_for_is_logged_only_when_an_operator_wants_it() -> None:
    quiet, open_ = Seen(painted), Seen(painted, prompts=True)
    quiet.get()
    open_.get()
    assert "secret" not in json.dumps(quiet.lines())
    assert open_.lines()[0]["prompt"] == "a secret"


def test_the_callers_id_comes_back() -> None:
    answer = Seen(painted).get(x_request_id="order-7")
    assert answer.headers["x-request-id"] == answer.json()["id"] == "order-7"


@pytest.mark.parametrize("said", ["two words", 'a"quote', "new\x0bline", "x" * 129, ""])
def test_an_id_that_does_not_fit_a_log_is_replaced(said: str) -> None:
    assert re.fullmatch(r"req-[0-9a-f]{24}", id_of(said))


def test_ids_differ() -> None:
    assert len({id_of(None) for _ in range(100)}) == 100


def test_a_request_is_counted_by_its_route_and_its_times_by_their_bundle() -> None:
    seen = Seen(painted)
    seen.get()
    samples = seen.samples()
    assert samples["impasto_http_requests_total route=/v1/things/{name} status=200"] == 1
    assert samples["impasto_http_pictures_total bundle=studio"] == 2
    assert samples["impasto_http_queue_seconds_sum bundle=studio"] == pytest.approx(0.04)
    assert samples["impasto_http_queue_seconds_bucket bundle=studio le=0.025"] == 0
    assert samples["impasto_http_queue_seconds_bucket bundle=studio le=0.05"] == 1
    assert samples["impasto_http_time_to_first_step_seconds_count bundle=studio"] == 1
    assert samples["impasto_http_e2e_seconds_count bundle=studio"] == 1
    assert samples["impasto_http_requests_running"] == 0


def test_paths_that_somebody_makes_up_are_one_route() -> None:
    """Else whoever likes could fill the memory of the gateway, and of Prometheus."""
    seen = Seen(painted)
    for number in range(20):
        seen.get(f"/made/up/{number}")
        seen.get(f"/v1/things/{number}")
    counted = {name: value for name, value in seen.samples().items() if "requests_total" in name}
    assert counted == {
        "impasto_http_requests_total route=other status=404": 20,
        "impasto_http_requests_total route=/v1/things/{name} status=200": 20,
    }


def test_a_handler_that_breaks_down_is_a_failure() -> None:
    async def broken(request: Request) -> Response:
        raise RuntimeError("a bug")

    seen = Seen(broken)
    seen.get()
    (line,) = seen.lines()
    assert (line["status"], line["outcome"]) == (500, "failed")


def test_an_answer_that_breaks_off_is_no_success() -> None:
    async def breaking(request: Request) -> Response:
        async def parts() -> Any:
            yield b"half"
            raise RuntimeError("a bug")

        return StreamingResponse(parts())

    seen = Seen(breaking)
    seen.get()
    (line,) = seen.lines()
    assert (line["status"], line["outcome"]) == (500, "failed")


def test_who_leaves_before_the_end_has_cancelled() -> None:
    """The caller takes the first part of an answer without an end, and is gone."""

    async def endless(request: Request) -> Response:
        async def parts() -> Any:
            while True:
                yield b"more"
                await asyncio.sleep(0)

        return StreamingResponse(parts())

    seen, told = Seen(endless), asyncio.Event()

    async def receive() -> dict[str, Any]:
        await told.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message.get("body"):
            told.set()

    scope = {"type": "http", "asgi": {"spec_version": "2.3"}, "method": "GET", "path": "/v1/things/x", "headers": []}
    asyncio.run(seen.app({**scope, "query_string": b""}, receive, send))
    (line,) = seen.lines()
    assert (line["status"], line["outcome"]) == (499, "cancelled")
    assert seen.samples()["impasto_http_requests_total route=/v1/things/{name} status=499"] == 1


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "done"),
        (400, "refused"),
        (401, "refused"),
        (429, "rejected"),
        (499, "cancelled"),
        (503, "failed"),
        (504, "expired"),
    ],
)
def test_outcomes_have_the_servers_names(status: int, outcome: str) -> None:
    assert outcome_of(status) == outcome


def test_a_log_that_nobody_reads_holds_nobody_up() -> None:
    """Its reader, a pipe for instance, takes nothing; lines are dropped and counted, and requests go on."""

    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    log = Log(out=Stuck())
    for _ in range(3):
        log.tell(Record("one"))
    log.close()
    assert log.dropped == 3
