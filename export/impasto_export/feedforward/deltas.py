"""Import a decoder of CLIPstyler's fast net as an adapter: its weights' differences from the bundle's decoder.

Styles interpolate linearly in a decoder's weights, so such adapters are mixed by merging (`impasto export merge`, also
with --pin). If a mix's weights sum to 1, the result is the weighted mean of the decoders.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_export import parameters
from impasto_export.adapters.loras import DELTA, Imported, sealed
from impasto_export.architecture import FORMAT, Json
from impasto_export.errors import AdapterError
from impasto_export.feedforward import decoder
from impasto_export.feedforward.source import Source
from impasto_export.merging.mixes import DIFF, DIFF_BIAS
from impasto_export.weights import sha256_file

GRAPH = "transform"
ROLES = {"weight": DIFF, "bias": DIFF_BIAS}


def recognises(source: Source, manifest: Json) -> bool:
    """Whether it is a decoder, and the bundle has one to compare it with."""
    return bool(manifest.get("trunk", {}).get("layout") == decoder.NAME) and decoder.recognises(source)


def read(source: Source, manifest: Json, bundle: Path) -> Imported:
    """The adapter. Raises MisfitCheckpoint for a file that is not a whole decoder, AdapterError for a bundle whose
    decoder was changed by merging."""
    if manifest.get("merged"):
        problem = "already has styles merged into its decoder"
        raise AdapterError(f"{bundle} {problem}; give the bundle from before the merge with --bundle")
    tensors = dict(_differences(source, manifest, bundle))
    record = {
        "format": FORMAT,
        "kind": DELTA,
        "family": manifest["family"],
        "architecture": manifest["architecture"],
        "network": manifest["name"],
        "forms": ["diff"],
        "rank": 0,
        "sites": len(decoder.DECODING),
        "source": {
            "file": source.place.name,
            "sha256": sha256_file(source.place),
            "layout": decoder.NAME,
            "assumed": [],
        },
    }
    return sealed(tensors, record)


def _differences(source: Source, manifest: Json, bundle: Path) -> Iterator[tuple[str, tuple[str, NDArray[Any]]]]:
    held = parameters.of(bundle, manifest)[GRAPH]
    for name, own in decoder.tensors(source).items():
        base = parameters.values(bundle, name, held[name])
        module, _, part = name.rpartition(".")
        yield f"{GRAPH}.{module}.{ROLES[part]}", ("F32", own - np.asarray(base, np.float32))
