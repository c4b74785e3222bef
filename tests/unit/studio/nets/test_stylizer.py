"""The stylizer: the layout that others load, rows that don't see one another, and what each part of a vector does."""

from __future__ import annotations

import pytest
import torch
from studio.nets.stylizer import Stylizer, stylize
from torch import Tensor

TOY = (2, 3, 4)


@pytest.fixture(scope="module")
def network() -> Stylizer:
    torch.manual_seed(0)
    return Stylizer(TOY, residuals=2, embedding=5).requires_grad_(False)


@pytest.fixture(scope="module")
def vectors(network: Stylizer) -> Tensor:
    torch.manual_seed(1)
    return network.neutral + 0.5 * torch.randn(3, len(network.neutral))


def test_names_and_shapes_are_those_that_the_importer_reads() -> None:
    shapes = {name: tuple(value.shape) for name, value in Stylizer().state_dict().items()}
    assert shapes["contract.conv1.weight"] == (16, 3, 9, 9)
    assert shapes["residual.5.conv2.weight"] == (64, 64, 3, 3)
    assert shapes["expand.conv1.weight"] == (32, 64, 3, 3)
    assert shapes["expand.conv3.weight"] == (3, 16, 9, 9)
    assert shapes["expand_embedding.weight"] == (shapes["neutral"][0], 100)
    assert len(shapes) == 16 + 2


def test_a_style_at_the_papers_width_has_3206_numbers() -> None:
    assert len(Stylizer((32, 64, 128)).neutral) == 3206


def test_every_row_has_its_own_style(network: Stylizer, vectors: Tensor) -> None:
    photos = torch.rand(3, 3, 16, 20)
    together = network(photos, vectors)
    alone = torch.cat([network(photos[i : i + 1], vectors[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (network(photos[:1].expand(3, -1, -1, -1), vectors).std(0) > 1e-3).any()


def test_the_last_six_numbers_are_the_scales_and_shifts_of_the_colours(network: Stylizer, vectors: Tensor) -> None:
    row = vectors[:1].clone()
    colour = torch.tensor([0.2, 0.5, 0.9])
    row[0, -6:-3], row[0, -3:] = 0.0, torch.logit(colour)
    painted = network(torch.rand(1, 3, 12, 12), row)
    torch.testing.assert_close(painted, colour.view(1, 3, 1, 1).expand(1, 3, 12, 12))


def test_the_first_numbers_are_the_first_scales(network: Stylizer, vectors: Tensor) -> None:
    row = vectors[:1].clone()
    row[0, : TOY[0]] = 0.0  # nothing of the photograph comes through
    one, other = (network(torch.rand(1, 3, 12, 12), row) for _ in range(2))
    torch.testing.assert_close(one, other)


def test_the_colours_of_a_picture_are_the_styles_whatever_the_exposure(network: Stylizer, vectors: Tensor) -> None:
    row, photo = vectors[:1], torch.rand(1, 3, 16, 16)
    logits = torch.logit(network(0.5 * photo + 0.1, row).double(), eps=1e-12)
    torch.testing.assert_close(logits.mean((2, 3))[0], row[0, -3:].double(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(16, 16), (17, 22), (13, 9)])
def test_a_photograph_of_any_size_keeps_it(network: Stylizer, vectors: Tensor, size: tuple[int, int]) -> None:
    assert stylize(network, torch.rand(3, 3, *size), vectors).shape == (3, 3, *size)


def test_an_embedding_of_zeros_is_the_neutral_vector(network: Stylizer) -> None:
    torch.testing.assert_close(network.expanded(torch.zeros(1, 5))[0], network.neutral)
