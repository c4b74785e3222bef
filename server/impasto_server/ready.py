"""Whether a server is ready, asked over gRPC, since that alone is always on."""

from __future__ import annotations

import socket

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2, service_pb2_grpc  # type: ignore[import-untyped]

ANSWER_S = 5.0
# Past any proxy, and each time a channel of its own: one that can't connect waits ever longer before it tries again.
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


def is_ready(host: str, port: int) -> bool:
    """Whether all its models are loaded; False also when nothing listens there."""
    try:
        socket.create_connection((host, port), timeout=ANSWER_S).close()
        with grpc.insecure_channel(f"{host}:{port}", options=OPTIONS) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            return bool(stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=ANSWER_S).ready)
    except (OSError, grpc.RpcError):
        return False
