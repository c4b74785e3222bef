"""GET /openapi.json: what each endpoint takes and answers."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from impasto_gateway import schemas
from impasto_gateway.parts import parts_of
from impasto_gateway.schemas import FILE, TEXT, Schema, listed, said, thing
from impasto_gateway.settings import GatewaySettings

VERSION = "3.1.0"
PICTURES = ("image/png", "image/jpeg", "image/webp")
NAME = {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$"}

# What any endpoint may answer; what one may answer besides stands with it.
ALWAYS = {401: "no key, or a wrong one", 403: "the key may not do this", 500: "the gateway failed"}
BODY = {400: "a field at fault", 408: "the body came too slowly", 413: "the body is too large", 415: "its type"}
WORK = {
    404: "no such model or adapter",
    429: "too much at once; see retry-after",
    499: "the caller left",
    502: "several servers were lost with this request",
    503: "no server is ready",
    504: "the time has passed",
}


async def document(request: Request) -> Response:
    """The description."""
    return JSONResponse(described(parts_of(request).settings))


def described(settings: GatewaySettings) -> dict[str, Any]:
    """The document, for a gateway with these settings."""
    keyed: dict[str, Any] = {"security": [{"key": []}]} if settings.keys else {}
    return {
        "openapi": VERSION,
        "info": {
            "title": "impasto",
            "version": "1",
            "description": "Pictures in any style. The images API is OpenAI's, with more fields.",
        },
        **keyed,
        "paths": {**_images(settings), **_models(), **_adapters(), **_pictures(), **_operations()},
        "components": {
            "schemas": schemas.COMPONENTS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _images(settings: GatewaySettings) -> dict[str, Any]:
    answers = {
        200: {
            "description": "The pictures; with stream, events.",
            "content": {
                "application/json": {"schema": _ref("Images")},
                "text/event-stream": {"schema": _ref("Event")},
            },
        }
    }
    headers = [
        _header("x-request-id", "The request's id in logs and traces; else one is made.", TEXT),
        _header("x-timeout-s", "As the field timeout.", {"type": "number", "exclusiveMinimum": 0}),
        _header("idempotency-key", "The same key and body are painted once, unless they stream.", TEXT),
    ]
    faults = BODY | WORK | {422: "the key came with another body before"}
    form = _form(schemas.edit(settings.limits), image=", ".join(PICTURES))
    return {
        "/v1/images/generations": {
            "post": _operation(
                "Paint a prompt.",
                answers,
                faults,
                parameters=headers,
                requestBody=_body({"application/json": {"schema": schemas.generation(settings.limits)}}),
            )
        },
        "/v1/images/edits": {
            "post": _operation(
                "Paint a picture anew or larger, or a photo in a style.",
                answers,
                faults,
                parameters=headers,
                requestBody=_body({"multipart/form-data": form}),
            )
        },
    }


def _models() -> dict[str, Any]:
    one = _path("model", "BUNDLE or BUNDLE:ADAPTER", {**TEXT, "minLength": 1})
    return {
        "/v1/models": {"get": _operation("The models.", _json("Models"), {503: WORK[503]})},
        "/v1/models/{model}": {
            "get": _operation("One of them.", _json("Model"), {404: "no such model", 503: WORK[503]}, parameters=[one])
        },
    }


def _adapters() -> dict[str, Any]:
    name, bundle = _path("name", "The adapter's name.", NAME), _query("bundle", "A bundle's name.", TEXT)
    search = [
        _query("search", "Words that stand in the name, trigger or prompt.", TEXT),
        bundle,
        _query("kind", "lora, bottleneck, embedding, vector or delta.", TEXT),
        _query("limit", "So many at most.", {"type": "integer", "minimum": 1, "maximum": 1000}),
        _query("after", "The last name of the page before.", TEXT),
    ]
    about = [_query(word, "As of `impasto adapters import`.", TEXT) for word in ("trigger", "prompt", "style_prompt")]
    more = [_query("alpha", "The file's alpha.", {"type": "number"}), _query("style", "Its style.", TEXT)]
    preview = {200: {"description": "A small picture.", "content": {"image/webp": {"schema": FILE}}}}
    kept = {304: {"description": "The caller has it already."}}
    put = _json("Adapter") | {201: _json("Adapter")[200]}
    changed = {404: "no such adapter", 429: WORK[429], 501: "adapters can't be changed here", 503: WORK[503]}
    held = {409: "it is being changed", 412: "the name is taken", 422: "the file fits no bundle"}
    return {
        "/v1/adapters": {
            "get": _operation(
                "The styles that a request may name.",
                _json("Adapters"),
                {400: BODY[400], 503: WORK[503]},
                parameters=search,
            )
        },
        "/v1/adapters/{name}/preview": {
            "get": _operation(
                "A picture in this style.",
                preview | kept,
                {400: BODY[400]} | WORK,
                parameters=[name, bundle, _query("digest", "For caches.", TEXT)],
            )
        },
        "/v1/adapters/{name}": {
            "get": _operation(
                "One of them.",
                _json("Adapter"),
                {400: BODY[400], 404: "no such adapter", 503: WORK[503]},
                parameters=[name],
            ),
            "put": _operation(
                "Add a style, or put another in its place.",
                put,
                BODY | changed | held,
                parameters=[name, bundle, *about, *more],
                requestBody=_body({"application/octet-stream": {"schema": FILE}}),
            ),
            "delete": _operation(
                "Remove a style.", _json_of({"type": "object"}), {400: BODY[400]} | changed | held, parameters=[name]
            ),
        },
    }


def _pictures() -> dict[str, Any]:
    scored = thing("image", image=listed(FILE), reference=listed(FILE), text={"anyOf": [TEXT, listed(TEXT)]})
    verified = thing("image", image=said("The file.", FILE))
    kinds = ", ".join(PICTURES)
    return {
        "/v1/score": {
            "post": _operation(
                "How well pictures match a text, or other pictures: cosines.",
                _json("Scores"),
                BODY | WORK | {501: "no scorer is loaded"},
                requestBody=_body(
                    {
                        "multipart/form-data": _form(
                            {**scored, "additionalProperties": False}, image=kinds, reference=kinds
                        )
                    }
                ),
            )
        },
        "/v1/verify": {
            "post": _operation(
                "What a picture's marks say, and whether it is ours.",
                _json_of({"type": "object"}),
                BODY | {501: "not available here"},
                requestBody=_body({"multipart/form-data": _form(verified, image=kinds)}),
            )
        },
    }


def _operations() -> dict[str, Any]:
    text = {200: {"description": "Prometheus's text format.", "content": {"text/plain": {"schema": TEXT}}}}
    html = {
        200: {"description": "HTML.", "content": {"text/html": {"schema": TEXT}}},
        304: {"description": "Unchanged."},
    }
    static = {200: {"description": "A file of the page.", "content": {"*/*": {"schema": TEXT}}}, 304: html[304]}
    name = _path("name", "The file's name.", {**TEXT, "minLength": 1})
    return {
        "/health": {"get": _open("200 as long as the gateway runs.", _json("Status"))},
        "/ready": {"get": _open("Whether a picture would be painted now.", _json("Status"), {503: "not now"})},
        "/metrics": {"get": _operation("The gateway's metrics.", text, {})},
        "/openapi.json": {"get": _open("This document.", _json_of({"type": "object"}))},
        "/": {"get": _open("A page to paint with.", html)},
        "/static/{name}": {"get": _open("Its parts.", static, {404: "no such file"}, parameters=[name])},
    }


def _operation(summary: str, answers: dict[int, Any], faults: dict[int, str], **more: Any) -> dict[str, Any]:
    errors = {
        status: {"description": text, "content": {"application/json": {"schema": _ref("Error")}}}
        for status, text in sorted((ALWAYS | faults).items())
    }
    return {
        "summary": summary,
        **more,
        "responses": {str(status): one for status, one in {**answers, **errors}.items()},
    }


def _open(summary: str, answers: dict[int, Any], faults: dict[int, str] | None = None, **more: Any) -> dict[str, Any]:
    """An operation for which no key is asked."""
    return {**_operation(summary, answers, faults or {}, **more), "security": []}


def _json(name: str) -> dict[int, Any]:
    return _json_of(_ref(name))


def _json_of(schema: Schema) -> dict[int, Any]:
    return {200: {"description": "The answer.", "content": {"application/json": {"schema": schema}}}}


def _form(schema: Schema, **types: str) -> dict[str, Any]:
    return {"schema": schema, "encoding": {name: {"contentType": kinds} for name, kinds in types.items()}}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": content}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _query(name: str, text: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": schema}


def _header(name: str, text: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": text, "schema": schema}


def _path(name: str, text: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": text, "schema": schema}
