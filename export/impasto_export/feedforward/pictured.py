"""Make an adapter of a picture's style: the bundle's predictor computes the vector."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from impasto_export.adapters.loras import Imported
from impasto_export.architecture import Json
from impasto_export.errors import AdapterError
from impasto_export.feedforward import network, pictures, vectors
from impasto_export.feedforward.content import PREDICTOR
from impasto_export.feedforward.net import Array
from impasto_export.weights import read_header, read_tensor, sha256_file


def convert(place: Path, manifest: Json, bundle: Path, strength: float = 1.0) -> Imported:
    """The style of the picture `place`. Below strength 1, the bundle's neutral vector is mixed in.

    Raises AdapterError for a bundle without a predictor, for a strength outside 0 to 1 or below 1 without a neutral
    vector, and for a file that is not a picture.
    """
    size = network.of(manifest, bundle).size
    if PREDICTOR not in manifest["graphs"]:
        problem = f"the bundle's network {manifest['name']!r} has no predictor, which makes a picture's style"
        raise AdapterError(f"{place}: {problem}; import a style's file instead")
    if not 0 < strength <= 1:
        raise AdapterError(f"--strength: got {strength:g}; a number above 0, up to 1, is expected")
    neutral = _neutral(manifest, bundle) if strength < 1 else np.zeros(size, np.float32)
    vector = strength * predicted(place, manifest, bundle) + (1 - strength) * neutral
    said = [] if strength == 1 else [f"at {strength:g} of its strength, as --strength said"]
    facts = {"file": place.name, "sha256": sha256_file(place), "layout": "picture", "assumed": said}
    return vectors.sealed_as(np.asarray(vector, np.float32), manifest, facts, {})


def predicted(place: Path, manifest: Json, bundle: Path) -> Array:
    """The picture's style vector [N], computed by the predictor's graph."""
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        fix = "install it with `pip install 'impasto[server]'`"
        raise AdapterError(f"{place}: a predictor is run by onnxruntime, which is not installed; {fix}") from None
    facts = manifest["graphs"][PREDICTOR]
    (port,) = facts["inputs"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(bundle / facts["file"]), options, ["CPUExecutionProvider"])
    pixels = pictures.square(place, port["shape"][-1])
    picture = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32) / 255
    (found,) = session.run(None, {port["name"]: picture})
    vector: Array = found[0]
    return vector


def _neutral(manifest: Json, bundle: Path) -> Array:
    if "neutral" not in manifest:
        what = f"{manifest['name']!r} has no neutral vector"
        raise AdapterError(f"--strength: {what}; leave it out, and send STRENGTH with the request")
    return read_tensor(read_header(bundle / manifest["neutral"]["file"]), "neutral")
