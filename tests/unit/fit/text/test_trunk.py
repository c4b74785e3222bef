"""Nets in torch, against the graph that `impasto link` makes of the same description, and against people's own code."""

from __future__ import annotations

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from onnx import TensorProto, numpy_helper

from impasto_export.feedforward import clipstyler, graph
from impasto_export.feedforward.net import Net
from impasto_fit.text import trunk
from tests.helpers import cut_nets, stylers

NETS = {
    "trunk": cut_nets.trunk(),
    "zero": cut_nets.trunk(padding="zero"),
    "half-fixed": cut_nets.half_fixed(),
    "transposed": cut_nets.transposed("zero"),
    "transposed-same": cut_nets.transposed("same"),
    "cropping": cut_nets.cropping(),
}


def run(net: Net, feeds: dict[str, np.ndarray]) -> np.ndarray:  # type: ignore[type-arg]
    model = graph.transform(net)
    for item in model.graph.initializer:
        if item.data_location == TensorProto.EXTERNAL:
            item.CopyFrom(numpy_helper.from_array(net.tensors[item.name], item.name))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_a_net_paints_as_its_graph_does(net: Net) -> None:
    """In float32: within 1e-4 of values up to about 1."""
    picture = np.random.default_rng(0).random((2, 3, 48, 64), dtype=np.float32)
    feeds = {"picture": picture}
    styles = None
    if net.vector_size:
        rows = np.stack([cut_nets.style(net, seed) for seed in (1, 2)])
        feeds["style"], styles = rows, torch.from_numpy(rows)
    found = trunk.painted(net, trunk.tensors(net), torch.from_numpy(picture), styles)
    np.testing.assert_allclose(found.numpy(), run(net, feeds), atol=1e-4)


@torch.no_grad()
def test_the_u_net_is_clipstylers_own() -> None:
    theirs = stylers.randomised(stylers.UNet(4))
    weights = dict(theirs.state_dict())
    net = clipstyler.of({name: value.numpy() for name, value in weights.items()})
    photo = torch.rand((1, 3, 32, 40), generator=torch.Generator().manual_seed(1))
    shown = trunk.painted(net, weights, photo).clamp(0, 1)
    torch.testing.assert_close(shown, theirs.paint(photo).clamp(0, 1), atol=1e-4, rtol=0)  # type: ignore[operator]


@torch.no_grad()
def test_a_net_is_trained_without_the_viewers_contrast() -> None:
    weights = dict(stylers.randomised(stylers.UNet(4)).state_dict())
    net = clipstyler.of({name: value.numpy() for name, value in weights.items()})
    plain = trunk.painted(net, weights, torch.rand(1, 3, 16, 16), shown=False)
    assert plain.min() >= 0
    assert plain.max() <= 1
