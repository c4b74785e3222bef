from __future__ import annotations

import pytest
import torch
from studio.training.muon import Muon, orthogonal
from studio.training.optimisers import Optimisers, muon_and_adam
from torch import Tensor, nn

SHAPES = [(32, 64), (64, 32), (48, 48), (16, 8, 3, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_keeps_the_directions_and_evens_out_the_lengths(shape: tuple[int, ...]) -> None:
    update = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonal(update, torch.float32)
    assert result.shape == update.shape
    u, _, vh = torch.linalg.svd(update.flatten(1), full_matrices=False)
    lengths = (u.T @ result.flatten(1) @ vh.T).diagonal()
    torch.testing.assert_close((u * lengths) @ vh, result.flatten(1), atol=1e-4, rtol=0)
    assert 0.65 < lengths.min() < lengths.max() < 1.25


def test_orthogonal_does_not_care_about_scale() -> None:
    update = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    once, scaled = (orthogonal(times * update, torch.float32) for times in (1, 1000))
    torch.testing.assert_close(scaled, once, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_half_precision_is_near_enough(shape: tuple[int, ...]) -> None:
    update = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact, quick = orthogonal(update, torch.float32), orthogonal(update)
    assert quick.dtype == update.dtype
    assert (quick - exact).norm() < 0.1 * exact.norm()


class Network(nn.Module):
    """A matrix and a bias to learn, an embedding and a matrix that stays."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token_embedding = nn.Embedding(4, 8)
        self.hidden = nn.Linear(8, 8)
        self.fixed = nn.Linear(8, 8).requires_grad_(False)


def quadratic(network: Network) -> Tensor:
    """Zero where the hidden layer is the identity plus one, and every embedding two."""
    hidden = network.hidden
    matrix = (hidden.weight - torch.eye(8)).square().sum()
    return matrix + (hidden.bias - 1).square().sum() + (network.token_embedding.weight - 2).square().sum()


def optimisers(network: Network) -> Optimisers:
    return muon_and_adam(network, muon_lr=0.05, adam_lr=0.1)


def descend(network: Network, both: Optimisers, steps: int) -> None:
    for _ in range(steps):
        both.step(quadratic(network), factor=1.0)


def test_one_step_lowers_a_quadratic_and_sixty_all_but_solve_it() -> None:
    network = Network()
    both = optimisers(network)
    start = quadratic(network).item()
    descend(network, both, 1)
    assert quadratic(network).item() < start
    descend(network, both, 59)
    assert quadratic(network).item() < 0.02 * start


def test_muon_takes_the_hidden_matrices_and_adam_the_rest() -> None:
    network = Network()
    muon, adam = optimisers(network).parts
    assert isinstance(muon, Muon)
    assert [id(weight) for weight in muon.param_groups[0]["params"]] == [id(network.hidden.weight)]
    rest = [network.token_embedding.weight, network.hidden.bias]
    assert {id(weight) for weight in adam.param_groups[0]["params"]} == {id(weight) for weight in rest}


def test_weights_that_ask_for_no_gradient_stay() -> None:
    network = Network()
    before = network.fixed.weight.clone()
    descend(network, optimisers(network), 2)
    assert torch.equal(network.fixed.weight, before)


def test_weights_that_are_frozen_on_the_way_stay_from_then_on() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimisers = muon_and_adam(layers, 0.1, 0.1)
    optimisers.step(layers(torch.ones(1, 4)).square().sum(), 1.0)
    layers[0].requires_grad_(False)
    before = [weight.clone() for weight in layers.parameters()]
    optimisers.step(layers(torch.ones(1, 4)).square().sum(), 1.0)
    kept = [torch.equal(old, new) for old, new in zip(before, layers.parameters(), strict=True)]
    assert kept == [True, True, False, False]


def test_no_rate_no_change() -> None:
    network = Network()
    before = network.hidden.weight.clone()
    optimisers(network).step(quadratic(network), factor=0.0)
    assert torch.equal(network.hidden.weight, before)


def test_saved_optimisers_go_on_as_if_never_stopped() -> None:
    whole, halves = Network(), Network()
    descend(whole, optimisers(whole), 6)
    first, second = optimisers(halves), optimisers(halves)
    descend(halves, first, 3)
    second.load_state_dict(first.state_dict())
    descend(halves, second, 3)
    assert torch.equal(whole.hidden.weight, halves.hidden.weight)
    assert torch.equal(whole.token_embedding.weight, halves.token_embedding.weight)
