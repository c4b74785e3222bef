"""Files from anyone are told to be damaged, or more than a net, before anything of them is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import onnx
import pytest
from onnx import ModelProto, TensorProto

from impasto_export.errors import CheckpointError
from impasto_export.feedforward import link, source
from tests.helpers import trunk_graphs
from tests.helpers.trunks import Trunk


def outside(model: ModelProto) -> None:
    item = model.graph.initializer[0]
    item.ClearField("raw_data")
    item.data_location = TensorProto.EXTERNAL
    item.external_data.add(key="location", value="/etc/hostname")


def shorter(model: ModelProto) -> None:
    item = model.graph.initializer[0]
    item.raw_data = item.raw_data[:-4]


def empty(model: ModelProto) -> None:
    model.Clear()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (outside, r"net.onnx: its tensor .* lies in another file; save the graph with its weights inside"),
        (shorter, r"net.onnx: its tensor .* is damaged \(.*\); get it again"),
        (empty, r"net.onnx cannot be read as ONNX: it holds no graph; get it again"),
    ],
)
def test_a_graph_that_is_not_whole(change: Callable[[ModelProto], None], said: str, tmp_path: Path) -> None:
    trunk = Trunk((4, 6, 8), 2)
    model = trunk_graphs.tables(trunk, trunk.styles(2))
    change(model)
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(CheckpointError, match=said):
        link.read(tmp_path / "net.onnx")


def test_an_archive_is_not_unpacked_where_it_says_that_it_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MAX_ARRAYS", 1 << 20)
    with ZipFile(tmp_path / "net.npz", "w", ZIP_DEFLATED) as archive:
        archive.writestr("weights.npy", bytes(1 << 21))
    with pytest.raises(CheckpointError, match="net.npz unpacks to 2097152 bytes; up to 1048576 are read"):
        link.read(tmp_path / "net.npz")


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "net.npz", "w") as archive:
        archive.writestr("weights.txt", b"none")
    with pytest.raises(CheckpointError, match="weights.txt is no array; arrays of numbers are read"):
        link.read(tmp_path / "net.npz")


def test_an_array_that_says_more_than_there_is(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 9999), }".ljust(117) + b"\n"
    with ZipFile(tmp_path / "net.npz", "w") as archive:
        archive.writestr("weights.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(CheckpointError, match="net.npz cannot be read as .npz .*; get it again"):
        link.read(tmp_path / "net.npz")
