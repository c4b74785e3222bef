"""/openapi.json is true: of the routes, of the words, of the answers."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from impasto_client.fields import TABLE
from impasto_gateway.app import routes
from impasto_gateway.openapi import described
from impasto_gateway.words import ALIASES, IGNORED, KINDS
from tests.helpers.gateways import SETTINGS, get, png, post

DOCUMENT = described(SETTINGS)
METHODS = {"get", "post", "put", "delete"}


def words(path: str, kind: str) -> dict[str, Any]:
    """The fields of a request."""
    schema = DOCUMENT["paths"][path]["post"]["requestBody"]["content"][kind]["schema"]
    assert schema["additionalProperties"] is False
    found: dict[str, Any] = schema["properties"]
    return found


def test_it_is_served() -> None:
    assert get("/openapi.json").json() == DOCUMENT


def test_it_has_every_route_and_no_other() -> None:
    served = {
        (route.path.replace(":path", ""), method.lower())
        for route in routes()
        if isinstance(route, Route)
        for method in (route.methods or ())
        if method != "HEAD"
    }
    told = {(path, method) for path, one in DOCUMENT["paths"].items() for method in one if method in METHODS}
    assert told == served


def test_it_has_every_word_that_a_request_may_have() -> None:
    known = {*KINDS, *ALIASES, *IGNORED}
    generation = words("/v1/images/generations", "application/json")
    edit = words("/v1/images/edits", "multipart/form-data")
    assert {*generation} | {*edit} == known
    assert {field.word for field in TABLE.fields if field.option} <= {*generation}
    assert known - {*edit} == set()
    assert {*edit} - {*generation} == {*"upscale mask detail preserve_color long_side style_image_weights".split()}


def example(word: str, schema: dict[str, Any]) -> Any:
    """A value that the schema allows."""
    special = {"image": base64.b64encode(png()).decode(), "guidance": "cfg", "timeout": 5, "style": "sks03"}
    if "enum" in schema:
        return special.get(word, schema["enum"][0])
    usual = {"integer": 1, "number": 1.0, "boolean": False, "string": "auto", "array": [], "object": {}}
    kind = schema.get("type") or schema.get("anyOf", [{"type": "string"}])[0]["type"]
    return special.get(word, usual[kind])


@pytest.mark.parametrize(
    "word", [one for one in words("/v1/images/generations", "application/json") if one != "prompt"]
)
def test_a_word_that_it_has_is_known_to_the_gateway(word: str) -> None:
    """It may be refused with others, or for its value, but never as unknown."""
    schema = words("/v1/images/generations", "application/json")[word]
    answer = post({"prompt": "a boat", word: example(word, schema)})
    assert answer.status_code == 200 or answer.json()["error"]["code"] != "unknown_field", answer.text


def test_references_lead_somewhere() -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if "$ref" in value else set()
            return own.union(*(references(one) for one in value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    found = {one.removeprefix("#/components/schemas/") for one in references(DOCUMENT)}
    assert found <= {*DOCUMENT["components"]["schemas"]}


def test_keys_are_asked_for_where_there_are_some() -> None:
    assert "security" not in DOCUMENT
    keyed = described(replace(SETTINGS, keys=Path("keys")))
    assert keyed["security"] == [{"key": []}]
    assert keyed["paths"]["/health"]["get"]["security"] == []
    assert "security" not in keyed["paths"]["/v1/models"]["get"]
