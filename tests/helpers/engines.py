"""The two CPU engines, run plainly in float32 on a linked graph."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from impasto_export import manifest
from impasto_export.architecture import Site

Engine = Literal["onnxruntime", "openvino"]
ENGINES: tuple[Engine, ...] = ("onnxruntime", "openvino")
Array = NDArray[Any]


def run(engine: Engine, bundle: Path, graph: str, feeds: Mapping[str, Array]) -> list[Array]:
    """Outputs in manifest order; sites without a bank in `feeds` get an empty one, other inputs left out are zeros."""
    facts = manifest.load(bundle)["graphs"][graph]
    complete = {**zero_banks(facts, feeds), **zero_extras(facts, feeds), **feeds}
    runner = _load(engine, str(bundle / facts["file"]))
    if engine == "onnxruntime":
        return [np.asarray(value) for value in runner.run(None, complete)]
    found = runner(complete)
    return [np.array(found[port["name"]]) for port in facts["outputs"]]


def zero_banks(facts: dict[str, Any], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Banks of the same slots, rank and hidden units as those in `feeds`, all zeros."""
    sizes = {"S": 1, "R": 1, "H": 1}
    for name, value in feeds.items():
        width = {"lora_A": "R", "down": "H"}.get(name.rpartition(".")[2])
        if width:
            sizes.update({"S": value.shape[0], width: value.shape[2]})
    ports = [port for site in facts["sites"] for port in Site(**site).banks]
    return {
        port.name: np.zeros([size if isinstance(size, int) else sizes[size] for size in port.shape], np.float32)
        for port in ports
    }


def zero_extras(facts: dict[str, Any], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What `feeds` leaves out of the ports: no learned tokens, and a ControlNet's residuals as 1 x 1 zeros."""
    absent = [port for port in facts["inputs"] if port["name"] not in feeds]
    return {port["name"]: np.zeros([len(feeds["slot"]), *_least(port["shape"][1:])], np.float32) for port in absent}


def _least(shape: list[int | str]) -> list[int]:
    return [size if isinstance(size, int) else 1 for size in shape]


def relative_error(found: Array, expected: Array) -> float:
    """Largest difference over the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@cache
def _load(engine: Engine, path: str) -> Any:
    if engine == "onnxruntime":
        import onnxruntime  # type: ignore[import-untyped]

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    import openvino  # type: ignore[import-untyped]

    return openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
