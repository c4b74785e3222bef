"""JSON schemas of requests and answers, for /openapi.json. Requests' follow from the words and the table of fields."""

from __future__ import annotations

from typing import Any

from impasto_client.field import Field
from impasto_client.fields import TABLE
from impasto_gateway.draft import FORMATS, MAX_PARTIAL
from impasto_gateway.guiding import STRENGTHS
from impasto_gateway.prompted import PHOTOS_OWN
from impasto_gateway.settings import Limits
from impasto_gateway.words import ALIASES, IGNORED, KINDS

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
FILE: Schema = {"type": "string", "format": "binary"}
BASE64: Schema = {"type": "string", "contentEncoding": "base64", "description": "A PNG, JPEG or WebP file in base64."}
WEIGHTS: Schema = {"type": "object", "additionalProperties": NUMBER}
NAMES: Schema = {"type": "array", "items": {"anyOf": [TEXT, {"$ref": "#/components/schemas/Weighted"}]}}


def said(text: str, schema: Schema) -> Schema:
    """A schema with a description."""
    return {**schema, "description": text}


def listed(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def thing(required: str = "", **properties: Schema) -> Schema:
    """An object; `required` are names in a row."""
    return {"type": "object", "required": required.split(), "properties": properties}


def own(limits: Limits) -> dict[str, Schema]:
    """The gateway's own words."""
    return {
        "prompt": said(
            "What to paint. <lora:NAME:WEIGHT> names an adapter, <NAME> an embedding.", {**TEXT, "minLength": 1}
        ),
        "model": said(
            "A bundle, or BUNDLE:ADAPTER; GET /v1/models lists them. Names of OpenAI's mean the default.", TEXT
        ),
        "size": said("WIDTHxHEIGHT in pixels, or auto.", {**TEXT, "pattern": "^([0-9]{1,5}x[0-9]{1,5}|auto)$"}),
        "stream": said("Answer with events.", FLAG),
        "partial_images": said(
            "With stream: so many previews.", {"type": "integer", "minimum": 0, "maximum": MAX_PARTIAL}
        ),
        "progress": said("With stream: an event after each step, too.", FLAG),
        "metadata": said("Whether the files say how they were painted.", {**FLAG, "default": True}),
        "timeout": said(
            "Seconds that the picture may take.", {**NUMBER, "exclusiveMinimum": 0, "maximum": limits.timeout_s}
        ),
    }


def generation(limits: Limits) -> Schema:
    """The body of /v1/images/generations."""
    strange = {*PHOTOS_OWN, "upscale"}
    words = {word: _word(word) for word in KINDS if word not in strange}
    return _closed({**words, **own(limits)}, ["prompt"], {word: _unheard(word) for word in IGNORED})


def edit(limits: Limits) -> Schema:
    """The form of /v1/images/edits. In a form, numbers and flags are texts."""
    files = {word: said("A file.", FILE) for word, kind in KINDS.items() if kind == "picture"}
    several = said("The picture to paint anew; a model for photos takes styles from further ones.", listed(FILE))
    words = {word: _word(word) for word in KINDS if word not in files}
    upscale = said("Paint the picture larger, with the second stage of a model that has one.", FLAG)
    return _closed(
        {**words, **own(limits), **files, "image": several, "upscale": upscale},
        ["image"],
        {word: _unheard(word) for word in IGNORED},
    )


def _closed(words: dict[str, Schema], required: list[str], ignored: dict[str, Schema]) -> Schema:
    aliases = {alias: said(f"The same as {word}.", words[word]) for alias, word in ALIASES.items()}
    properties = {**words, **aliases, **ignored}
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def _unheard(word: str) -> Schema:
    return {"description": "Of OpenAI's API; it has no effect here. A value that asks for something gives a warning."}


_ROWS = {field.word: field for field in TABLE.fields}


def _word(word: str) -> Schema:
    field = _ROWS.get(word)
    if field is None:
        return BASE64 if KINDS[word] == "picture" else TEXT
    return said(_help(field), _kind(field))


def _kind(field: Field) -> Schema:
    match field.kind:
        case "flag":
            return FLAG
        case "number":
            return {"type": "integer" if field.dtype.startswith("INT") else "number", **_bounds(field)}
        case "numbers":
            return listed({**NUMBER, **_bounds(field)})
        case "picture":
            return BASE64
        case "adapters" | "style":
            return {"anyOf": [TEXT, WEIGHTS, NAMES]}
    return {**TEXT, "enum": list(field.choices)} if field.choices else TEXT


def _bounds(field: Field) -> Schema:
    bounds = {"minimum": field.low, "maximum": field.high}
    return {word: value for word, value in bounds.items() if value is not None}


def _help(field: Field) -> str:
    rules = [rule.name for rule in TABLE.rules if field.word in STRENGTHS and field.name in rule.fields.values()]
    only = f" Only with guidance {' or '.join(rules)}." if rules else ""
    return f"{field.help or field.name}{only}"


USAGE = said("Tokens, of which there are none.", {"type": "object"})
PICTURE = thing(
    "b64_json seed",
    b64_json=said("The file in base64.", TEXT),
    seed=said("The seed that paints this picture alone; null for a photo's painting.", {"type": ["integer", "null"]}),
    revised_prompt=said(
        "The prompt that was painted, where it isn't the one that was sent.", {"type": ["string", "null"]}
    ),
    score=said("With rerank: the cosine that the pictures are sorted by.", NUMBER),
)
_PAINTED = {
    "size": said("WIDTHxHEIGHT.", TEXT),
    "quality": TEXT,
    "background": TEXT,
    "output_format": {**TEXT, "enum": list(FORMATS)},
    "usage": USAGE,
    "warnings": said("What was ignored or changed.", listed(TEXT)),
    "meta": said("The server's report: engine, digests, timings, settings that were used.", {"type": "object"}),
}
ADAPTER = thing(
    "name kind",
    name=TEXT,
    object=TEXT,
    kind=TEXT,
    family=TEXT,
    trigger=TEXT,
    prompt=TEXT,
    rank={"type": "integer"},
    stages={"type": "integer"},
    fits=listed(TEXT),
    digest=TEXT,
    preview=TEXT,
)

COMPONENTS: dict[str, Schema] = {
    "Weighted": {**thing("name", name=TEXT, weight=NUMBER), "additionalProperties": False},
    "Error": thing(
        "error",
        error=thing(
            "message type param code",
            message=said("field: what was got; what to do", TEXT),
            type=TEXT,
            param=said("The field at fault.", {"type": ["string", "null"]}),
            code={"type": ["string", "null"]},
        ),
    ),
    "Images": thing("created data", created={"type": "integer"}, data=listed(PICTURE), **_PAINTED),
    "Event": said(
        "A server-sent event: NAME.partial_image, .completed or, if asked for, .progress, where NAME is"
        " image_generation or image_edit; or error. Its data is JSON.",
        thing("event data", event=TEXT, data=TEXT),
    ),
    "Model": thing(
        "id object created owned_by",
        id=TEXT,
        object={"const": "model"},
        created={"type": "integer"},
        owned_by=TEXT,
        parent=said("Of BUNDLE:ADAPTER: the bundle.", TEXT),
    ),
    "Models": thing("object data", object={"const": "list"}, data=listed({"$ref": "#/components/schemas/Model"})),
    "Adapter": ADAPTER,
    "Adapters": thing(
        "object data", object={"const": "list"}, data=listed({"$ref": "#/components/schemas/Adapter"}), has_more=FLAG
    ),
    "Scores": thing(
        "object data",
        object={"const": "list"},
        data=listed(thing("index score", object=TEXT, index={"type": "integer"}, score=NUMBER)),
    ),
    "Status": thing("status", status=TEXT),
}
