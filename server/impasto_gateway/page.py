"""The page at `/`: a few static files, read once, that nothing else may be loaded beside.

The page runs only scripts and styles from here and talks only to this gateway: its policy says so to browsers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from impasto_gateway.errors import Refusal

STATIC = Path(__file__).parent / "static"
INDEX = "index.html"

# By hand: the machine's own table of types may call a script anything, and with nosniff it wouldn't run.
TYPES = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml",
    }
)

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # no text ever becomes markup
        "trusted-types 'none'",
    )
)

HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",  # a link to a picture's settings may stand in the address
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), microphone=(), geolocation=()",
        "cache-control": "no-cache",  # kept, but asked for each time: an upgrade shows at once
    }
)


@dataclass(frozen=True)
class File:
    """A file of the page, in memory, with the tag of its content."""

    data: bytes
    kind: str
    tag: str

    @classmethod
    def of(cls, path: Path) -> File:
        data = path.read_bytes()
        return cls(data, TYPES[path.suffix], f'"{hashlib.sha256(data).hexdigest()[:32]}"')

    def answer(self, request: Request) -> Response:
        """The file, or 304 for a browser that has it."""
        headers = {**HEADERS, "etag": self.tag}
        if _has(request.headers.get("if-none-match", ""), self.tag):
            return Response(status_code=304, headers=headers)
        return Response(self.data, headers={**headers, "content-type": self.kind})


@cache
def files() -> Mapping[str, File]:
    """All of them, by name."""
    return MappingProxyType({path.name: File.of(path) for path in sorted(STATIC.iterdir()) if path.suffix in TYPES})


async def index(request: Request) -> Response:
    return files()[INDEX].answer(request)


async def static(request: Request) -> Response:
    """Raises Refusal for a name that isn't among the files."""
    found = files().get(request.path_params["name"])
    if found is None:
        raise Refusal(404, "the page has no such file; open / to see what there is", "not_found")
    return found.answer(request)


def routes() -> list[BaseRoute]:
    """The page's endpoints."""
    return [Route("/", index), Route("/static/{name:path}", static)]


def _has(said: str, tag: str) -> bool:
    """Whether If-None-Match names the tag; a proxy that compresses has made it weak."""
    return tag in (one.strip().removeprefix("W/") for one in said.split(","))
