"""The metrics of the servers behind a gateway, on its page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

from prometheus_client.parser import text_string_to_metric_families

from impasto_gateway.telemetry.servers import merged, page_of

TEXT = """# HELP impasto_done Requests answered
# TYPE impasto_done counter
impasto_done{bundle="a"} 3
# HELP impasto_requests Requests under way
# TYPE impasto_requests gauge
impasto_requests 2
"""


@contextmanager
def serving(text: str) -> Iterator[str]:
    """The URL of a server with these metrics."""

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Metrics) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


def test_several_servers_are_told_apart() -> None:
    page = merged({"one:8002": TEXT, "two:8002": TEXT})
    assert page.count("# TYPE impasto_done counter") == 1  # Prometheus refuses a page that says it twice
    assert 'impasto_done{bundle="a",server="one:8002"} 3\nimpasto_done{bundle="a",server="two:8002"} 3\n' in page
    assert 'impasto_requests{server="two:8002"} 2\n' in page
    assert [family.name for family in text_string_to_metric_families(page)] == ["impasto_done", "impasto_requests"]


def test_a_label_may_have_anything_in_it() -> None:
    odd = r'nv_x{name="a } b,\"c\"",} 1'
    assert merged({"one": odd}) == r'nv_x{name="a } b,\"c\"",server="one"} 1' + "\n"


def test_a_servers_metrics_are_on_the_page() -> None:
    with serving(TEXT) as url:
        page = asyncio.run(page_of([url])).decode()
    server = url.split("/")[2]
    assert f'impasto_done{{bundle="a",server="{server}"}} 3' in page
    assert f'impasto_http_server_metrics_up{{server="{server}"}} 1' in page


def test_a_server_that_is_gone_is_said_so_and_the_others_stay() -> None:
    with serving(TEXT) as gone:
        pass
    with serving(TEXT) as url:
        page = asyncio.run(page_of([gone, url])).decode()
    assert f"# {gone} can't be read: " in page
    assert f'impasto_http_server_metrics_up{{server="{gone.split("/")[2]}"}} 0' in page
    assert f'impasto_done{{bundle="a",server="{url.split("/")[2]}"}} 3' in page


def test_a_gateway_that_knows_of_none_says_nothing() -> None:
    assert asyncio.run(page_of([])) == b""
