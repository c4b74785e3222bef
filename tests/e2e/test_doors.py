"""What a stranger may ask a server: inference, health, metadata, metrics. Everything else of Triton's is shut."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc  # type: ignore[import-untyped]
import pytest
from tritonclient.grpc import (  # type: ignore[import-untyped]
    InferenceServerClient,
    InferInput,
    InferRequestedOutput,
    service_pb2,
    service_pb2_grpc,
)
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from impasto_server.errors import SetupError
from impasto_server.ops.endpoints import KEY_HEADER, Endpoints, Ports
from impasto_server.ops.ready import is_ready, open_gate
from impasto_server.ops.serve import Plan, Server
from impasto_server.ops.tritonserver import find
from impasto_server.settings import Settings
from tests.helpers.waiting import eventually
from tests.helpers.wire import ask, inputs, ints, refused, texts

from .test_load import client_process
from .test_metrics import metrics, steady

KEY = "a-key-that-no-stranger-knows"
SHUT = {
    "SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusRequest(),
    "SystemSharedMemoryRegister": service_pb2.SystemSharedMemoryRegisterRequest(name="a", key="/a", byte_size=8),
    "SystemSharedMemoryUnregister": service_pb2.SystemSharedMemoryUnregisterRequest(),
    "CudaSharedMemoryStatus": service_pb2.CudaSharedMemoryStatusRequest(),
    "CudaSharedMemoryRegister": service_pb2.CudaSharedMemoryRegisterRequest(name="a", byte_size=8),
    "CudaSharedMemoryUnregister": service_pb2.CudaSharedMemoryUnregisterRequest(),
    "RepositoryIndex": service_pb2.RepositoryIndexRequest(),
    "RepositoryModelLoad": service_pb2.RepositoryModelLoadRequest(model_name="stylize"),
    "RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest(model_name="stylize"),
    "ModelConfig": service_pb2.ModelConfigRequest(name="stylize"),
    "ModelStatistics": service_pb2.ModelStatisticsRequest(),
    "TraceSetting": service_pb2.TraceSettingRequest(),
    "LogSettings": service_pb2.LogSettingsRequest(),
}
OPEN = {
    "ServerLive": service_pb2.ServerLiveRequest(),
    "ServerReady": service_pb2.ServerReadyRequest(),
    "ModelReady": service_pb2.ModelReadyRequest(name="stylize"),
    "ServerMetadata": service_pb2.ServerMetadataRequest(),
    "ModelMetadata": service_pb2.ModelMetadataRequest(name="stylize"),
}
INFERENCE = ("ModelInfer", "ModelStreamInfer")
SHUT_PATHS = [
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/region/a/register"),
    ("POST", "/v2/systemsharedmemory/unregister"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("POST", "/v2/cudasharedmemory/region/a/register"),
    ("POST", "/v2/cudasharedmemory/unregister"),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/stylize/load"),
    ("POST", "/v2/repository/models/stylize/unload"),
    ("GET", "/v2/models/stylize/config"),
    ("GET", "/v2/models/stylize/versions/1/config"),
    ("GET", "/v2/models/stats"),
    ("GET", "/v2/models/stylize/stats"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/models/stylize/trace/setting"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
]
OPEN_PATHS = ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stylize", "/v2/models/stylize/ready"]


@pytest.fixture(scope="module")
def server(toy_bundle: Path, toy_registry: Path) -> Iterator[Server]:
    """With HTTP on, a key that is known, and a sign of life asked for after a second."""
    settings = Settings(toy_bundle, toy_registry, "onnxruntime", "f32", threads=1, max_requests=32, max_lanes=2)
    endpoints = Endpoints(Ports.choose("127.0.0.1", 0, http=True), KEY, keepalive_s=1)
    server = Plan.of(settings, endpoints).start(lambda line: None)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture
def stub(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc_url) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture
def client(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.grpc_url) as client:
        yield client


def http(server: Server, method: str, path: str, **headers: str) -> int:
    """The status of the answer."""
    body = b"{}" if method == "POST" else None
    try:
        with urlopen(Request(f"{server.http_url}{path}", body, headers, method=method), timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


def test_every_door_of_the_protocol_is_known_to_be_open_or_shut(stub: Any) -> None:
    assert set(vars(stub)) == {*SHUT, *OPEN, *INFERENCE}


@pytest.mark.parametrize("name", SHUT)
def test_a_shut_door(name: str, stub: Any) -> None:
    with pytest.raises(grpc.RpcError, match="This protocol is restricted"):
        getattr(stub, name)(SHUT[name], timeout=30)


@pytest.mark.parametrize("name", OPEN)
def test_an_open_door(name: str, stub: Any) -> None:
    assert getattr(stub, name)(OPEN[name], timeout=30)


@pytest.mark.parametrize(("method", "path"), SHUT_PATHS)
def test_a_shut_door_of_http(method: str, path: str, server: Server) -> None:
    assert http(server, method, path) == 403


@pytest.mark.parametrize("path", OPEN_PATHS)
def test_an_open_door_of_http(path: str, server: Server) -> None:
    assert http(server, "GET", path) == 200


def test_the_key_opens_them(server: Server, stub: Any) -> None:
    header = [(f"triton-grpc-protocol-{KEY_HEADER}", KEY)]
    assert stub.ModelStatistics(SHUT["ModelStatistics"], timeout=30, metadata=header).model_stats
    assert http(server, "GET", "/v2/models/stats", **{KEY_HEADER: KEY}) == 200
    assert http(server, "GET", "/v2/models/stats", **{KEY_HEADER: KEY[:-1]}) == 403


def test_a_key_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(SetupError, match="^admin_key: it is too short or has other characters; pass 16 or more"):
        Endpoints(Ports.choose("127.0.0.1", 0), "secret")


def test_the_servers_own_shared_memory_can_not_be_named(server: Server, client: InferenceServerClient) -> None:
    (region, *_) = [file.name for file in Path("/dev/shm").glob(f"{server.shm_prefix}*")]
    for name in (region, f"/{region}"):
        prompt = InferInput("PROMPT", [1], "BYTES")
        prompt.set_shared_memory(name, 64)
        with pytest.raises(InferenceServerException, match="Unable to find shared memory region"):
            client.infer("stylize", [prompt])
        image = InferRequestedOutput("IMAGE")
        image.set_shared_memory(name, 64)
        with pytest.raises(InferenceServerException, match="Unable to find shared memory region"):
            client.infer("stylize", inputs({"PROMPT": texts("a boat"), "STEPS": ints(1)}), outputs=[image])
    assert ask(client, PROMPT=texts("a boat"), STEPS=ints(1))["IMAGE"]


def listening(pid: int) -> set[int]:
    """The TCP ports that a process takes connections on."""
    sockets = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    tables = [Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


def test_http_is_off_unless_it_is_asked_for(toy_server: Server, server: Server) -> None:
    assert toy_server.http_url is None
    assert listening(toy_server.pid) == {toy_server.ports.grpc, toy_server.ports.metrics}
    assert listening(server.pid) == {server.ports.grpc, server.ports.metrics, server.ports.http}


def test_the_release_that_is_said_is_the_one_that_runs(toy_client: InferenceServerClient) -> None:
    release = find().release
    assert release is not None
    assert toy_client.get_server_metadata().version.startswith(f"{release[0]}.{release[1]}.")


MESSAGE = 64 << 20


def rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_large_messages_are_not_kept(server: Server, client: InferenceServerClient) -> None:
    """What one request brought takes memory until it is answered, and not for good.

    How much the allocator keeps for the next messages is its own business. But then it has enough at some time: if
    messages were kept, each round would take as much again.
    """
    ask(client, PROMPT=texts("a boat"), STEPS=ints(1))
    grown = []
    for _ in range(3):
        before = rss(server.pid)
        for _ in range(4):
            assert refused(client, PROMPT=texts("a boat"), IMAGE=texts(b"x" * MESSAGE))[0] == "INVALID_ARGUMENT"
        grown.append(rss(server.pid) - before)
    assert min(grown) < 2 * MESSAGE


def test_shared_memory_is_bounded(toy_bundle: Path, toy_registry: Path) -> None:
    settings = Settings(toy_bundle, toy_registry, "onnxruntime", "f32", threads=1)
    server = Plan.of(settings, Endpoints(Ports.choose("127.0.0.1", 0)), shm_bytes=MESSAGE).start(lambda line: None)
    try:
        server.wait_ready()
        with InferenceServerClient(server.grpc_url) as client:
            status, said = refused(client, PROMPT=texts("a boat"), IMAGE=texts(b"x" * (2 * MESSAGE)))
            assert (status, "shared memory" in said) == ("INTERNAL", True)
            assert ask(client, PROMPT=texts("a boat"), STEPS=ints(1))["IMAGE"]
        regions = list(Path("/dev/shm").glob(f"{server.shm_prefix}*"))
        assert regions
        assert all(region.stat().st_size <= MESSAGE for region in regions)
        server.check()
    finally:
        server.stop()


class Wire:
    """A way to a server that can be cut as a cable is: what is sent then arrives nowhere, and nobody is told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._cut = Event()
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        self._cut.set()

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            end.close()

    def _accept(self) -> None:
        try:
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._ends += [near, far]
                for ends in ((near, far), (far, near)):
                    Thread(target=self._pass_on, args=ends, daemon=True).start()
        except OSError:
            return

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                if self._cut.is_set():
                    return
                target.sendall(data)
        except OSError:
            return


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    wire = Wire(server.ports.grpc)
    yield wire
    wire.close()


