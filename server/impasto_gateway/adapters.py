"""GET /v1/adapters and what changes them: the styles that a request may name, their pictures, upload and removal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from impasto_client.catalogue import Adapter, Bundle, Catalogue
from impasto_gateway.errors import Refusal
from impasto_gateway.keys import need
from impasto_gateway.parts import Parts, parts_of, record_of
from impasto_gateway.presence import while_present
from impasto_gateway.previews import TYPE
from impasto_gateway.queries import query, refuse
from impasto_gateway.registry import Registry, check_start, checked

PAGE, LONGEST_PAGE = 100, 1000
# What an upload may say beside its file; of it, `impasto adapters import` knows the rest.
ABOUT = ("trigger", "prompt", "style_prompt", "alpha", "style")
PINNED = "delta"  # the kind that is part of a bundle's weights
_CHUNK = 1 << 20


async def listed(request: Request) -> Response:
    """GET /v1/adapters?search=&bundle=&kind=&limit=&after=: by name; `after` is the last name of the page before.

    Each word of `search` must stand in an adapter's name, trigger or prompt. Raises Refusal (400).
    """
    need(request, "generate", "adapters")
    said = query(request, "search", "bundle", "kind", "limit", "after")
    catalogue = await parts_of(request).upstream.catalogue()
    if said.get("bundle") is not None:
        bundle_named(catalogue, said["bundle"])
    limit = _limit(said.get("limit", str(PAGE)))
    found = sorted(matching(catalogue, said), key=lambda one: one.name)
    return JSONResponse(
        {"object": "list", "data": [told(one) for one in found[:limit]], "has_more": len(found) > limit}
    )


async def one(request: Request) -> Response:
    """/v1/adapters/{name}: GET its entry, PUT a file, DELETE it. One route, so that a 405 lists all three."""
    return await {"PUT": put, "DELETE": delete}.get(request.method, entry)(request)


async def entry(request: Request) -> Response:
    """GET /v1/adapters/{name}: as the list has it. Raises Refusal (404)."""
    need(request, "generate", "adapters")
    query(request)
    name = checked(request.path_params["name"])
    return JSONResponse(told(adapter_named(await parts_of(request).upstream.catalogue(), name)))


async def preview(request: Request) -> Response:
    """GET /v1/adapters/{name}/preview?bundle=: a small WebP, of the default bundle or of the first that it fits.

    It counts as the caller's request when it is painted, and as nothing when it is there. Raises Refusal (400, 404).
    """
    caller, parts, name = need(request, "generate", "adapters"), parts_of(request), checked(request.path_params["name"])
    said = query(request, "bundle", "digest")  # the digest is for caches: another adapter has another address
    adapter, bundle = shown(await parts.upstream.catalogue(), name, said.get("bundle"))
    headers = {
        "etag": f'"{adapter.digest[:32]}-{bundle.digest[:16]}"',
        "cache-control": "private, max-age=86400",  # what a key may see is nothing for a proxy to keep
    }
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    admitted = parts.rates.admitted(caller, bundle.size.width * bundle.size.height)
    picture = await while_present(
        request.receive, parts.previews.of(adapter, bundle, admitted, record_of(request).replayed)
    )
    return Response(picture, headers=headers, media_type=TYPE)


async def put(request: Request) -> Response:
    """PUT /v1/adapters/{name}?bundle=&trigger=…: the body is a safetensors file. 201 for a new name, else 200.

    A file of many styles makes several adapters, which have names of their own; `also` lists the others. With the
    header `if-none-match: *`, a name that is taken is refused (412). Raises Refusal.
    """
    need(request, "adapters")
    parts, name = parts_of(request), checked(request.path_params["name"])
    registry, said = registry_of(parts), query(request, "bundle", *ABOUT)
    if request.headers.get("content-type", "").startswith("multipart/"):
        refuse("content-type", "a form is not read here; send the file itself, e.g. curl -T style.safetensors", 415)
    check_alpha(said.get("alpha", "1"))
    folder = await folder_of(parts, said.pop("bundle", None))
    with registry.uploading(name) as workspace:
        is_new = not registry.holds(name)
        if not is_new and request.headers.get("if-none-match") == "*":
            refuse("name", f"{name!r} is taken; choose another, or leave out if-none-match", 412)
        file = workspace / "upload.safetensors"
        await received(request, file)
        first, *others = await registry.put(name, file, folder, said)
    parts.upstream.forget()
    also = {"also": [one["name"] for one in others]} if others else {}
    body = {"object": "adapter", **_without_file(first), **also, "warnings": assumed([first, *others])}
    return JSONResponse(body, 201 if is_new else 200)


def assumed(made: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the importer took for granted, e.g. an alpha that the file doesn't state; each note once."""
    return list(dict.fromkeys(note for one in made for note in one.get("source", {}).get("assumed", ())))


def _without_file(made: Mapping[str, Any]) -> dict[str, Any]:
    """Without the name that the upload had here."""
    source = {key: value for key, value in made.get("source", {}).items() if key != "file"}
    return {**made, **({"source": source} if "source" in made else {})}


