"""Model `clip_score` as Triton's Python backend calls it, without Triton: every request gets one last response."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from impasto_server.ops.guardian import SERVER
from impasto_server.settings import Settings

FINAL = 1


def texts(*values: bytes) -> NDArray[Any]:
    return np.array(values, np.object_)


def picture() -> bytes:
    file = BytesIO()
    Image.effect_noise((20, 20), 90).save(file, "png")
    return file.getvalue()


GOOD = {"IMAGE": texts(picture(), picture()), "TEXT": texts(b"a red boat")}


@dataclass
class Asked:
    """A request and its response sender in one."""

    tensors: dict[str, NDArray[Any]]
    timeout_us: int = 0
    cancelled: bool = False
    sent: SimpleQueue[tuple[Any, int]] = field(default_factory=SimpleQueue)

    def get_response_sender(self) -> Asked:
        return self

    def is_cancelled(self) -> bool:
        assert self.sent.empty(), "Triton crashes when it is asked after the last response"
        return self.cancelled

    def send(self, response: Any, flags: int) -> None:
        self.sent.put((response, flags))

    def timeout(self) -> int:
        return self.timeout_us

    def inputs(self) -> list[Any]:
        return [
            SimpleNamespace(name=lambda name=name: name, as_numpy=lambda t=t: t) for name, t in self.tensors.items()
        ]

    def answer(self) -> Any:
        response, flags = self.sent.get(timeout=30)
        assert flags == FINAL
        return response


class Backend(ModuleType):
    """Triton's module, which is in its own processes only. It has no state, so it stays for whoever imports it."""

    TRITONSERVER_RESPONSE_COMPLETE_FINAL = FINAL

    class TritonError(SimpleNamespace):
        INVALID_ARG, UNAVAILABLE, CANCELLED = "INVALID_ARG", "UNAVAILABLE", "CANCELLED"

        def __init__(self, message: str, code: str) -> None:
            super().__init__(message=message, code=code)

    @staticmethod
    def Tensor(name: str, values: NDArray[Any]) -> tuple[str, NDArray[Any]]:
        return name, values

    @staticmethod
    def InferenceResponse(outputs: Sequence[tuple[str, NDArray[Any]]] = (), error: object = None) -> SimpleNamespace:
        return SimpleNamespace(outputs=dict(outputs), error=error)


sys.modules.setdefault("triton_python_backend_utils", Backend("triton_python_backend_utils"))


@pytest.fixture
def model(scorer_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv(SERVER, "impasto_test_clip_score_")
    for name, value in (
        Settings(scorer_bundle, scorer_bundle, "onnxruntime", "f32", 1, scorer=scorer_bundle).to_env().items()
    ):
        monkeypatch.setenv(name, value)
    module = importlib.import_module("impasto_server.triton.clip_score")
    monkeypatch.setattr(module, "forward_log", lambda: None)
    model = module.TritonPythonModel()
    model.initialize({})
    yield model
    model.finalize()


def test_each_request_gets_its_scores(model: Any) -> None:
    requests = [Asked(GOOD) for _ in range(5)]
    model.execute(requests)
    for request in requests:
        assert request.answer().outputs["SCORE"].shape == (2,)


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (Asked({"IMAGE": GOOD["IMAGE"]}), "INVALID_ARG", "TEXT: is missing, and so is REFERENCE"),
        (Asked({**GOOD, "IMAGE": texts(b"x")}), "INVALID_ARG", "IMAGE: is not a PNG, JPEG or WebP file"),
        (Asked(GOOD, timeout_us=1), "CANCELLED", "DEADLINE_EXCEEDED: no scores within 1e-06 s (0 of 2 pictures"),
        (
            Asked(GOOD, timeout_us=2**64 - 5),
            "INVALID_ARG",
            "TIMEOUT: -5 is out of range; pass the parameter timeout as",
        ),
        (Asked(GOOD, timeout_us=604_800_000_001), "INVALID_ARG", "TIMEOUT: 604800000001 is out of range; pass the"),
        (Asked(GOOD, cancelled=True), "CANCELLED", "the caller cancelled the request, or is gone"),
    ],
    ids=["incomplete", "no picture", "late", "negative", "absurd", "cancelled"],
)
def test_what_cannot_be_scored_is_told_with_triton_s_code(request_: Asked, code: str, message: str, model: Any) -> None:
    model.execute([request_])
    error = request_.answer().error
    assert (error.code, error.message[: len(message)]) == (code, message)
