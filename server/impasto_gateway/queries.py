"""Query strings, read strictly."""

from __future__ import annotations

from typing import NoReturn

from starlette.requests import Request

from impasto_gateway.errors import Refusal

LONGEST = 2000  # characters of a text


def query(request: Request, *known: str) -> dict[str, str]:
    """The query's texts, each once. Raises Refusal (400) for one that isn't known, stands twice, or is too long."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            refuse(name[:40], f"this is not known here; known are {', '.join(known)}")
        if name in found:
            refuse(name, "it stands there twice; send it once")
        if len(value) > LONGEST or "\0" in value:
            refuse(name, f"the text of {len(value)} characters is too long, or has a zero; send a shorter one")
        found[name] = value
    return found


def refuse(param: str, problem: str, status: int = 400) -> NoReturn:
    """Raises the Refusal of a value."""
    raise Refusal(status, f"{param}: {problem}", "invalid_value", param)