@pytest.mark.parametrize("way", ["generate", "stream"])
def test_a_client_whose_line_is_cut_is_noticed(way: str, server: Server, wire: Wire) -> None:
    before = steady(server)
    with client_process(wire.url, 16, way) as process:
        eventually(lambda: process.poll() is not None or metrics(server)["requests"] == 16, 120)
        assert process.poll() is None, "the client ended by itself"
        wire.cut()
        eventually(lambda: metrics(server)["requests"] == 0, 120)
    eventually(lambda: metrics(server)["cancelled"] > before["cancelled"])


def test_a_gate_that_a_stranger_has_taken_keeps_nobody_out(toy_bundle: Path, toy_registry: Path) -> None:
    settings = Settings(toy_bundle, toy_registry, "onnxruntime", "f32", threads=1)
    said: list[str] = []
    server = Plan.of(settings, Endpoints(Ports.choose("127.0.0.1", 0))).start(said.append)
    try:
        eventually(lambda: is_ready(server.ports.host, server.ports.grpc, server.shm_prefix), 120)
        assert not is_ready(server.ports.host, server.ports.grpc, "impasto_another_")
        assert open_gate(server.ports.host, server.ports.grpc) is None  # theirs, which they never end
        server.wait_ready()
        with InferenceServerClient(server.grpc_url) as client:
            assert ask(client, PROMPT=texts("a boat"), STEPS=ints(1))["IMAGE"]
        assert any("the gate can't be opened" in line for line in said)
    finally:
        server.stop()
