"""Read the weights of a bundle's graphs: every placeholder's dtype, shape and bytes, wherever they lie."""

from __future__ import annotations

from pathlib import Path

import onnx

from impasto_export import manifest, splice

Value = tuple[int, tuple[int, ...], bytes]


def values(bundle: Path) -> dict[tuple[str, str], Value]:
    """(graph, initializer) -> its value."""
    graphs = manifest.load(bundle)["graphs"]
    return {
        (name, item.name.removesuffix(".stored")): (item.data_type, tuple(item.dims), _bytes(bundle, item))
        for name, graph in graphs.items()
        for item in splice.read(bundle / graph["file"]).graph.initializer
        if item.data_location == onnx.TensorProto.EXTERNAL
    }


def _bytes(bundle: Path, item: onnx.TensorProto) -> bytes:
    place = {entry.key: entry.value for entry in item.external_data}
    with (bundle / place["location"]).open("rb") as file:
        file.seek(int(place["offset"]))
        data: bytes = file.read(int(place["length"]))
    assert len(data) == int(place["length"])
    return data
