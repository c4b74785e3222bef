"""Run a linked graph on either CPU engine, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from impasto_export import manifest
from impasto_export.architecture import LORA, VECTOR, Port, Site
from impasto_export.tracing.forms import FORMS

Engine = Literal["onnxruntime", "openvino"]
ENGINES: tuple[Engine, ...] = ("onnxruntime", "openvino")
Array = NDArray[Any]


def run(engine: Engine, bundle: Path, graph: str, feeds: Mapping[str, Array]) -> list[Array]:
    """Outputs in manifest order; the first of `feeds` gives the number of lanes. Missing inputs are zeros: adapters,
    learned tokens, and a ControlNet's residuals (1 x 1)."""
    facts = manifest.load(bundle)["graphs"][graph]
    return _run(engine, bundle / facts["file"], facts, {**zeros(facts, feeds), **feeds})


def run_plain(engine: Engine, bundle: Path, graph: str, feeds: Mapping[str, Array]) -> list[Array]:
    """As `run`, with the graph without adapter sites."""
    facts = manifest.load(bundle)["graphs"][graph]
    complete = {**zeros({**facts, "sites": []}, feeds), **feeds}
    own = {name: value for name, value in complete.items() if not name.endswith(("_rows", "_weights"))}
    return _run(engine, bundle / facts["plain"], facts, own)


def _run(engine: Engine, path: Path, facts: dict[str, Any], feeds: Mapping[str, Array]) -> list[Array]:
    runner = _load(engine, str(path))
    if engine == "onnxruntime":
        return [np.asarray(value) for value in runner.run(None, dict(feeds))]
    found = runner(dict(feeds))
    return [np.array(found[port["name"]]) for port in facts["outputs"]]


def zeros(facts: dict[str, Any], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Zeros for every input that `feeds` leaves out; banks have as many rows as those of their form in `feeds`."""
    sizes = {"lanes": len(next(iter(feeds.values())))}
    tables = [bank for site in facts["sites"] for bank in _banks(site)]
    sizes |= {str(bank.shape[0]): len(feeds[bank.name]) for bank in tables if bank.name in feeds}
    ports = [*(Port(port["name"], port["dtype"], tuple(port["shape"])) for port in facts["inputs"]), *tables]
    return {port.name: np.zeros(_shape(port, sizes), port.dtype) for port in ports if port.name not in feeds}


def _shape(port: Port, sizes: Mapping[str, int]) -> list[int]:
    """The port's shape; unknown sizes are 1."""
    return [sizes.get(size, 1) if isinstance(size, str) else size for size in port.shape]


def banks(facts: dict[str, Any], rows: Mapping[str, int]) -> dict[str, Array]:
    """Zero banks for all sites of a graph; `rows`: kind of site -> number of rows, by default one."""
    ports = [port for site in facts["sites"] for port in _banks(site)]
    sizes = {FORMS[kind].size: count for kind, count in rows.items()}
    return {port.name: np.zeros(_shape(port, sizes), np.float32) for port in ports}


def fill(bank: Array, page: int, rank: int, values: Array) -> None:
    """Write values into the first rows of a page; pages have `rank` rows."""
    bank[page * rank : page * rank + len(values)] = values


def picked(kind: str, pages: Array, rank: int, weights: Array | float = 1.0) -> dict[str, Array]:
    """The inputs of lanes that pick these pages, [lanes] or [lanes, K], each with its weight."""
    pages = pages.reshape(len(pages), -1)
    rows = (pages[..., None] * rank + np.arange(rank)).reshape(len(pages), -1)
    spread = np.repeat(np.broadcast_to(weights, pages.shape), rank, axis=1)
    return {f"{kind}_rows": rows.astype(np.int64), f"{kind}_weights": spread.astype(np.float32)}


def _banks(site: dict[str, Any]) -> tuple[Port, ...]:
    """The site's banks; empty for a style vector, which is itself an input."""
    kind = site.get("kind", LORA)
    return FORMS[kind].banks(Site(**site)) if kind != VECTOR else ()


def relative_error(found: Array, expected: Array) -> float:
    """The largest difference, divided by the largest value."""
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
