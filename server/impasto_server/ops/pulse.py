"""The pulse: whether a server that lives still answers, asked again and again without waiting for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2, service_pb2_grpc  # type: ignore[import-untyped]

from impasto_server.ops.ready import OPTIONS
from impasto_server.stats import Reason

PERIOD_S = 0.5
ANSWER_S = 10.0
# So many bad answers in a row count. A server may answer late once, or this process may have been asleep meanwhile.
ENOUGH: Mapping[Reason, int] = {"hang": 3, "told_to_stop": 4}


class Pulse:
    """`ask` sends a ServerReady and returns its future: a grpc.Future with `done`, `code` and `result`."""

    def __init__(self, ask: Callable[[], Any], clock: Callable[[], float] = monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._bad: list[Reason] = []
        self._next()

    def look(self) -> Reason | None:
        """Why the server has to be restarted, or None while all is well; returns at once."""
        if not self._answer.done() or self._clock() < self._asked + PERIOD_S:
            return None
        reason = _meaning(self._answer)
        self._next()
        if reason is None or reason not in self._bad[-1:]:
            self._bad.clear()
        if reason is None:
            return None
        self._bad.append(reason)
        return reason if len(self._bad) >= ENOUGH[reason] else None

    def _next(self) -> None:
        self._asked = self._clock()
        self._answer = self._ask()


class Channel:
    """The connection over which a server's pulse is felt."""

    def __init__(self, host: str, port: int) -> None:
        backoff = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]
        self._channel = grpc.insecure_channel(f"{host}:{port}", options=[*OPTIONS, *backoff])
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def ask(self) -> Any:
        """The future of a ServerReady."""
        return self._stub.ServerReady.future(service_pb2.ServerReadyRequest(), timeout=ANSWER_S)

    def close(self) -> None:
        self._channel.close()


def _meaning(answer: Any) -> Reason | None:
    if answer.code() == grpc.StatusCode.OK and answer.result().ready:
        return None
    return "hang" if answer.code() == grpc.StatusCode.DEADLINE_EXCEEDED else "told_to_stop"
