"""The models that a client may name: the bundles, and each adapter in a bundle that it fits, as BUNDLE:ADAPTER."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from impasto_client.catalogue import Adapter, Bundle, Catalogue
from impasto_gateway.errors import Refusal
from impasto_gateway.parts import parts_of

OWNER = "impasto"


async def listed(request: Request) -> Response:
    """GET /v1/models: the default bundle first."""
    catalogue = await parts_of(request).upstream.catalogue()
    return JSONResponse({"object": "list", "data": list(models_of(catalogue))})


async def one(request: Request) -> Response:
    """GET /v1/models/{model}. Raises Refusal 404 for a model that isn't listed."""
    name = request.path_params["model"]
    catalogue = await parts_of(request).upstream.catalogue()
    found = next((model for model in models_of(catalogue) if model["id"] == name), None)
    if found is None:
        raise Refusal(404, f"model: there is no {name[:64]!r}; GET /v1/models lists them", "model_not_found", "model")
    return JSONResponse(found)


def models_of(catalogue: Catalogue) -> Iterator[dict[str, Any]]:
    """OpenAI's model objects, with what the catalogue says of each; an adapter has its bundle as `parent`."""
    bundles = sorted(catalogue.bundles, key=lambda bundle: bundle.name != catalogue.default)
    for bundle in bundles:
        yield {**_model(bundle.name), **_bundle(bundle), "default": bundle.name == catalogue.default}
    for bundle in bundles:
        for adapter in catalogue.adapters:
            if bundle.name in adapter.fits:
                yield {**_model(f"{bundle.name}:{adapter.name}"), "parent": bundle.name, **_adapter(adapter)}


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER}


def _bundle(bundle: Bundle) -> dict[str, Any]:
    said = {word: value for word, value in asdict(bundle).items() if word != "name"}
    return {**said, "fields": [name.lower() for name in bundle.fields]}


def _adapter(adapter: Adapter) -> dict[str, Any]:
    return {word: value for word, value in asdict(adapter).items() if word not in ("name", "fits", "family")}
