"""What forms of adapters add at a site, lane by lane, and that another form is one entry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from impasto_export.architecture import Port, Site
from impasto_export.plain import without_adapters
from impasto_export.tracing import graphs, sites
from impasto_export.tracing.dims import EXAMPLE_LANES, LANES
from impasto_export.tracing.forms import FORMS, Form
from impasto_export.tracing.recipes import Recipe

LANE_ROWS = torch.tensor([[0, 0, 0], [1, 2, 0], [4, 1, 3]])
WEIGHTS = torch.tensor([[0.0, 0.0, 0.0], [1.0, -0.5, 0.0], [0.25, 2.0, 1.0]])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def bank(width: int, seed: int) -> Tensor:
    """Five rows, the first of zeros."""
    table = drawn(5, width, seed=seed)
    table[0] = 0
    return table


def adapted(kind: str, x: Tensor, y: Tensor, banks: Sequence[Tensor]) -> Tensor:
    found: Tensor = FORMS[kind].adapted(x, y, WEIGHTS, *(functional.embedding(LANE_ROWS, table) for table in banks))
    return found


def test_a_lora_is_the_weighted_sum_of_a_lanes_ranks() -> None:
    x, y, a, b = drawn(3, 4, 6), drawn(3, 4, 8), bank(6, 1), bank(8, 2)
    expected = y.clone()
    for lane in range(3):
        for row, weight in zip(LANE_ROWS[lane], WEIGHTS[lane], strict=True):
            expected[lane] += weight * torch.outer(x[lane] @ a[row], b[row])
    found = adapted("lora", x, y, [a, b])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[0], y[0])


def test_at_a_1x1_convolution_every_pixel_changes_as_a_token_does() -> None:
    x, y, a, b = drawn(3, 6, 2, 5), drawn(3, 8, 2, 5), bank(6, 1), bank(8, 2)
    tokens, outputs = (value.flatten(2).transpose(1, 2) for value in (x, y))
    expected = adapted("lora", tokens, outputs, [a, b]).transpose(1, 2).reshape(y.shape)
    torch.testing.assert_close(adapted("lora", x, y, [a, b]), expected, rtol=1e-4, atol=1e-5)


def test_a_bottleneck_has_a_gelu_for_each_hidden_unit() -> None:
    y, down, up = drawn(3, 4, 6), bank(6, 1), bank(6, 2)
    tanh = torch.tensor([[0.0], [1.0], [0.0], [1.0], [1.0]])
    expected = y.clone()
    for lane in range(3):
        for row, weight in zip(LANE_ROWS[lane], WEIGHTS[lane], strict=True):
            hidden = functional.gelu(y[lane] @ down[row], approximate="tanh" if tanh[row] else "none")
            expected[lane] += weight * torch.outer(hidden, up[row])
    torch.testing.assert_close(adapted("bottleneck", y, y, [down, up, tanh]), expected, rtol=1e-4, atol=1e-5)


# another form


def _restyled(_: Tensor, y: Tensor, weights: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """What a style changes of an instance norm's scale and shift."""
    scale, shift = ((weights.unsqueeze(2) * rows).sum(dim=1)[..., None, None] for rows in (gamma, beta))
    return y + (scale * y + shift)


VECTOR = Form(
    "vector",
    "V",
    lambda site: {"gamma": site.out_features, "beta": site.out_features},
    _restyled,
    {"V": 11, "vector_K": 3},
)


class Styled(nn.Module):
    """x [lanes, 4, 5, 7] -> relu of its instance norm."""

    def __init__(self, found: tuple[Site, ...]) -> None:
        super().__init__()
        self.model = nn.Sequential()
        self.model.add_module("norm", nn.InstanceNorm2d(4))
        self.bank = sites.attach(self.model, found)

    def forward(self, x: Tensor, adapters: list[Tensor]) -> Tensor:
        self.bank.fill(adapters)
        return torch.relu(self.model(x))


def test_another_form_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is traced, picked by lanes, and taken out, by what its entry says."""
    monkeypatch.setitem(FORMS, "vector", VECTOR)
    found = (Site("norm", 4, 4, "vector"),)
    port = Port("x", "float32", ("lanes", 4, 5, 7))
    recipe = Recipe(
        "styled",
        "styled",
        Styled(found),
        (torch.randn(EXAMPLE_LANES, 4, 5, 7), sites.examples(found)),
        ({0: LANES}, sites.dims(found)),
        (port, *sites.inputs(found)),
        (Port("y", "float32", port.shape),),
        found,
    )
    skeleton = graphs.trace(recipe)
    assert graphs.described(recipe).own_inputs == ["x"]
    x, gamma, beta = drawn(3, 4, 5, 7), bank(4, 1), bank(4, 2)
    feeds = {
        "x": x,
        "vector_rows": LANE_ROWS,
        "vector_weights": WEIGHTS,
        "norm.gamma": gamma,
        "norm.beta": beta,
    }
    norm = functional.instance_norm(x)
    expected = torch.stack(
        [
            torch.relu(norm[lane] * (1 + (w @ gamma[rows])[:, None, None]) + (w @ beta[rows])[:, None, None])
            for lane, (rows, w) in enumerate(zip(LANE_ROWS, WEIGHTS, strict=True))
        ]
    )
    np.testing.assert_allclose(run(skeleton, feeds), expected, rtol=1e-4, atol=1e-5)
    plain = without_adapters(onnx.load_from_string(skeleton), ["x"])
    np.testing.assert_allclose(run(plain.SerializeToString(), {"x": x}), torch.relu(norm), rtol=1e-4, atol=1e-5)


def run(graph: bytes, feeds: dict[str, Tensor]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {name: value.numpy() for name, value in feeds.items()})[0]
    return found
