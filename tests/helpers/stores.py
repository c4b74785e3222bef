"""Object stores of the tests' own, on loopback: one that speaks S3, and a web server that misbehaves when told to."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Literal
from urllib.request import ProxyHandler, Request, build_opener

import boto3  # type: ignore[import-untyped]
from moto.server import ThreadedMotoServer

Mode = Literal["fine", "busy", "forbids", "stalls", "cuts"]
BUCKET = "styles"
WRITTEN = {"last-modified": "Mon, 30 Nov 2026 12:00:00 GMT"}


class S3:
    """An S3 on loopback, which may go down and come up again with all that it had.

    `environment` has the variables by which programs find it.
    """

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._port = 0
        self.up()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def up(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()
        _, self._port = self._server.get_host_and_port()

    def down(self) -> None:
        self._server.stop()


@contextmanager
def s3_server() -> Iterator[S3]:
    """An S3 with an empty bucket, BUCKET: moto's servers of one process share what they have, so it is forgotten."""
    s3 = S3()
    try:
        reset = Request(f"{s3.environment['AWS_ENDPOINT_URL']}/moto-api/reset", method="POST")
        build_opener(ProxyHandler({})).open(reset).close()
        client = boto3.client(
            "s3",
            endpoint_url=s3.environment["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        client.create_bucket(Bucket=BUCKET)
        client.close()
        yield s3
    finally:
        s3.down()


@dataclass
class WebStore:
    """A web server over `files`, by path below its address. It answers as `mode` says until `go` is set.

    "stalls" sends nothing, or with `after` so many bytes of a longer file and then nothing; "cuts" ends a connection
    there.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    mode: Mode = "fine"
    after: int = 0
    address: str = ""
    asked: Counter[str] = field(default_factory=Counter)  # requests answered with a file's bytes, by path
    calls: int = 0
    go: Event = field(default_factory=Event)
    lock: Lock = field(default_factory=Lock)


@contextmanager
def web_store(files: dict[str, bytes] | None = None) -> Iterator[WebStore]:
    """A WebStore that listens on a free port."""
    store = WebStore(files if files is not None else {})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            with suppress(ConnectionError):
                answer(store, self)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    store.address = f"http://127.0.0.1:{server.server_port}/registry"
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield store
    finally:
        store.go.set()
        server.shutdown()
        server.server_close()


def answer(store: WebStore, call: BaseHTTPRequestHandler) -> None:
    path = call.path.removeprefix("/registry/")
    with store.lock:
        store.calls += 1
    mode = store.mode
    if mode == "stalls" and not store.after:
        store.go.wait()
        return _end(call)
    if mode in ("busy", "forbids"):
        return _head(call, 503 if mode == "busy" else 403)
    data = store.files.get(path)
    if data is None:
        return _head(call, 404)
    e_tag = f'"{md5(data).hexdigest()}"'
    if call.headers.get("if-none-match") == e_tag:
        return _head(call, 304, {"etag": e_tag})
    if call.command == "HEAD":
        return _head(call, 200, {"etag": e_tag, **WRITTEN}, len(data))
    with store.lock:
        store.asked[path] += 1
    begin, end = _range(call.headers.get("range"), len(data))
    facts = {"etag": e_tag, **WRITTEN}
    if call.headers.get("range"):
        facts["content-range"] = f"bytes {begin}-{end - 1}/{len(data)}"
    _head(call, 206 if call.headers.get("range") else 200, facts, end - begin)
    if mode in ("cuts", "stalls") and end - begin > store.after:
        call.wfile.write(data[begin : min(end, begin + store.after)])
        call.wfile.flush()
        if mode == "stalls":
            store.go.wait()
        return _end(call)
    call.wfile.write(data[begin:end])
    return None


def _range(said: str | None, size: int) -> tuple[int, int]:
    """First byte, and the one after the last."""
    if not said:
        return 0, size
    first, _, last = said.removeprefix("bytes=").partition("-")
    return int(first), min(int(last) + 1 if last else size, size)


def _head(call: BaseHTTPRequestHandler, status: int, facts: Mapping[str, str] | None = None, size: int = 0) -> None:
    call.send_response(status)
    for name, value in (facts or {}).items():
        call.send_header(name, value)
    call.send_header("content-length", str(size))
    call.end_headers()


def _end(call: BaseHTTPRequestHandler) -> None:
    call.close_connection = True
    with suppress(OSError):
        call.connection.shutdown(2)
