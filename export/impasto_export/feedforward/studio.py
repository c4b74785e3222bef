"""Read the studio's own layout: a folder with config.json, model.safetensors, and maybe predictor.onnx."""

from __future__ import annotations

from typing import Any

import numpy as np

from impasto_export.architecture import Json
from impasto_export.errors import CheckpointError
from impasto_export.feedforward import onnx_file, trunk
from impasto_export.feedforward.found import PADDINGS, Expand, Found, Predictor, Said
from impasto_export.feedforward.net import Array, Input, Net, Norm, Output
from impasto_export.feedforward.source import OURS, Source
from impasto_export.weights import sha256_file

# Styles that were fitted on the net refer to it by this file's digest.
WEIGHTS = "model.safetensors"
NEUTRAL, EXPAND = "neutral", "expand_embedding.weight"


def recognises(source: Source) -> bool:
    return source.config.get("format") == OURS


def read(source: Source, said: Said) -> Found:
    """The net. Raises CheckpointError for a config with unknown values, and for tensors that don't fit it."""
    said.only(source)
    facts = source.config.get("trunk")
    if not isinstance(facts, dict):
        raise CheckpointError(f"{source}: config.json: trunk is {facts!r}; an object with the net's facts is expected")
    _known(source, facts)
    residuals = int(facts["residuals"])
    norm = Norm("instance", float(facts["epsilon"]), conditioned=True)
    net = Net(
        name=f"cin-{'-'.join(map(str, facts['widths']))}",
        input=Input(float(facts["input"]["scale"]), facts["input"]["order"]),
        pad=0,
        blocks=trunk.blocks(residuals, facts["padding"], lambda name: norm),
        output=Output(facts["output"]["activation"], float(facts["output"]["scale"])),
        tensors={f"{name}.weight": source.tensor(f"{name}.weight") for name in trunk.names(residuals)},
    )
    trunk.check(str(source), net, facts["widths"])
    neutral = source.tensor(NEUTRAL)
    if neutral.shape != (net.vector_size,):
        raise CheckpointError(f"{source}: {NEUTRAL} is {list(neutral.shape)}; expected {[net.vector_size]}")
    predictor, expand = _predictor(source, net, neutral)
    return Found(
        name=str(source.config.get("name") or source.place.resolve().name),
        net=net,
        told={key: f"{_text(facts[key])} (config.json)" for key in trunk.FACTS},
        neutral=neutral,
        expand=expand,
        predictor=predictor,
        network=sha256_file(source.place / WEIGHTS),
    )


def _known(source: Source, facts: Json) -> None:
    """Raises CheckpointError that names the entry that is missing or not known."""
    allowed: dict[str, tuple[Any, ...]] = {"layout": ("cin",), "padding": PADDINGS, "upsampling": ("nearest",)}
    for key, values in allowed.items():
        if facts.get(key) not in values:
            known = ", ".join(values)
            raise CheckpointError(f"{source}: config.json: trunk.{key} is {facts.get(key)!r}; known: {known}")
    try:
        whole = [int(value) for value in (*facts["widths"], facts["residuals"])]
        numbers = [float(value) for value in (facts["epsilon"], facts["input"]["scale"], facts["output"]["scale"])]
        kinds = facts["input"]["order"] in ("RGB", "BGR") and facts["output"]["activation"] in ("sigmoid", "none")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: config.json: trunk cannot be read ({error!r})") from None
    if len(whole) != 4 or min(whole) < 1 or min(numbers) <= 0 or not kinds:
        raise CheckpointError(f"{source}: config.json: trunk is {facts}; three widths, numbers above 0 are expected")


def _predictor(source: Source, net: Net, neutral: Array) -> tuple[Predictor | None, Expand | None]:
    facts = source.config.get("predictor")
    if facts is None:
        return None, None
    keys = {"file": str, "size": int, "embedding": int}
    if not isinstance(facts, dict) or any(type(facts.get(key)) is not kind for key, kind in keys.items()):
        raise CheckpointError(f"{source}: config.json: predictor is {facts}; file, size and embedding are expected")
    weight, size, width = source.tensor(EXPAND), facts["size"], facts["embedding"]
    if weight.shape != (net.vector_size, width):
        raise CheckpointError(f"{source}: {EXPAND} is {list(weight.shape)}; expected {[net.vector_size, width]}")
    place = source.place / facts["file"]
    if place.parent != source.place or not place.is_file():
        raise CheckpointError(f"{place} is missing; config.json names it, so put it beside that")
    model = onnx_file.read(place)
    sides = [side.dim_value for item in model.graph.input[:1] for side in item.type.tensor_type.shape.dim]
    if sides[1:] != [3, size, size]:
        raise CheckpointError(f"{place} takes {sides}, but config.json says a picture of 3 x {size} x {size}")
    return Predictor(model, size, "NCHW"), Expand(weight, np.asarray(neutral, np.float32))


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)
