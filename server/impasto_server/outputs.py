"""The outputs of the models `stylize`, `stylize_stream` and `catalogue`, as tensors by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from impasto_server.job import Progress, Result

Tensors: TypeAlias = Mapping[str, NDArray[Any]]


def report(progress: Progress) -> dict[str, NDArray[Any]]:
    """A step's outputs: STEP INT32 [1], STEPS INT32 [1], ETA_S FP32 [1] and, if there are some, PREVIEW BYTES [n]."""
    preview = {"PREVIEW": np.array(progress.previews, np.object_)} if progress.previews else {}
    return {
        "STEP": np.array([progress.step], np.int32),
        "STEPS": np.array([progress.steps], np.int32),
        "ETA_S": np.array([progress.eta_s], np.float32),
        **preview,
    }


def answer(result: Result) -> dict[str, NDArray[Any]]:
    """A result's outputs: IMAGE BYTES [n], SEED INT64 [n], META BYTES [1] (JSON), and SCORE FP32 [n] if it has some."""
    scores = {} if result.scores is None else {"SCORE": np.array(result.scores, np.float32)}
    return {
        "IMAGE": np.array(result.images, np.object_),
        "SEED": np.array(result.seeds, np.int64),
        "META": np.array([json.dumps(result.meta).encode()], np.object_),
        **scores,
    }


def listed(catalogue: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The catalogue's output: CATALOGUE BYTES [1] (JSON)."""
    return {"CATALOGUE": np.array([json.dumps(catalogue).encode()], np.object_)}
