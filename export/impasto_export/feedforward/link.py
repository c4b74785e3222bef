"""`impasto link` of feed-forward nets: a file that a reader knows -> a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from onnx import ModelProto

from impasto_export import bundles, splice
from impasto_export.architecture import VECTOR, Graph, Json, Port, Site
from impasto_export.bundles import Content, Linked
from impasto_export.checkpoints.checkpoint import Stored, label
from impasto_export.errors import CheckpointError
from impasto_export.families import FEEDFORWARD
from impasto_export.feedforward import (
    clipstyler,
    decoder,
    examples,
    graph,
    graphs,
    johnson,
    lengstrom,
    lua,
    magenta,
    predictor,
    source,
    studio,
)
from impasto_export.feedforward.found import NOTHING, Found, Said
from impasto_export.feedforward.net import Array, Net
from impasto_export.feedforward.source import Source
from impasto_export.files import Progress, silent
from impasto_export.weights import Tensor, encode, layout

# Each has `recognises(source)` and `read(source, said) -> Found`; the first that recognises a file reads it.
READERS: tuple[ModuleType, ...] = (
    studio,
    graphs,
    magenta,
    examples,
    johnson,
    lua,
    lengstrom,
    clipstyler,
    decoder,
)
TRANSFORM, PREDICTOR = "transform", "predictor"
WEIGHTS, NEUTRAL, EXPAND = "transform.safetensors", "neutral.safetensors", "expand.safetensors"
# A request's usual picture; and the most that is served: 8192 x 8192.
IMAGE = {"width": 512, "height": 512, "max_pixels": 1 << 26}


def recognises(place: str | Path) -> bool:
    """Whether a reader knows it. Raises CheckpointError for a damaged file, and for one of a kind that nothing else is
    linked from."""
    with source.opened(Path(place)) as found:
        if found is None or _reader(found) is not None:
            return found is not None
        if found.alone:
            raise _unknown(place, found)
        return False


def read(place: Path, said: Said = NOTHING) -> Found:
    """Raises CheckpointError for what no reader knows, and for what its reader finds wrong."""
    with source.opened(place) as opened:
        reader = _reader(opened) if opened else None
        if opened is None or reader is None:
            raise _unknown(place, opened)
        found: Found = reader.read(opened, said)
        return found


def _reader(opened: Source) -> ModuleType | None:
    return next((reader for reader in READERS if reader.recognises(opened)), None)


def _unknown(place: str | Path, opened: Source | None) -> CheckpointError:
    fix = "a checkpoint of diffusion is linked from .safetensors or a folder"
    return CheckpointError(f"{place}: no feed-forward net of a known layout; {_held(opened)}; {fix}")


def _held(opened: Source | None) -> str:
    names = sorted(opened.shapes) if opened else []
    return f"its tensors: {', '.join(names[:5])}" if names else "it holds no tensors that can be read"


def link(place: Path, out: Path, said: Said = NOTHING, progress: Progress = silent) -> Linked:
    """Make the bundle `out`; it appears whole or not at all, and is left alone when it is already this bundle.

    Raises CheckpointError for a file that can't be linked, BundleError when `out` is something else, DiskFull.
    """
    bundles.check_target(out)
    found = read(place, said)
    stored = _stored(found)
    models = {TRANSFORM: graph.transform(found.net), **_predicting(found)}
    content = Content(
        name=found.name,
        family=FEEDFORWARD,
        architecture=found.net.digest,
        facts={**_facts(found), "source": _source(found, place, said)},
        graphs=_graphs(found, models),
        weights={file: data for file, (_, data) in stored.items()},
        files={f"{name}.onnx": splice.point(model, _places(stored)) for name, model in models.items()},
    )
    return bundles.write(out, content, progress, (*told(found), *_styles(found, place, out)))


def told(found: Found) -> list[str]:
    """What was found, a line for each fact."""
    return [f"{fact}: {what}" for fact, what in found.told.items()]


def _styles(found: Found, place: Path, out: Path) -> list[str]:
    if not found.vectors:
        return []
    how = f"impasto adapters import {place} --name NAME --bundle {out}"
    first, *_, last = found.vectors
    return [f"it holds {len(found.vectors)} styles: `{how}` keeps them as NAME-{first} to NAME-{last}"]


def _facts(found: Found) -> Json:
    return {
        "image": {**IMAGE, "multiple_of": found.net.multiple_of},
        "weakened": found.weakened,
        "border": found.net.border,
        "trunk": {**found.net.facts, "told": dict(found.told)},
        **({"neutral": {"file": NEUTRAL}} if found.neutral is not None else {}),
        **({"expand": {"file": EXPAND, "embedding": found.expand.width}} if found.expand else {}),
    }


def _source(found: Found, place: Path, said: Said) -> Json:
    network = {"network": found.network} if found.network else {}
    return {"checkpoint": label(place.resolve().name), "said": said.given, **network}


def _predicting(found: Found) -> dict[str, ModelProto]:
    if found.predictor is None:
        return {}
    assert found.expand is not None, "a predictor's embedding is expanded"
    return {PREDICTOR: predictor.graph(found.predictor, found.expand)}


def _graphs(found: Found, models: Mapping[str, ModelProto]) -> dict[str, Graph]:
    return {name: _graph(name, model, found.net) for name, model in models.items()}


def _graph(name: str, model: ModelProto, net: Net) -> Graph:
    size = net.vector_size
    sites = (Site(graph.STYLE, size, size, VECTOR),) if size and name == TRANSFORM else ()
    inputs, outputs = (
        tuple(Port(item.name, "float32", _shape(item)) for item in items)
        for items in (model.graph.input, model.graph.output)
    )
    return Graph(name, f"{name}.onnx", inputs, outputs, sites)


def _shape(item: object) -> tuple[int | str, ...]:
    return tuple(side.dim_param or side.dim_value for side in item.type.tensor_type.shape.dim)  # type: ignore[attr-defined]


def _stored(found: Found) -> dict[str, tuple[dict[str, Tensor], bytes]]:
    """The bundle's files of tensors: where in each a tensor lies, and its bytes."""
    expand = {EXPAND: predictor.tensors(found.expand)} if found.expand else {}
    neutral = {NEUTRAL: {"neutral": found.neutral}} if found.neutral is not None else {}
    return {file: _encoded(arrays) for file, arrays in {WEIGHTS: found.net.tensors, **expand, **neutral}.items()}


def _encoded(arrays: Mapping[str, Array]) -> tuple[dict[str, Tensor], bytes]:
    _, places = layout({name: ("F32", array.shape) for name, array in arrays.items()}, {})
    data = encode({name: ("F32", array) for name, array in arrays.items()}, {})
    return dict(zip(sorted(arrays), places, strict=True)), data


def _places(stored: Mapping[str, tuple[Mapping[str, Tensor], bytes]]) -> dict[str, Stored]:
    return {name: Stored(file, place) for file, (places, _) in stored.items() for name, place in places.items()}
