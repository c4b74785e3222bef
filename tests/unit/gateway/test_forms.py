"""Multipart forms, read strictly."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import openai
import pytest
from starlette.requests import Request
from starlette.types import Message

from impasto_gateway.errors import Refusal
from impasto_gateway.forms import Form, parsed_form
from impasto_gateway.settings import Limits

FILE = 'form-data; name="image"; filename="a.png"'


def part(disposition: str, data: bytes = b"x", **headers: str) -> bytes:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"--b\r\nContent-Disposition: {disposition}\r\n{more}\r\n".encode() + data + b"\r\n"


def text(name: str, data: bytes = b"x") -> bytes:
    return part(f'form-data; name="{name}"', data)


def parsed(
    *parts: bytes,
    end: bytes = b"--b--\r\n",
    kind: str = "multipart/form-data; boundary=b",
    limits: Limits = Limits(),  # noqa: B008
    size: int = 7,
) -> Form:
    """The form of these parts, which arrive `size` bytes at a time."""
    raw = b"".join(parts) + end
    pieces = [raw[start : start + size] for start in range(0, len(raw), size)] or [b""]

    async def receive() -> Message:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    headers = [(b"content-type", kind.encode())]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
    return asyncio.run(parsed_form(Request(scope, receive), limits))


def refusal(*parts: bytes, **said: Any) -> tuple[int, str, str | None, str]:
    with pytest.raises(Refusal) as found:
        parsed(*parts, **said)
    return found.value.status, found.value.code, found.value.param, found.value.message


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_texts_and_files(size: int) -> None:
    form = parsed(text("prompt", "a red boat ⛵".encode()), part(FILE, b"\x89PNG\r\n--c\r\n"), size=size)
    assert form == Form({"prompt": "a red boat ⛵"}, {"image": (b"\x89PNG\r\n--c\r\n",)})


def test_several_files_keep_their_order() -> None:
    other = part('form-data; name="image[]"; filename="b.png"', b"2")
    assert parsed(part(FILE, b"1"), other, part(FILE, b"3")).files == {"image": (b"1", b"2", b"3")}


def test_lists_and_objects_as_the_sdks_write_them() -> None:
    form = parsed(text("style[]", b"ink"), text("style[]", b"neon"), text("adapters[ink]", b"0.8"))
    assert form.fields == {"style": ["ink", "neon"], "adapters": {"ink": "0.8"}}


def test_what_openais_sdk_sends() -> None:
    extra = {"adapters": {"ink": 0.8, "neon": 0.2}, "style": ["ink", "neon"], "seed": 7, "preserve_color": True}
    sent = openai.OpenAI(api_key="x")._serialize_multipartform(extra)
    parts = [text(name, one.encode()) for name, some in sent.items() for one in _listed(some)]
    said: Mapping[str, Any] = parsed(*parts).fields
    assert said["adapters"] == {"ink": "0.8", "neon": "0.2"}
    assert said["style"] == ["ink", "neon"]
    assert said["seed"] == "7"


def _listed(some: object) -> list[str]:
    return [str(one) for one in some] if isinstance(some, list) else [str(some)]


def test_an_empty_form() -> None:
    assert parsed() == Form({}, {})


def test_a_files_name_is_no_path() -> None:
    form = parsed(
        part('form-data; name="image"; filename="../../etc/passwd"'), part('form-data; name="../mask"; filename=""')
    )
    assert {*form.files} == {
        "image",
        "../mask",
    }  # names of fields: whoever reads the form refuses those it doesn't know


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ((text("seed"), text("seed")), "seed"),
        ((text("adapters[ink]"), text("adapters[ink]")), "adapters[ink]"),
        ((text("style"), text("style[]")), "style"),
        ((text("style[]"), text("style")), "style"),
        ((text("style[]"), text("style[a]")), "style"),
    ],
)
def test_a_text_that_stands_there_twice(parts: tuple[bytes, ...], name: str) -> None:
    assert refusal(*parts)[:3] == (400, "duplicate_field", name)


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ((part("form-data"),), "a part has no name"),
        ((part('form-data; name=""'),), "a part has no name"),
        ((part('attachment; name="a"'),), "a part has no name"),
        ((b"--b\r\n\r\nx\r\n",), "a part has no name"),
        ((part(FILE, content_disposition="x", **{"content-disposition": FILE}),), "two headers 'content-disposition'"),
        ((text("a" * 101),), "is too long"),
        ((b"no form at all",), "it is no multipart form"),
        ((b"--c\r\n",), "it is no multipart form"),
        ((part(FILE, **{"x" * 20_000: "y"}),), "it is no multipart form"),
        ((part(FILE, **{f"x-{number}": "y" for number in range(200)}),), "it is no multipart form"),
    ],
)
def test_a_form_that_is_none(parts: tuple[bytes, ...], problem: str) -> None:
    status, code, _, message = refusal(*parts)
    assert (status, code) == (400, "invalid_form")
    assert message.startswith("form: ")
    assert problem in message


@pytest.mark.parametrize("end", [b"", b"--b\r\n", b"--b", b'--b\r\nContent-Disposition: form-data; name="a"\r\n'])
def test_a_form_that_ends_too_soon(end: bytes) -> None:
    assert "it ends in the middle" in refusal(text("prompt"), end=end)[3]


def test_bounds() -> None:
    few = Limits(fields=2, field_bytes=10)
    assert parsed(text("a", b"x" * 10), part(FILE, b"x" * 1000), limits=few).fields == {"a": "x" * 10}
    assert refusal(text("a"), text("b"), text("c"), limits=few)[:2] == (400, "invalid_form")
    assert refusal(part(FILE), part(FILE), part(FILE), limits=few)[:2] == (400, "invalid_form")
    assert refusal(text("prompt", b"x" * 11), limits=few)[:3] == (413, "field_too_large", "prompt")


def test_text_that_is_not_utf_8() -> None:
    assert refusal(text("prompt", b"\xff"))[:3] == (400, "invalid_form", "prompt")
    assert refusal(text("name").replace(b'"name"', b'"\xff"'))[:2] == (400, "invalid_form")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("", "unsupported_media_type"),
        ("application/json", "unsupported_media_type"),
        ("multipart/mixed; boundary=b", "unsupported_media_type"),
        ("multipart/form-data; boundary=b; charset=utf-7", "unsupported_charset"),
    ],
)
def test_other_types(kind: str, code: str) -> None:
    assert refusal(text("prompt"), kind=kind)[:2] == (415, code)


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={'b' * 300}"]
)
def test_boundaries(kind: str) -> None:
    assert "boundary" in refusal(text("prompt"), kind=kind)[3]
