"""An object store on this machine, which speaks S3, with the adapters of a registry; it may be out of reach."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

from benchmarks.parts.fleet.replicas import HOST
from benchmarks.parts.fleet.wire import Wire, wire
from moto.server import ThreadedMotoServer

BUCKET, PREFIX = "fleet", "adapters"


@dataclass(frozen=True)
class Store:
    """Where replicas find it, over a wire that can be taken down."""

    wire: Wire

    @property
    def address(self) -> str:
        """As `--registry` takes it."""
        return f"s3://{BUCKET}/{PREFIX}"

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables by which programs find an S3."""
        return {
            "AWS_ENDPOINT_URL": f"http://{HOST}:{self.wire.port}",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "us-east-1",
        }


@asynccontextmanager
async def store(
    registry: Path, names: Iterable[str], delay_s: float = 0.0, bytes_per_s: float = math.inf
) -> AsyncIterator[Store]:
    """A store with these adapters of a registry's folder, whose files lie in both alike; a call takes `delay_s`, and
    each connection brings `bytes_per_s`.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address=HOST, port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        put(f"http://{HOST}:{port}/moto-api/reset", b"", "POST")  # an earlier one of this process left its objects
        put(f"http://{HOST}:{port}/{BUCKET}", b"")
        for name in sorted(set(names)):
            pointer = (registry / "names" / f"{name}.json").read_bytes()
            file = f"{json.loads(pointer)['digest']}.safetensors"
            put(f"http://{HOST}:{port}/{BUCKET}/{PREFIX}/objects/{file}", (registry / "objects" / file).read_bytes())
            put(f"http://{HOST}:{port}/{BUCKET}/{PREFIX}/names/{name}.json", pointer)
        async with wire(port, delay_s, bytes_per_s) as found:
            yield Store(found)
    finally:
        server.stop()


def put(url: str, data: bytes, method: str = "PUT") -> None:
    """Write an object, or make a bucket."""
    with urlopen(Request(url, data, {"content-type": "application/octet-stream"}, method=method), timeout=30):
        pass
