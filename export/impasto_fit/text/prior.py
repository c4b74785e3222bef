"""Where the embeddings of paintings lie: a bell around their mean, which a style may leave only at a price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import torch
from torch import Tensor

from impasto_export.feedforward.found import Predictor
from impasto_fit.errors import CheckpointError
from impasto_fit.pictures import Picture
from impasto_fit.text import photos

SHRUNK = 0.1  # of the covariance towards its diagonal's mean: fewer pictures than numbers would leave it singular


@dataclass(frozen=True)
class Prior:
    """The mean [D] and the covariance [D, D] of embeddings."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, embeddings: Tensor) -> Prior:
        """Of [n, D]; there are at least 2."""
        mean = embeddings.mean(0)
        away = (embeddings - mean).double()
        found = away.T @ away / (len(embeddings) - 1)
        level = found.diagonal().mean().clamp(min=1e-8)
        whole = (1 - SHRUNK) * found + SHRUNK * level * torch.eye(len(mean), dtype=torch.float64)
        return cls(mean, whole.float())

    @cached_property
    def precision(self) -> Tensor:
        """The inverse of the covariance."""
        found: Tensor = torch.linalg.inv(self.covariance.double()).float()
        return found

    @property
    def deviations(self) -> Tensor:
        return self.covariance.diagonal().sqrt()

    def distance(self, embeddings: Tensor) -> Tensor:
        """[n]: squared Mahalanobis distances of [n, D], divided by D; about 1 for a painting's."""
        away = embeddings - self.mean
        squared: Tensor = ((away @ self.precision) * away).sum(1) / embeddings.shape[1]
        return squared


def embedded(predictor: Predictor | None, pictures: Sequence[Picture]) -> Tensor:
    """The predictor's embeddings [n, D] of pictures' middle squares.

    Raises:
        CheckpointError: the net has no predictor.
    """
    if predictor is None:
        raise CheckpointError(
            "checkpoint: its net has no predictor; start from the mean of a prior, not from a picture"
        )
    session = onnxruntime.InferenceSession(predictor.model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows = []
    for square in photos.squares(pictures, predictor.size):
        given = square.numpy() if predictor.layout == "NCHW" else square.permute(0, 2, 3, 1).numpy()
        rows.append(np.asarray(session.run(None, {name: np.ascontiguousarray(given)})[0], np.float32).reshape(1, -1))
    return torch.from_numpy(np.concatenate(rows))
