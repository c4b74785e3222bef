"""The stylizer that ships: small, whole, with styles of its own that differ, and a predictor that tells them apart."""

from __future__ import annotations

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from studio.gallery.textures import smooth_noise
from impasto_fit.pixels.lesson import levelled
from studio.nets.stylizer import Stylizer, stylize
from studio.nets.stylizer_files import digest, load_stylizer, load_vector
from studio.places import STYLIZER, VECTORS
from torch import Tensor


@pytest.fixture(scope="module")
def network() -> Stylizer:
    torch.set_num_threads(1)
    return load_stylizer(STYLIZER)


@pytest.fixture(scope="module")
def vectors() -> dict[str, Tensor]:
    """Every style's; loading fails for one of another network."""
    return {path.stem: load_vector(path, digest(STYLIZER))[0] for path in sorted(VECTORS.glob("*.safetensors"))}


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """Light and shade, a little colour, a little grain: as much of a photograph as noise can be."""
    rng = np.random.default_rng(0)
    light, grain = (smooth_noise(rng, (96, 96), scale)[..., None] for scale in (20, 3))
    colour = np.stack([smooth_noise(rng, (96, 96), 30) for _ in range(3)], 2)
    picture = np.clip(0.5 + 0.2 * light + 0.1 * colour + 0.05 * grain, 0, 1)
    return torch.from_numpy(picture).float().permute(2, 0, 1)[None]


def test_it_is_small_and_has_styles_enough(vectors: dict[str, Tensor]) -> None:
    assert sum(path.stat().st_size for path in STYLIZER.iterdir()) < 8e6
    assert len(vectors) >= 14
    assert {"wave", "church", "mosaic", "ink", "woodcut", "pastel"} <= set(vectors)


def test_a_style_says_what_it_was_learnt_from() -> None:
    for path in VECTORS.glob("*.safetensors"):
        _, facts = load_vector(path, digest(STYLIZER))
        assert facts.name == path.stem
        assert facts.title
        assert facts.licence in ("public domain", "CC0-1.0")


def test_no_two_styles_paint_alike(network: Stylizer, vectors: dict[str, Tensor], photo: Tensor) -> None:
    painted = torch.cat([stylize(network, photo, vector[None]) for vector in vectors.values()])
    assert painted.isfinite().all()
    apart = torch.cdist(painted.flatten(1), painted.flatten(1), p=1) / painted[0].numel()
    assert float(apart[~torch.eye(len(apart), dtype=torch.bool)].min()) > 0.03


def test_the_neutral_vector_paints_the_photograph(network: Stylizer, vectors: dict[str, Tensor], photo: Tensor) -> None:
    def distance(vector: Tensor) -> float:
        return float((stylize(network, photo, vector[None]) - levelled(photo)).abs().mean())

    assert distance(network.neutral) < 0.08
    assert 2 * distance(network.neutral) < min(distance(vector) for vector in vectors.values())


def test_the_predictor_tells_pictures_apart(network: Stylizer) -> None:
    session = onnxruntime.InferenceSession(STYLIZER / "predictor.onnx", providers=["CPUExecutionProvider"])
    stripes = np.broadcast_to((np.arange(256) // 8 % 2).astype(np.float32), (3, 256, 256))
    flat = np.full((3, 256, 256), 0.5, np.float32)
    (embeddings,) = session.run(["embedding"], {"picture": np.stack([stripes, flat, stripes])})
    np.testing.assert_allclose(embeddings[0], embeddings[2], atol=1e-4)
    assert np.abs(embeddings[0] - embeddings[1]).mean() > 0.5
    assert network.expanded(torch.from_numpy(embeddings)).shape == (3, len(network.neutral))
