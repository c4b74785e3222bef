"""A CLIPModel becomes a scorer bundle: matched by its config, linked in place, or refused where it would misjudge."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from transformers import CLIPConfig, CLIPProcessor, CLIPTokenizer
from typer.testing import CliRunner

from impasto_export import architecture, atomic, cli, clip, splice
from impasto_export.clip import facts, link, preparation
from impasto_export.errors import BundleError, CheckpointError, MisfitCheckpoint, UnknownArchitecture
from impasto_export.tracing import clip_graphs, graphs
from impasto_export.weights import encode, read_header, read_tensor
from tests.helpers import clips
from tests.helpers.folders import edit_json


@pytest.fixture
def own(clip_checkpoint: Path, tmp_path: Path) -> Path:
    """A private copy of the checkpoint, to be spoilt."""
    return shutil.copytree(clip_checkpoint, tmp_path / "clip")


def rewrite(path: Path, changes: Mapping[str, tuple[str, NDArray[Any]]], drop: str = "") -> None:
    """Rewrite a safetensors file without `drop` and with `changes`; a new file, for the old one's links."""
    header = read_header(path)
    tensors = {name: (item.dtype, read_tensor(header, name)) for name, item in header.tensors.items() if name != drop}
    atomic.write(path, encode({**tensors, **changes}, header.metadata))


def test_the_committed_architecture_is_current(
    clip_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "trace", lambda recipe: b"")
    found = clip_graphs.export(clip_checkpoint, tmp_path / "out", "mini-clip")
    assert architecture.load(clips.SHIPPED) == found == architecture.load(tmp_path / "out")


def test_the_committed_skeletons_have_a_place_for_every_weight() -> None:
    found = {
        name: slot.shape
        for file in clips.SHIPPED.glob("*.onnx")
        for name, slot in splice.placeholders(splice.read(file)).items()
    }
    expected = {name: tuple(value.shape) for name, value in clips.model(0).named_parameters() if name != "logit_scale"}
    assert found == expected
    assert all(file.stat().st_size < 100_000 for file in clips.SHIPPED.glob("*.onnx"))


def test_what_a_config_leaves_out_is_what_transformers_takes_for_it() -> None:
    whole = CLIPConfig().to_dict()
    assert facts({"architectures": ["CLIPModel"]}) == facts({**whole, "architectures": ["CLIPModel"]})


