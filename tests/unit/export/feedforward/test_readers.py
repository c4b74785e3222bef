"""Nets whose every weight is the style: facts are found and told, and a file that is none of them, or only half of one,
gets one error that says why."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from impasto_export.errors import CheckpointError, ExportError, MisfitCheckpoint
from impasto_export.feedforward import link
from impasto_export.feedforward.found import Found, Said
from tests.helpers import lua_files, stylers
from tests.helpers.lua_files import Lua

SMALL = 4


@pytest.fixture(autouse=True)
def _in_process(in_process: None) -> None:
    """Pickles of the test's own making."""


def saved(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return path


def read(tmp_path: Path, tensors: Mapping[str, Tensor], said: Said = Said()) -> Found:  # noqa: B008
    return link.read(saved(tmp_path / "net.safetensors", tensors), said)


def lua(tmp_path: Path, content: Any) -> Found:
    (tmp_path / "net.t7").write_bytes(lua_files.encoded(content))
    return link.read(tmp_path / "net.t7")


def examples() -> dict[str, Tensor]:
    return stylers.TransformerNet().state_dict()


def johnson(**facts: Any) -> dict[str, Tensor]:
    return stylers.Johnson(SMALL, **facts).converted()


def test_facts_are_told_with_how_they_are_known(tmp_path: Path) -> None:
    found = read(tmp_path, johnson())
    assert found.told["padding"] == "reflect, 40 pixels once; residuals crop (its layers' places)"
    assert found.told["upsampling"] == "transposed (shapes of its weights)"
    assert found.told["norm"] == "instance, epsilon 1e-05 (no running statistics)"
    assert (found.net.pad, found.net.multiple_of, found.net.border) == (40, 4, 16)
    assert found.weakened == "pixels"
    assert not found.net.vector_size


def test_a_torch7_file_tells_all_itself(tmp_path: Path) -> None:
    checkpoint = lua_files.checkpoint(stylers.Johnson(SMALL), preprocessing="vgg")
    found = lua(tmp_path, checkpoint)
    assert found.told["input"] == "BGR 0-255 - (103.939, 116.779, 123.68) (opt.preprocessing)"
    assert found.told["norm"] == "instance, epsilon 1e-05 (its layers)"
    # A function in it is skipped.
    assert lua(tmp_path, {**checkpoint, "closure": b"\x1bLJ code"}).net.digest == found.net.digest
    with pytest.raises(CheckpointError, match="--padding: got zero; .*net.t7 tells that itself"):
        link.read(tmp_path / "net.t7", Said(padding="zero"))


def test_a_port_is_the_same_net_as_its_file(tmp_path: Path) -> None:
    net = stylers.Johnson(SMALL)
    port, own = read(tmp_path, net.converted()).net, lua(tmp_path, lua_files.checkpoint(net)).net
    assert [tensor.tobytes() for tensor in port.tensors.values()] == [
        tensor.tobytes() for tensor in own.tensors.values()
    ]


def test_statistics_of_instance_norms_are_dropped_and_that_is_told(tmp_path: Path) -> None:
    plain = read(tmp_path, examples())
    found = read(
        tmp_path, {**examples(), "res1.in1.running_var": torch.ones(128), "in4.num_batches_tracked": torch.ones(1)}
    )
    assert "were dropped" in found.told["statistics"]
    assert "statistics" not in plain.told


def test_a_training_run_wraps_its_net(tmp_path: Path) -> None:
    """DataParallel's, and a dictionary with more than the net in it."""
    wrapped = {f"module.{name}": tensor for name, tensor in examples().items()}
    torch.save({"state_dict": wrapped, "epoch": 2}, tmp_path / "candy.model")
    assert link.read(tmp_path / "candy.model").name == "candy"


@pytest.mark.parametrize(
    ("padding", "said", "message"),
    [
        ("reflect", None, "its padding is 'reflect' or 'replicate', but not which; give --padding reflect"),
        ("reflect", "zero", "its padding is 'reflect' or 'replicate'"),
        ("zero", None, "its padding is 'zero' or 'none', but not which; give --padding zero"),
        ("zero", "reflect", "its padding is 'zero' or 'none'"),
        ("reflect-start", "reflect", "--padding: got reflect; .*: its layers' indices tell"),
    ],
)
def test_a_padding_that_a_port_does_not_tell_is_asked_for(
    padding: str, said: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, johnson(padding=padding), Said(padding=said))


def test_whose_statistics_norms_take_is_asked_for(tmp_path: Path) -> None:
    tracked = johnson(norm=nn.BatchNorm2d)
    with pytest.raises(CheckpointError, match="running statistics, .*; give --norm batch or --norm instance"):
        read(tmp_path, tracked)
    assert not any(conv.norm.epsilon for conv in read(tmp_path, tracked, Said(norm="batch")).net.convs)
    assert read(tmp_path, tracked, Said(norm="instance")).net.convs[0].norm.statistics == "instance"
    with pytest.raises(CheckpointError, match="--norm: got batch, but .* has no running_mean"):
        read(tmp_path, johnson(), Said(norm="batch"))
    with pytest.raises(CheckpointError, match="--norm: got 'group'; choose batch or instance"):
        read(tmp_path, tracked, Said(norm="group"))


def without(tensors: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


HALVES: dict[str, tuple[Any, str]] = {
    "a conv is missing": (
        lambda: without(examples(), "res3.conv2.conv2d.weight"),
        "missing .*\n  res3.conv2.conv2d.weight",
    ),
    "a norm is missing": (lambda: without(examples(), "in5.weight"), "missing .*\n  in5.weight"),
    "a block is missing": (
        lambda: without(examples(), *[f"res2.{name}" for name in stylers.ResidualBlock(1).state_dict()]),
        "missing .*\n  res2.conv1.conv2d.bias",
    ),
    "a kernel is too small": (
        lambda: {**examples(), "conv1.conv2d.weight": torch.ones(32, 3, 3, 3)},
        r"conv1.conv2d.weight: \[32, 3, 3, 3\], \[32, 3, 9, 9\] is expected",
    ),
    "a conv takes too much": (
        lambda: {**examples(), "conv3.conv2d.weight": torch.ones(128, 32, 3, 3)},
        r"conv3.conv2d.weight: \[128, 32, 3, 3\], \[128, 64, 3, 3\] is expected",
    ),
    "something more": (lambda: {**examples(), "head.weight": torch.ones(3)}, "unused .*\n  head.weight"),
    "numbers that are none": (
        lambda: {**examples(), "in1.bias": torch.full((32,), torch.nan)},
        "in1.bias holds NaN or infinity",
    ),
    "a port's norm is too small": (
        lambda: {**johnson(), "2.weight": torch.ones(3)},
        "norm after 1 has 3 channels, the conv 4",
    ),
    "a port takes too much": (
        lambda: {**johnson(), "4.weight": torch.ones(8, 5, 3, 3)},
        r"4.weight is \[8, 5, 3, 3\]; \[out, 4, k, k\] is expected",
    ),
    "a port lacks a block": (
        lambda: {name: value for name, value in johnson().items() if not name.startswith("12.")},
        "missing .*\n  a residual block in the place 12",
    ),
    "a port lacks residuals": (
        lambda: {k: v for k, v in johnson().items() if k.count(".") == 1},
        "missing .*\n  a residual block",
    ),
    "a port doubles once": (lambda: without(johnson(), "18.weight", "18.bias", "19.weight", "19.bias"), "is expected"),
    "a port has more": (lambda: {**johnson(), "loss.weight": torch.ones(3)}, "unused .*\n  loss.weight"),
    "a U-Net lacks a level": (
        lambda: without(stylers.UNet().state_dict(), "down2.skip.bias"),
        "missing .*\n  down2.skip.bias",
    ),
    "a U-Net is another": (
        lambda: {**stylers.UNet().state_dict(), "up3.skip.weight": torch.ones(64, 128, 1, 1)},
        r"up3.skip.weight: \[64, 128, 1, 1\], \[64, 192, 1, 1\] is expected",
    ),
    "a classifier": (
        lambda: {"conv1.weight": torch.ones(64, 3, 7, 7), "fc.weight": torch.ones(10, 512)},
        "not a feed-forward net of a known layout; its tensors: conv1.weight, fc.weight; link a diffusion checkpoint",
    ),
    "VGG": (
        lambda: {f"features.{name}": value for name, value in stylers.decoder().state_dict().items()},
        "not a feed-forward net",
    ),
}


@pytest.mark.parametrize("what", HALVES)
@pytest.mark.parametrize("pickled", [False, True])
def test_half_a_net_gets_one_error(what: str, pickled: bool, tmp_path: Path) -> None:
    make, message = HALVES[what]
    path = tmp_path / ("net.pth" if pickled else "net.safetensors")
    torch.save(make(), path) if pickled else saved(path, make())
    with pytest.raises(CheckpointError, match=message) as raised:
        link.link(path, tmp_path / "bundle")
    assert str(path) in str(raised.value)
    assert not (tmp_path / "bundle").exists()


def test_what_no_reader_knows_is_no_net(tmp_path: Path) -> None:
    """A safetensors file may be of another family; of a pickle nothing else is linked."""
    unknown = {"fc.weight": torch.ones(3)}
    assert not link.recognises(saved(tmp_path / "x.safetensors", unknown))
    torch.save(unknown, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="not a feed-forward net of a known layout"):
        link.recognises(tmp_path / "x.pth")


class Shell:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("exit 3",)


def test_pickles_that_are_damaged_or_more_than_tensors(tmp_path: Path) -> None:
    torch.save(examples(), tmp_path / "candy.pth")
    whole = (tmp_path / "candy.pth").read_bytes()
    for length in (4, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "candy.pth").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="candy.pth: not a file of tensors saved by torch, or damaged"):
            link.recognises(tmp_path / "candy.pth")
    torch.save({**examples(), "hook": Shell()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="evil.pth: refused: .* more than tensors, it asks for 'posix.system'"):
        link.recognises(tmp_path / "evil.pth")


def test_a_torch7_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = lua_files.encoded(lua_files.checkpoint(stylers.Johnson(1)))
    path = tmp_path / "net.t7"
    for length in (*range(8, 400), *range(400, len(whole), 997)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="net.t7"):
            link.read(path)


def test_a_torch7_file_of_anything_is_refused(tmp_path: Path) -> None:
    """Bytes changed at random lead to a net, or to an error of ours, and never to much memory."""
    whole = bytearray(lua_files.encoded(lua_files.checkpoint(stylers.Johnson(1))))
    path, chance = tmp_path / "net.t7", np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(whole)
        for at in chance.integers(8, 4000, 3):
            changed[at] = chance.integers(256)
        path.write_bytes(changed)
        try:
            link.read(path)
        except CheckpointError:
            continue


def layers(*modules: Lua) -> dict[str, Any]:
    return {"model": Lua("nn.Sequential", {"modules": list(modules)})}


ENDED = (Lua("nn.Tanh", {}), Lua("nn.MulConstant", {"constant_scalar": 150.0}))
CONV = {"kW": 3, "kH": 3, "dW": 1, "dH": 1, "padW": 1, "padH": 1, "nInputPlane": 3, "nOutputPlane": 3}
WEIGHT = np.ones((3, 3, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (layers(Lua("nn.SpatialDilatedConvolution", CONV), *ENDED), "layer 0 is nn.SpatialDilatedConvolution"),
        (layers(Lua("nn.SpatialConvolution", CONV), *ENDED), "layer 0, nn.SpatialConvolution, has no weight"),
        (
            layers(Lua("nn.SpatialConvolution", {**CONV, "dH": 2, "weight": WEIGHT}), *ENDED),
            "differs between the two directions",
        ),
        (
            layers(Lua("nn.SpatialConvolution", {**CONV, "padW": 2, "padH": 2, "weight": WEIGHT}), *ENDED),
            "kernel 3, stride 1, padding 2",
        ),
        (
            layers(Lua("nn.SpatialConvolution", {**CONV, "dW": 2, "dH": 2, "weight": WEIGHT}), *ENDED),
            "halves 1 times and doubles 0",
        ),
        (
            layers(Lua("nn.SpatialConvolution", {**CONV, "padW": 0, "padH": 0, "weight": WEIGHT}), *ENDED),
            "take off 1 pixels .* pads by 0",
        ),
        (layers(Lua("nn.SpatialConvolution", {**CONV, "weight": WEIGHT[:2]}), *ENDED), r"its weight is \[2, 3, 3, 3\]"),
        (layers(Lua("nn.SpatialConvolution", {**CONV, "weight": WEIGHT})), "it ends with SpatialConvolution"),
        (layers(Lua("nn.ReLU", {}), *ENDED), "follows no convolution"),
        (layers(Lua("nn.Sequential", {"modules": []}), *ENDED), "not a residual block"),
        ({"model": 3.0}, "not a feed-forward net of a known layout"),
        ({**layers(*ENDED), "opt": {"preprocessing": "resnet"}}, "opt.preprocessing is 'resnet'"),
    ],
)
def test_torch7_layers_that_are_not_served_are_named(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        lua(tmp_path, content)


def ml5(folder: Path) -> Path:
    folder.mkdir()
    named = stylers.Lengstrom().named()
    for name, value in named.items():
        (folder / name).write_bytes(value.numpy().tobytes())
    entries = {name: {"filename": name, "shape": [*value.shape]} for name, value in named.items()}
    (folder / "manifest.json").write_text(json.dumps(entries))
    return folder


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"Variable_7": None}, "missing .*\n  Variable_7"),
        (
            {"Variable_9": {"filename": "Variable_9", "shape": [9, 128, 128]}},
            r"Variable_9: \[9, 128, 128\], \[3, 3, 128, 128\]",
        ),
        (
            {"Variable_2": {"filename": "../net", "shape": [32]}},
            "a shape and the name of a file beside it are expected",
        ),
        ({"Variable_2": {"filename": "Variable_2", "shape": [-32]}}, "a shape and the name of a file beside it"),
        ({"Variable_2": {"filename": "gone", "shape": [32]}}, "gone is missing; manifest.json names it"),
        ({"Variable_4": {"filename": "Variable_2", "shape": [64]}}, r"has 128 bytes, but \[64\] of float32 are 256"),
        ({"dense": {"filename": "Variable_2", "shape": [32]}}, "unused .*\n  dense"),
    ],
)
def test_folders_that_lack_something(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = ml5(tmp_path / "wave")
    listed = {**json.loads((folder / "manifest.json").read_text()), **entry}
    (folder / "manifest.json").write_text(json.dumps({name: value for name, value in listed.items() if value}))
    with pytest.raises(CheckpointError, match=message):
        link.read(folder)


def test_an_optimisers_variables_are_left_out(tmp_path: Path) -> None:
    folder = ml5(tmp_path / "wave")
    listed = json.loads((folder / "manifest.json").read_text())
    spare = {f"Variable_3{end}": listed["Variable_3"] for end in ("_Adam", "_Adam_1")}
    (folder / "manifest.json").write_text(json.dumps({**listed, **spare, "beta1_power": listed["Variable_1"]}))
    found = link.read(folder)
    assert (found.name, len(found.net.tensors)) == ("wave", 48)


def test_another_programs_manifest_is_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "family": "diffusion", "graphs": {}}))
    assert not link.recognises(tmp_path)


def test_a_decoder_asks_for_its_encoder(tmp_path: Path) -> None:
    decoder = tmp_path / "clip_decoder_fire.pth.tar"
    torch.save(stylers.decoder().state_dict(), decoder)
    with pytest.raises(CheckpointError, match="name vgg_normalised.pth with --encoder"):
        link.read(decoder)
    with pytest.raises(MisfitCheckpoint, match="--encoder: .* does not fit vgg_normalised.*\n.*missing") as raised:
        link.read(decoder, Said(encoder=decoder))
    assert "0.weight" in raised.value.missing
    with pytest.raises(ExportError, match="--encoder"):
        link.read(decoder, Said(encoder=tmp_path / "nothing.pth"))


def test_options_for_another_net_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="--norm: got batch; .* tells that itself, or does not need it: leave it out"
    ):
        read(tmp_path, examples(), Said(norm="batch"))