async def delete(request: Request) -> Response:
    """DELETE /v1/adapters/{name}. Raises Refusal (404 for a name that isn't there)."""
    need(request, "adapters")
    parts, name = parts_of(request), checked(request.path_params["name"])
    await registry_of(parts).remove(name)
    parts.upstream.forget()
    return JSONResponse({"object": "adapter", "name": name, "deleted": True})


def matching(catalogue: Catalogue, said: Mapping[str, str]) -> Iterator[Adapter]:
    """The adapters that the query asks for, in no order."""
    words = said.get("search", "").lower().split()
    for one in catalogue.adapters:
        text = f"{one.name}\n{one.trigger}\n{one.prompt}".lower()
        fits = "bundle" not in said or said["bundle"] in one.fits
        kind = "kind" not in said or said["kind"] == one.kind
        if fits and kind and one.name > said.get("after", "") and all(word in text for word in words):
            yield one


def told(one: Adapter) -> dict[str, Any]:
    """An adapter as the list has it; `preview` is None where nothing can show it."""
    has_preview = bool(one.fits) and one.kind != PINNED
    address = f"/v1/adapters/{quote(one.name)}/preview?digest={one.digest[:16]}"
    return {
        "name": one.name,
        "object": "adapter",
        "kind": one.kind,
        "family": one.family,
        "trigger": one.trigger,
        "prompt": one.prompt,
        "rank": one.rank,
        "stages": one.stages,
        "fits": list(one.fits),
        "digest": one.digest,
        "preview": address if has_preview else None,
    }


def shown(catalogue: Catalogue, name: str, wanted: str | None) -> tuple[Adapter, Bundle]:
    """The adapter, and the bundle for its preview. Raises Refusal (400, 404)."""
    adapter = adapter_named(catalogue, name)
    fits = sorted(adapter.fits, key=lambda one: one != catalogue.default)
    if wanted is not None and bundle_named(catalogue, wanted) not in fits:
        refuse("bundle", f"{name!r} doesn't fit {wanted!r}; it fits {', '.join(fits) or 'none'}")
    if not fits or adapter.kind == PINNED:
        why = "it fits none of the bundles here" if not fits else "it is part of a bundle's weights"
        raise Refusal(404, f"name: {name!r} has no preview, since {why}; look at another", "no_preview", "name")
    chosen = wanted or fits[0]
    return adapter, next(bundle for bundle in catalogue.bundles if bundle.name == chosen)


def adapter_named(catalogue: Catalogue, name: str) -> Adapter:
    """Raises Refusal (404)."""
    found = next((one for one in catalogue.adapters if one.name == name), None)
    if found is None:
        problem = f"name: there is no adapter {name!r}; GET /v1/adapters lists them"
        raise Refusal(404, problem, "adapter_not_found", "name")
    return found


def bundle_named(catalogue: Catalogue, name: str) -> str:
    """The bundle's name. Raises Refusal (400) for one that isn't served."""
    known = [bundle.name for bundle in catalogue.bundles]
    if name not in known:
        refuse("bundle", f"{name[:64]!r} is not served; known are {', '.join(known)}")
    return name


def registry_of(parts: Parts) -> Registry:
    """Raises Refusal (501) where adapters can't be changed."""
    if parts.registry is None:
        problem = "adapters can't be changed here; start the gateway with --registry and --bundle"
        raise Refusal(501, f"adapters: {problem}", "no_registry")
    return parts.registry


async def folder_of(parts: Parts, name: str | None) -> Path:
    """The folder of the bundle that an upload is for; by default that of the servers' default. Raises Refusal (400)."""
    catalogue = await parts.upstream.catalogue()
    name, folders = bundle_named(catalogue, name or catalogue.default), parts.settings.bundles
    if name not in folders:
        known = ", ".join(folders) or "none"
        refuse("bundle", f"the gateway has no folder of {name!r}; start it with --bundle {name}=DIR (it has: {known})")
    return folders[name]


def check_alpha(text: str) -> None:
    """Raises Refusal (400)."""
    try:
        fine = isfinite(float(text))
    except ValueError:
        fine = False
    if not fine:
        refuse("alpha", f"{text[:40]!r} is no number; pass that of the adapter's training, or leave it out")


async def received(request: Request, file: Path) -> None:
    """Write the body to a file, whose start must look like safetensors. Raises Refusal."""
    held, checked_start = bytearray(), False
    with file.open("wb") as out:
        async for chunk in request.stream():
            held += chunk
            if not checked_start and len(held) > 8:
                check_start(bytes(held[:9]))
                checked_start = True
            if len(held) >= _CHUNK:
                await asyncio.to_thread(out.write, held)
                held = bytearray()
        await asyncio.to_thread(out.write, held)
    if not checked_start:
        check_start(bytes(held))


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:5]) <= LONGEST_PAGE:
        refuse("limit", f"{text[:40]!r} is not allowed; pass 1 to {LONGEST_PAGE}")
    return int(text)
