"""gRPC through deploy/haproxy/haproxy.cfg to a real server: requests, streams, errors, callers who leave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from impasto_client import Client, Generation, InvalidRequest, Options
from impasto_server.ops.serve import Server
from tests.helpers.machines import Machine
from tests.helpers.proxies import proxied

ASKED: Options = {"steps": 2, "seed": 7, "width": 32, "height": 32}


@pytest.fixture(scope="module")
def client(toy_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Through a proxy; stand-ins for gateways say that the server is ready."""
    machines = {name: Machine(name) for name in "abc"}
    with ExitStack() as cleanup:
        for machine in machines.values():
            machine.start()
            cleanup.callback(machine.stop)
            machine.grpc_port = toy_server.ports.grpc
        proxy = cleanup.enter_context(proxied(machines, tmp_path_factory.mktemp("haproxy")))
        yield cleanup.enter_context(Client(f"127.0.0.1:{proxy.grpc_port}"))


def test_the_picture_is_the_one_that_the_server_gives_without_it(client: Client, toy_server: Server) -> None:
    with Client(toy_server.grpc_url) as direct:
        assert client.generate("a boat", **ASKED).data == direct.generate("a boat", **ASKED).data


def test_a_stream_comes_part_by_part_to_its_end(client: Client) -> None:
    *parts, last = client.stream("a boat", **ASKED)
    assert len(parts) == 2
    assert isinstance(last, Generation)


def test_an_error_names_its_field(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="STEPS: "):
        client.generate("a boat", steps=-1)
