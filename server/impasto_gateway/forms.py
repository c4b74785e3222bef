"""Multipart forms, read strictly: texts, each once, and files by name; all of it in memory, which is bounded before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from impasto_gateway.errors import Refusal
from impasto_gateway.settings import Limits

FORM = "multipart/form-data"
MAX_BOUNDARY = 256
# A list as the SDKs write it, `name[]`, or one entry of an object, `name[key]`.
_BRACKET = re.compile(r"([^\[\]]+)\[([^\[\]]*)\]")


@dataclass(frozen=True)
class Form:
    """A form: a text for each field, a list of texts for `name[]`, texts by key for `name[key]`; and files.

    The files of `image` and `image[]` are one list, in their order.
    """

    fields: Mapping[str, Any]
    files: Mapping[str, tuple[bytes, ...]]


async def parsed_form(request: Request, limits: Limits) -> Form:
    """The request's form. Raises Refusal (400, 413 or 415)."""
    parts = Parts(limits)
    parser = MultipartParser(_boundary(request), parts.callbacks())
    try:
        async for chunk in request.stream():
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        _bad(f"it is no multipart form ({error}); send one, as curl -F does")
    if not parts.ended:
        _bad("it ends in the middle of a part; send all of it, with the closing boundary")
    return parts.form()


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != FORM.encode():
        got = kind.decode("latin-1")[:60] or "nothing"
        raise Refusal(415, f"content-type: got {got}; send {FORM}", "unsupported_media_type")
    charset = options.get(b"charset", b"utf-8").lower()
    if charset not in (b"utf-8", b"utf8"):
        raise Refusal(415, f"content-type: the charset {charset[:40]!r} is not read; send UTF-8", "unsupported_charset")
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= MAX_BOUNDARY:
        _bad(f"its boundary has {len(boundary)} bytes; send 1 to 70")
    return boundary


@dataclass
class Part:
    """A part under way."""

    headers: dict[str, bytes] = field(default_factory=dict)
    name: str = ""
    is_file: bool = False
    data: bytearray = field(default_factory=bytearray)


class Parts:
    """Gathers the parts that the parser tells of. Its callbacks raise Refusal."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._part = Part()
        self._header = bytearray()
        self._value = bytearray()
        self._count = 0
        self._fields: dict[str, Any] = {}
        self._files: dict[str, list[bytes]] = {}
        self.ended = False

    def callbacks(self) -> Any:
        """By the parser's names of events."""
        events = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "end")
        found = {f"on_{event}": getattr(self, f"_{event}") for event in events}
        return {**found, "on_headers_finished": self._headers_finished}

    def form(self) -> Form:
        return Form(self._fields, {name: tuple(files) for name, files in self._files.items()})

    def _part_begin(self) -> None:
        self._part = Part()
        self._count += 1
        if self._count > self._limits.fields:
            _bad(f"it has more than {self._limits.fields} parts; send fewer")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        name = self._header.decode("latin-1").lower()
        if name in self._part.headers:
            _bad(f"a part has two headers {name[:40]!r}; send one")
        self._part.headers[name] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        kind, options = parse_options_header(self._part.headers.get("content-disposition", b""))
        if kind != b"form-data" or not options.get(b"name"):
            _bad('a part has no name; send `Content-Disposition: form-data; name="…"`')
        self._part.name = _text(options[b"name"], "the name of a part")
        if len(self._part.name) > 100:
            _bad(f"the name {self._part.name[:40]!r}… is too long; send at most 100 characters")
        if b"filename" in options:
            self._part.is_file = True  # its name is the caller's, and used for nothing

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._part.data += data[start:end]
        if not self._part.is_file and len(self._part.data) > self._limits.field_bytes:
            most = self._limits.field_bytes
            problem = f"{self._part.name}: the text has more than {most} bytes; send a shorter one"
            raise Refusal(413, problem, "field_too_large", self._part.name)

    def _part_end(self) -> None:
        part = self._part
        if part.is_file:
            self._files.setdefault(part.name.removesuffix("[]"), []).append(bytes(part.data))
        else:
            self._put(part.name, _text(bytes(part.data), part.name))

    def _put(self, name: str, text: str) -> None:
        bracket = _BRACKET.fullmatch(name)
        if bracket is None:
            self._once(self._fields, name, text, name)
        elif not bracket[2]:
            self._inner(bracket[1], list).append(text)
        else:
            self._once(self._inner(bracket[1], dict), bracket[2], text, name)

    def _inner(self, name: str, kind: type[Any]) -> Any:
        found = self._fields.setdefault(name, kind())
        if not isinstance(found, kind):
            _twice(name)
        return found

    def _once(self, where: dict[str, Any], key: str, text: str, name: str) -> None:
        if key in where:
            _twice(name)
        where[key] = text

    def _end(self) -> None:
        self.ended = True


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Refusal(400, f"{name}: it is not UTF-8; send text in UTF-8", "invalid_form", name) from None


def _twice(name: str) -> NoReturn:
    raise Refusal(400, f"{name}: it stands in the form twice; send it once", "duplicate_field", name)


def _bad(problem: str) -> NoReturn:
    raise Refusal(400, f"form: {problem}", "invalid_form")
