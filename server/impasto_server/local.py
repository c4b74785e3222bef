"""Model `stylize` in this process, without Triton: the same tensors in and out.

For embedding, and for `impasto generate --local`, which finds it by the entry-point group `impasto.local`. In Python
the pipeline itself says it in fewer words:

    pipeline = Pipeline.load(Settings(bundle=Path("bundle"), registry=Path("registry")))
    result = pipeline.generate(Request("a red boat", seed=7, width=128, height=128))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.pipeline import Pipeline, Result
from impasto_server.request import parse
from impasto_server.settings import Settings


class Local:
    """A pipeline behind the wire's tensors; IMPASTO_* variables say which engine, registry and so on."""

    def __init__(self, bundle: Path) -> None:
        self._pipeline = Pipeline.load(Settings.from_env(bundle))

    def infer(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Safe to call from several threads. Raises errors of the server's tree; `code` is their gRPC status."""
        return answer(self._pipeline.generate(parse(tensors, self._pipeline.manifest)))

    def close(self) -> None:
        self._pipeline.close()


def answer(result: Result) -> dict[str, NDArray[Any]]:
    """The model's outputs: IMAGE BYTES [1], SEED INT64 [1], META BYTES [1] (JSON)."""
    return {
        "IMAGE": np.array([result.image], np.object_),
        "SEED": np.array([result.seed], np.int64),
        "META": np.array([json.dumps(result.meta).encode()], np.object_),
    }
