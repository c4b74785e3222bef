"""Files that torch saved are read without it, to the bytes that torch itself reads; nothing else is built from them."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from impasto_export.adapters import pickles, torch_files
from impasto_export.adapters.torch_files import Forbidden, Tensor
from impasto_export.weights import read_header, read_tensor

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def saved(tmp_path: Path, content: object, zipped: bool) -> Path:
    torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=zipped)
    return tmp_path / "file.pth"


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else bits(tensor.reshape(1))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype: str, zipped: bool, tmp_path: Path) -> None:
    tensor = (torch.randn(3, 4) * 100).to(getattr(torch, dtype))
    content = OrderedDict(whole=tensor, turned=tensor.T, row=tensor[1], number=tensor[2, 3], none=tensor[:0])
    found = torch_files.read(saved(tmp_path, content, zipped))
    for name, expected in content.items():
        assert found[name].array().tobytes() == bits(expected), name
        assert found[name].array().shape == tuple(expected.shape), name


@pytest.mark.parametrize("zipped", [True, False])
def test_what_stands_beside_tensors(zipped: bool, tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    content = {
        "epoch": 3,
        "net": net.state_dict(),
        "size": torch.ones(2, 3).shape,
        "p": torch.nn.Parameter(torch.ones(2)),
    }
    found = torch_files.read(saved(tmp_path, content, zipped))
    assert (found["epoch"], found["size"]) == (3, (2, 3))
    assert found["net"].keys() == net.state_dict().keys()
    assert isinstance(found["p"], Tensor)


def test_a_safetensors_file_comes_of_it(tmp_path: Path) -> None:
    source = saved(tmp_path, {"w": torch.ones(2, dtype=torch.bfloat16), "b": torch.arange(3), "step": 5}, zipped=True)
    pickles.convert(source, tmp_path / "out.safetensors")
    header = read_header(tmp_path / "out.safetensors")
    assert {name: tensor.dtype for name, tensor in header.tensors.items()} == {"w": "BF16", "b": "I64"}
    assert read_tensor(header, "b").tolist() == [0, 1, 2]
    assert header.metadata == {"scalars": '{"step": 5}'}


@pytest.mark.parametrize(
    "content",
    [
        {"net": torch.nn.Linear(2, 3)},
        {"when": np.float64(3)},
        {"sparse": torch.ones(2, 2).to_sparse()},
    ],
)
def test_what_is_more_than_tensors_is_named(content: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Forbidden, match=r"^[a-z_.]+\.\w+$"):
        torch_files.read(saved(tmp_path, content, zipped=True))


def test_a_class_that_is_allowed_is_no_way_to_others(tmp_path: Path) -> None:
    """A name with dots in it would be looked up in what it names."""
    for module, name in (("collections", "OrderedDict.fromkeys"), ("torch._utils", "_rebuild_tensor_v2.__globals__")):
        data = (
            pickle.PROTO
            + b"\x04"
            + b"".join(pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode() for text in (module, name))
        )
        (tmp_path / "data.pkl").write_bytes(data + pickle.STACK_GLOBAL + b".")
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.write(tmp_path / "data.pkl", "x/data.pkl")
        with pytest.raises(Forbidden, match=name):
            torch_files.read(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((5,), (1,), 0), ((2,), (4,), 0), ((4,), (1,), 1), ((2,), (-1,), 1), ((1 << 40,), (0,), 0), ((2,), (1, 1), 0)],
)
def test_a_tensor_beyond_its_storage(size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> None:
    storage = torch_files.Storage("FloatStorage", 4, np.arange(4, dtype="<f4").tobytes())
    with pytest.raises(ValueError, match="a tensor"):
        Tensor(storage, offset, size, stride).array()
