"""A picture in tiles is what the net makes of it whole: every kind of layer, tiles that divide the picture and tiles
that don't, whatever is kept and whatever is computed again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor
from torch.nn import functional

from impasto_export.feedforward.net import Conv, Net, Residual
from impasto_export.feedforward.pieces import VECTOR
from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Row
from impasto_server.engines.engine import compile_graph
from impasto_server.engines.runtime import Runtime
from impasto_server.families.feedforward.frame import Frame
from impasto_server.families.feedforward.painting import Painting
from impasto_server.families.feedforward.pieces import Pieces
from impasto_server.families.feedforward.plan import SIDE, Plan, plans
from impasto_server.families.feedforward.stages import Piece, stages
from impasto_server.settings import EngineName
from tests.helpers import cut_nets
from tests.helpers.cut_nets import NETS, Pixels, photo

Array = NDArray[np.float32]

TOLERANCE = 1e-4
ROWS = 64  # of a conv's output that are computed at a time
SIZES = {"tall": (132, 92), "wide": (76, 108)}  # neither is a whole number of tiles


@dataclass(frozen=True)
class Tiled:
    """A net's pieces on an engine."""

    pieces: Pieces
    stages: Mapping[str, Piece]
    vector: Array

    @classmethod
    def of(cls, folder: Path, net: Net, engine: EngineName = "onnxruntime") -> Tiled:
        folder.mkdir()
        pieces = Pieces.model_validate(cut_nets.write_pieces(folder, net))
        vector = load_file(folder / VECTOR)["vector"] if pieces.vector else cut_nets.style(net)
        runtime = Runtime(engine, "f32", 1)

        def opened(file: str) -> Any:
            return compile_graph(folder / file, runtime)

        return cls(pieces, stages(pieces, opened, lambda context: context, lambda: None), vector)

    def paint(self, picture: Pixels, plan: Plan, side: int) -> Array:
        """RGB [H, W, 3] → [3, H, W]; as many steps as were promised."""
        painted = np.empty((3, *picture.shape[:2]), np.float32)
        steps = Painting(self.pieces, plan, plan.steps, side=side).paint(picture, painted)
        ask, done = next(steps), 1
        while True:
            (answer,) = self.stages[ask.stage].run([Row(ask, self.vector, Seat())])
            try:
                ask = steps.send(answer)
            except StopIteration:
                assert done == plan.steps
                return painted
            assert ask.step == done
            done += 1


def whole(folder: Path, net: Net, picture: Pixels) -> Array:
    """RGB [H, W, 3] → [3, H, W] by ONNX Runtime, in one pass."""
    bundle = cut_nets.write_bundle(folder, net, cut=False)
    session = onnxruntime.InferenceSession(str(bundle / "transform.onnx"), providers=["CPUExecutionProvider"])
    feeds = {"picture": np.ascontiguousarray(picture.transpose(2, 0, 1)[None] / np.float32(255))}
    if net.vector_size:
        feeds["style"] = cut_nets.style(net)[None]
    (painted,) = session.run(None, feeds)
    found: Array = painted[0]
    return found


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("net", NETS.values(), ids=NETS.keys())
def test_tiles_are_the_whole(net: Net, size: tuple[int, int], tmp_path: Path) -> None:
    picture = Frame(net.border, net.multiple_of).around(photo(*size))
    expected = whole(tmp_path / "whole", net, picture)
    tiled = Tiled.of(tmp_path / "pieces", net)
    assert expected.std() > 0.005, "the net makes something of it"
    for side in (32, 64):
        for plan in plans(tiled.pieces, picture.shape[0], picture.shape[1], side):
            difference = np.abs(tiled.paint(picture, plan, side) - expected).max()
            assert difference <= TOLERANCE, f"tiles of {side}, of which {sorted(plan.kept)} are kept"


def test_they_are_with_openvino(tmp_path: Path) -> None:
    """Whose own pass over a whole picture is less exact: its norms sum in float32."""
    for name in ("styled, mirrored", "transposed"):
        net, picture = NETS[name], photo(92, 140)
        expected = whole(tmp_path / f"whole {name}", net, picture)
        tiled = Tiled.of(tmp_path / name, net, "openvino")
        plan = list(plans(tiled.pieces, picture.shape[0], picture.shape[1], 64))[1]
        assert np.abs(tiled.paint(picture, plan, 64) - expected).max() <= TOLERANCE


def test_large_tiles_are(tmp_path: Path) -> None:
    """2048 x 2048, in tiles as they are served. ONNX Runtime's norms of so many pixels are off by more than that."""
    net, picture = cut_nets.trunk(widths=(2, 3, 4), residuals=1), photo(2048, 2048)
    tiled = Tiled.of(tmp_path / "pieces", net)
    plan = list(plans(tiled.pieces, 2048, 2048))[1]
    assert np.abs(tiled.paint(picture, plan, SIDE) - exactly(net, picture)).max() <= TOLERANCE


def exactly(net: Net, picture: Pixels) -> NDArray[np.float64]:
    """What a trunk makes of RGB [H, W, 3], in float64: [3, H, W]."""
    rows = iter(torch.from_numpy(cut_nets.style(net)).double())

    def ran(x: Tensor, conv: Conv) -> Tensor:
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest") if conv.upsampling == "nearest" else x
        weight = torch.from_numpy(net.tensors[f"{conv.name}.weight"]).double()
        around = functional.pad(x, (weight.shape[2] // 2,) * 4, mode="reflect")
        x = convolved(around, weight, conv.stride)
        gamma, beta = (torch.stack([next(rows) for _ in weight])[:, None, None] for _ in "γβ")
        variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + conv.norm.epsilon) * gamma + beta
        return functional.relu(x) if conv.activation == "relu" else x

    x = torch.from_numpy(picture).permute(2, 0, 1)[None].double() / 255
    for block in net.blocks:
        assert isinstance(block, Conv | Residual)
        x = ran(x, block) if isinstance(block, Conv) else x + ran(ran(x, block.first), block.second)
    found: NDArray[np.float64] = torch.sigmoid(x)[0].numpy()
    return found


def convolved(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Without padding, some rows at a time: of a float64 picture torch lays every pixel's neighbours side by side,
    which are 8 GB for 9 x 9 of 2048 x 2048."""
    kernel = weight.shape[2]
    tops = range(0, x.shape[2] - kernel + 1, ROWS * stride)
    strips = (x[:, :, top : top + (ROWS - 1) * stride + kernel] for top in tops)
    return torch.cat([functional.conv2d(strip, weight, stride=stride) for strip in strips], 2)