def test_old_configs_state_a_tower_twice() -> None:
    old: dict[str, Any] = {"text_config": {"hidden_size": 512}, "text_config_dict": {"hidden_size": 768}}
    read: Any = CLIPConfig(**old)
    assert facts({"architectures": ["CLIPModel"], **old})["text.hidden_size"] == read.text_config.hidden_size == 768


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["CLIPTextModel"]}, "config.json is of a CLIPTextModel; a scorer is made of a CLIPModel"),
        ({"text_config": {"eos_token_id": [1, 2]}}, r"text.eos_token_id is \[1, 2\]"),
        ({"vision_config": {"image_size": [32, 64]}}, r"vision.image_size is \[32, 64\]"),
        ({"vision_config": {"num_channels": 1}}, "vision.num_channels is 1; it must be 3"),
    ],
)
def test_what_no_graph_is_made_for(config: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        facts({"architectures": ["CLIPModel"], **config})


def test_the_manifest_says_it_all(clip_checkpoint: Path, scorer_bundle: Path) -> None:
    record = json.loads((scorer_bundle / "manifest.json").read_text())
    assert (scorer_bundle / "clip.safetensors").samefile(clip_checkpoint / "model.safetensors")
    assert (record["format"], record["family"], record["name"]) == (1, "clip", "random")
    assert record["architecture"] == architecture.load(clips.SHIPPED).digest
    mean, std = ([*values] for values in (clips.processor(64).image_mean, clips.processor(64).image_std))
    assert record["image"] == {"size": 64, "crop": 64, "mean": mean, "std": std, "resample": "bicubic"}
    ends = {"bos_id": clips.BOS, "eos_id": clips.EOS, "pad_id": clips.EOS}
    assert record["tokenizer"] == {"file": "tokenizer.json", "max_length": 32, **ends}
    assert record["logit_scale"] == pytest.approx(math.exp(clips.model(1).logit_scale.item()))
    ports = {name: [graph["inputs"], graph["outputs"]] for name, graph in record["graphs"].items()}
    assert ports == {
        "image_encoder": [
            [{"name": "pixel_values", "dtype": "float32", "shape": ["n", 3, 64, 64]}],
            [{"name": "image_embeds", "dtype": "float32", "shape": ["n", 128]}],
        ],
        "text_encoder": [
            [{"name": "input_ids", "dtype": "int64", "shape": ["n", 32]}],
            [{"name": "text_embeds", "dtype": "float32", "shape": ["n", 128]}],
        ],
    }


@pytest.mark.parametrize(
    ("dtype", "stored"), [("F16", np.float16(2.5)), ("BF16", np.uint16(0x4020)), ("F32", np.float32(2.5))]
)
def test_the_logit_scale_of_any_dtype(dtype: str, stored: np.generic, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(encode({"logit_scale": (dtype, np.array(stored))}, {}))
    assert clip.logit_scale(read_header(tmp_path / "x")) == pytest.approx(math.exp(2.5))


def test_linking_again_keeps_the_bundle_and_another_weight_makes_another(own: Path, tmp_path: Path) -> None:
    first, second = link(own, tmp_path / "bundle"), link(own, tmp_path / "bundle")
    assert (first.reused, second.reused) == (False, True)
    assert first.digest == second.digest
    rewrite(own / "model.safetensors", {"logit_scale": ("F32", np.array(1, np.float32))})
    third = link(own, tmp_path / "bundle")
    assert (third.reused, third.digest != first.digest) == (False, True)
    (tmp_path / "bundle" / "text_encoder.onnx").write_bytes(b"")
    assert not link(own, tmp_path / "bundle").reused
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "clip"]


def test_buffers_of_older_checkpoints_are_no_weights(own: Path, tmp_path: Path) -> None:
    ids = ("I64", np.arange(32)[None])
    rewrite(own / "model.safetensors", {"text_model.embeddings.position_ids": ids})
    assert link(own, tmp_path / "bundle").folder.is_dir()


def test_misfits_are_named_each(own: Path, tmp_path: Path) -> None:
    wrong = ("F32", np.zeros((2, 2), np.float32))
    changes = {"visual_projection.weight": wrong, "intruder.weight": wrong}
    rewrite(own / "model.safetensors", changes, drop="logit_scale")
    with pytest.raises(MisfitCheckpoint) as raised:
        link(own, tmp_path / "bundle")
    assert raised.value.missing == ("logit_scale",)
    assert raised.value.unused == ("intruder.weight",)
    assert raised.value.misfit == ("visual_projection.weight: F32 [2, 2], the architecture has float [128, 192]",)
    assert not (tmp_path / "bundle").exists()


def test_another_architecture_is_told_with_the_nearest(own: Path, tmp_path: Path) -> None:
    config = json.loads((own / "config.json").read_text())
    edit_json(own / "config.json", vision_config={**config["vision_config"], "patch_size": 16})
    with pytest.raises(UnknownArchitecture, match="impasto export clip FOLDER") as raised:
        link(own, tmp_path / "bundle")
    assert "mini-clip:\n  clip.vision.patch_size: checkpoint 16, architecture 8" in str(raised.value)


def test_a_tokenizer_that_ends_texts_otherwise_is_refused(own: Path, tmp_path: Path) -> None:
    edit_json(own / "special_tokens_map.json", eos_token="<|startoftext|>")
    with pytest.raises(
        CheckpointError,
        match="ends texts with id 512, but text_config's eos_token_id 513 means 513; correct that config",
    ):
        link(own, tmp_path / "bundle")


def test_what_is_no_bundle_is_not_overwritten(clip_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(BundleError, match="is not a bundle"):
        link(clip_checkpoint, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resample": 2}, "resample 2; a scorer resizes pictures"),
        ({"do_center_crop": False}, "do_center_crop False"),
        ({"rescale_factor": 1.0}, "rescale_factor 1.0"),
        ({"size": {"height": 64, "width": 64}}, "size is .*one side in pixels"),
        ({"crop_size": {"height": 64, "width": 32}}, "crop_size is .*one side in pixels"),
        ({"size": 64.0}, "size is 64.0; one side in pixels is expected"),
        ({"image_mean": [0.5, 0.5]}, r"image_mean is \[0.5, 0.5\]; three numbers are expected"),
        (
            {"image_std": [0.5, 0.5, 0]},
            r"image_std is \[0.5, 0.5, 0\]; finite numbers are expected, of image_std above",
        ),
        ({"crop_size": 32}, "size is 64 and crop_size 32 pixels; the crop must be 64"),
        ({"size": 48}, "size is 48 and crop_size 64 pixels"),
    ],
)
def test_a_preparation_that_the_server_does_not_make(changes: dict[str, object], message: str, own: Path) -> None:
    edit_json(own / "preprocessor_config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        preparation(own, 64)


def test_old_and_new_ways_to_state_the_preparation(own: Path, tmp_path: Path) -> None:
    stated = preparation(own, 64)
    edit_json(own / "preprocessor_config.json", size=64, crop_size=64)
    assert preparation(own, 64) == stated
    CLIPProcessor(clips.processor(64), CLIPTokenizer.from_pretrained(own)).save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new" / "preprocessor_config.json").exists()
    assert preparation(tmp_path / "new", 64) == stated


def test_the_commands(clip_checkpoint: Path, tmp_path: Path) -> None:
    """`impasto link` sees by itself that the folder is a CLIP's, without torch."""
    code = (
        "import sys\n"
        "from impasto_client.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, "link", str(clip_checkpoint), "--out", str(tmp_path / "bundle"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["name"] == "random"


def test_a_scorer_has_no_controlnet(clip_checkpoint: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(cli.link)
    options = ["--controlnet", str(tmp_path), "--control", "edges,edges,edges"]
    done = CliRunner().invoke(app, [str(clip_checkpoint), "--out", str(tmp_path / "bundle"), *options])
    assert done.exit_code == 1
    assert "--controlnet: " in done.output
    assert "is a CLIPModel, which paints nothing" in done.output
