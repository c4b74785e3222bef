"""Kubernetes' manifests as tests read them: rendered, and held against the schemas of their kinds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from kubernetes_validate import SchemaNotFoundError, ValidationError, validate  # type: ignore[import-untyped]

from tests.helpers.pages import ROOT

FOLDER = ROOT / "deploy/kubernetes"
RENDERED = ROOT / "tests/unit/deploy/rendered"
OVERLAYS = {"cpu": "overlays/cpu", "gpu": "overlays/gpu", "fleet": "overlays/fleet", "kserve": "kserve"}
VERSION = "1.37"
DASHBOARD = "impasto-dashboard"  # as long as all the rest, and compared elsewhere

Manifest = dict[str, Any]


@cache
def rendered(overlay: str) -> tuple[Manifest, ...]:
    """What kustomize makes of an overlay, without the dashboard; test_kubernetes.py compares."""
    return read((RENDERED / f"{overlay}.yaml").read_text())


def read(text: str) -> tuple[Manifest, ...]:
    return tuple(one for one in yaml.safe_load_all(text) if one)


def files(under: Path = FOLDER) -> list[Path]:
    return sorted(under.rglob("*.yaml"))


def the(manifests: tuple[Manifest, ...], kind: str, name: str = "impasto") -> Manifest:
    """The one of this kind and name."""
    (found,) = (one for one in manifests if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


def problem(manifest: Manifest) -> str | None:
    """What is wrong with it; None if nothing is. Raises LookupError for a kind that no schema knows."""
    name = f"{manifest['apiVersion']}/{manifest['kind']}"
    own = _kinds().get(name)
    if own is None:
        try:
            validate(manifest, VERSION, strict=True)
        except SchemaNotFoundError:
            raise LookupError(f"{name}: there is no schema; write one into tests/unit/deploy/kinds.yaml") from None
        except ValidationError as error:
            return f"{name} {'.'.join(map(str, error.path))}: {error.message}"
        return None
    shared = _kinds()["$defs"]
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {"apiVersion": {}, "kind": {}, "metadata": {"$ref": "#/$defs/metadata"}, "spec": own},
        "$defs": {**shared, **own.get("$defs", {})},
    }
    found = sorted(Draft202012Validator(schema).iter_errors(manifest), key=str)
    return f"{name} {'.'.join(map(str, found[0].path))}: {found[0].message}" if found else None


@cache
def _kinds() -> dict[str, Any]:
    known: dict[str, Any] = yaml.safe_load((ROOT / "tests/unit/deploy/kinds.yaml").read_text())
    return known
