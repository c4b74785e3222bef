"""Stand-ins for checks.py, signing.py and verify.py, which another branch brings: import those, and delete this."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from impasto_gateway.errors import Refusal
from impasto_gateway.settings import GatewaySettings


class Check(Protocol):
    def __call__(self, rgb: NDArray[np.uint8], words: str) -> Any: ...


def check_of(settings: GatewaySettings) -> Check | None:
    return None


class Signer:
    @classmethod
    def of(cls, settings: GatewaySettings) -> Signer | None:
        return None

    def sign(self, data: bytes, fmt: str, ingredient: bytes | None) -> bytes:
        return data


class verify:
    @staticmethod
    async def verify(request: Request) -> Response:
        raise Refusal(501, "verify: it is not here yet", "not_implemented")
