"""A stylizer's folder is what an importer reads, and its styles name the network that they belong to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from safetensors.torch import load_file
from studio.nets.stylizer import Stylizer
from studio.nets.stylizer_files import StyleFacts, digest, load_stylizer, load_vector, save_stylizer, save_vector
from torch import Tensor, nn


class ToyPredictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 8, stride=8), nn.Linear(8, 5)

    def forward(self, picture: Tensor) -> Tensor:
        embeddings: Tensor = self.linear(self.conv(picture).relu().mean((2, 3)))
        return embeddings


@pytest.fixture(scope="module")
def predictor() -> ToyPredictor:
    torch.manual_seed(0)
    return ToyPredictor().eval()


@pytest.fixture(scope="module")
def folder(predictor: ToyPredictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("studio") / "toy-stylizer"
    save_stylizer(folder, Stylizer((2, 3, 4), 2, 5), predictor, "CC0-1.0")
    return folder


def test_the_config_says_all_that_the_file_does_not(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert (config["format"], config["name"], config["license"]) == ("impasto-feedforward", "toy-stylizer", "CC0-1.0")
    assert config["trunk"]["widths"] == [2, 3, 4]
    assert config["trunk"]["residuals"] == 2
    assert config["predictor"] == {"file": "predictor.onnx", "size": 256, "embedding": 5}


def test_weights_are_halves_and_come_back(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    network = load_stylizer(folder)
    photo = torch.rand(1, 3, 16, 16)
    assert network(photo, network.neutral[None]).isfinite().all()
    torch.testing.assert_close(network.state_dict(), {name: value.float() for name, value in stored.items()})


def test_the_predictor_runs_without_torch_on_any_number_of_pictures(folder: Path, predictor: ToyPredictor) -> None:
    session = onnxruntime.InferenceSession(folder / "predictor.onnx", providers=["CPUExecutionProvider"])
    for n in (1, 3):
        pictures = torch.rand(n, 3, 256, 256)
        (found,) = session.run(["embedding"], {"picture": pictures.numpy()})
        np.testing.assert_allclose(found, predictor(pictures).detach().numpy(), atol=5e-3)


def test_the_predictors_large_weights_are_halves(folder: Path) -> None:
    weights = onnx.load(folder / "predictor.onnx").graph.initializer
    kinds = {int(np.prod(weight.dims)) >= 1024: weight.data_type for weight in weights if weight.data_type != 7}
    assert kinds == {True: onnx.TensorProto.FLOAT16, False: onnx.TensorProto.FLOAT}


def test_a_style_comes_back_with_its_facts(folder: Path, tmp_path: Path) -> None:
    facts = StyleFacts("dots", "Nobody, Dots", "CC0-1.0", digest(folder))
    vector = torch.randn(20)
    save_vector(tmp_path / "dots.safetensors", vector, facts)
    found, read = load_vector(tmp_path / "dots.safetensors", digest(folder))
    torch.testing.assert_close(found, vector)
    assert read == facts


def test_a_style_of_another_network_is_refused(folder: Path, tmp_path: Path) -> None:
    save_vector(tmp_path / "dots.safetensors", torch.randn(20), StyleFacts("dots", "", "", "f" * 64))
    with pytest.raises(ValueError, match=f"a style of network ffffffffffff, not of {digest(folder)[:12]}; fit it"):
        load_vector(tmp_path / "dots.safetensors", digest(folder))
