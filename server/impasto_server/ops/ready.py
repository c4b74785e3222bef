"""Calls to a server over gRPC, which is always on: whether it is ready, and the gate that lets it stop in order."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2, service_pb2_grpc  # type: ignore[import-untyped]

from impasto_server.ops.repository import GATE

ANSWER_S = 5.0
# No proxy, and a new channel each time: a channel that can't connect waits ever longer before it tries again.
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


def is_ready(host: str, port: int, server: str) -> bool:
    """Whether all models of `server` are loaded; False also when nothing listens there, or another server does."""
    try:
        socket.create_connection((host, port), timeout=ANSWER_S).close()
        with _asked(host, port) as stub:
            if stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=ANSWER_S).name != server:
                return False
            return bool(stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=ANSWER_S).ready)
    except (OSError, grpc.RpcError):
        return False


def open_gate(host: str, port: int) -> str | None:
    """Begin the sequence that keeps the models loaded while the server stops, under a number that nobody can guess.

    Returns what went wrong, else None; without the gate the server still works.
    """
    request = service_pb2.ModelInferRequest(model_name=GATE, raw_input_contents=[b"\1"])
    request.inputs.add(name="OPEN", datatype="BOOL", shape=[1])
    request.parameters["sequence_id"].int64_param = secrets.randbits(62) + 1
    request.parameters["sequence_start"].bool_param = True
    try:
        with _asked(host, port) as stub:
            stub.ModelInfer(request, timeout=ANSWER_S)
    except grpc.RpcError as error:
        return str(error.details())
    return None


@contextmanager
def _asked(host: str, port: int) -> Iterator[Any]:
    with grpc.insecure_channel(f"{host}:{port}", options=OPTIONS) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)
