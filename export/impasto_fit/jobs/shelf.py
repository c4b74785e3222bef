"""The registry that a job's adapter goes to."""

from __future__ import annotations

import hashlib

from impasto_export.adapters.registry import AnyRegistry
from impasto_export.cli.printed import registry_in
from impasto_fit.errors import JobError
from impasto_fit.jobs.request import Request


def shelf(request: Request) -> AnyRegistry:
    return registry_in(request.registry)


def taken(request: Request) -> JobError:
    fix = "choose another name, or give --replace"
    return JobError(f"name: {request.name!r} is taken in {request.registry}; {fix}")


def register(request: Request, data: bytes) -> str:
    """Point the name at the adapter; returns its digest. Twice is as once: a worker may die right after.

    Raises:
        JobError: the name was taken meanwhile.
        ExportError, OSError: the registry can't be written.
    """
    registry, digest = shelf(request), hashlib.sha256(data).hexdigest()
    if registry.holds(request.name):
        if registry.show(request.name).digest == digest:
            return digest
        if not request.replace:
            raise taken(request)
    return registry.put(request.name, data, new=not request.replace)
