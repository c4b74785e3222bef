"""Stand-ins for machines that run `impasto serve --http`: a gateway and Triton's gRPC that only say who they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR
from threading import Event, Lock, Thread
from typing import Any

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2, service_pb2_grpc  # type: ignore[import-untyped]
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor  # type: ignore[import-untyped]

from impasto_client import FakeTransport
from impasto_client.wire import Tensors, encode
from tests.helpers.waiting import PATIENCE_S


@dataclass
class Machine:
    """One of them; `start` and `stop` may take turns, on the same ports.

    While `go_on` is not set, requests wait; `held` is how many do.
    """

    name: str
    ready: bool = True
    dies: bool = False  # HTTP connections are closed without an answer
    go_on: Event = field(default_factory=Event)
    held: int = 0
    asked: int = 0
    http_port: int = 0
    grpc_port: int = 0
    _lock: Lock = field(default_factory=Lock)

    def start(self) -> None:
        self.go_on.set()
        self._http = _Http(("127.0.0.1", self.http_port), _handler(self))
        self.http_port = self._http.server_address[1]
        self._thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self._grpc = grpc.server(ThreadPoolExecutor(16))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Triton(self), self._grpc)
        self.grpc_port = self._grpc.add_insecure_port(f"127.0.0.1:{self.grpc_port}")
        self._grpc.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.socket.close()
        stopped = self._grpc.stop(0)
        self.go_on.set()
        self._http.server_close()  # waits for its threads
        self._thread.join()
        stopped.wait()

    def kill(self) -> None:
        """As SIGKILL does: nothing listens any more, and what it holds isn't answered. Then `start` it again."""
        self.dies = True
        self.stop()
        self.dies = False

    def hold(self) -> None:
        """A request's stay."""
        with self._lock:
            self.asked += 1
            self.held += 1
        assert self.go_on.wait(PATIENCE_S)
        with self._lock:
            self.held -= 1


class _Http(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 64


def _handler(machine: Machine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the health check
            self._answer(200 if machine.ready else 503, {})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            machine.hold()
            if machine.dies:
                self.connection.shutdown(SHUT_RDWR)
                return
            self._answer(200, {"server": machine.name, "from": self.headers.get("x-forwarded-for")})

        def _answer(self, status: int, said: dict[str, Any]) -> None:
            body = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with suppress(OSError):  # a health check reads the status alone
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


class _Triton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers as the fake transport does, with a warning in META that names the machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self._machine.hold()
        return _response(self._fake().infer(encode("a boat")))

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[Any]:
        next(requests)
        for part in self._fake().stream(encode("a boat", steps=2)):
            yield service_pb2.ModelStreamInferResponse(infer_response=_response(part))
            self._machine.hold()

    def _fake(self) -> FakeTransport:
        return FakeTransport(warnings=(self._machine.name,))


def _response(tensors: Tensors) -> Any:
    response = service_pb2.ModelInferResponse(model_name="stylize", model_version="1")
    for name, tensor in tensors.items():
        response.outputs.add(name=name, datatype=np_to_triton_dtype(tensor.dtype), shape=tensor.shape)
        content = serialize_byte_tensor(tensor).item() if tensor.dtype.kind == "O" else tensor.tobytes()
        response.raw_output_contents.append(content)
    return response
