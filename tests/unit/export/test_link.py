"""`link`: what fits is linked in place and described; what does not is refused by name; nothing is left half done."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import typer
from tokenizers import Tokenizer
from typer.testing import CliRunner

from impasto_export import atomic, bundles, cli, files, manifest
from impasto_export.architecture import SHIPPED
from impasto_export.checkpoints.checkpoint import Said
from impasto_export.errors import (
    BundleError,
    CheckpointError,
    DiskFull,
    ExportError,
    GraphError,
    MisfitCheckpoint,
    UnknownArchitecture,
)
from impasto_export.link import link
from impasto_export.weights import encode, read_header, read_tensor
from tests.helpers import cascades, checkpoints
from tests.helpers.checkpoints import CHANNELS
from tests.helpers.folders import edit_json, leftovers
from tests.helpers.stored import values

WEIGHTS = "diffusion_pytorch_model.safetensors"
UNET = f"unet/{WEIGHTS}"


@pytest.fixture
def own(checkpoint: Path, tmp_path: Path) -> Path:
    """A private copy of the checkpoint, to be spoilt."""
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


def rewrite(path: Path, drop: str = "", **changes: tuple[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    """Rewrite a safetensors file without `drop` and with `changes` (`__` for a dot)."""
    header = read_header(path)
    tensors = {name: (item.dtype, read_tensor(header, name)) for name, item in header.tensors.items() if name != drop}
    tensors.update({name.replace("__", "."): value for name, value in changes.items()})
    path.write_bytes(encode(tensors, header.metadata))


def test_weights_are_linked_not_copied_and_the_manifest_says_it_all(bundle: Path, checkpoint: Path) -> None:
    assert (bundle / "unet.safetensors").samefile(checkpoint / UNET)
    record = manifest.load(bundle)
    assert record["latents"] == {"channels": CHANNELS, "factor": 8, "scaling_factor": 0.9, "shift_factor": 0.0}
    assert record["image"] == {"width": 128, "height": 128, "multiple_of": 32, "max_pixels": 262144}
    assert record["tokenizer"]["max_length"] == 32
    assert record["scheduler"]["prediction_type"] == "v_prediction"
    assert set(record["graphs"]) == {"text_encoder", "unet", "vae_decoder", "vae_encoder"}
    graphs = [graph[key] for graph in record["graphs"].values() for key in ("file", "plain") if key in graph]
    assert set(record["files"]) == {*graphs, "tokenizer.json"}
    assert record["weights"]["unet.safetensors"]["bytes"] == (checkpoint / UNET).stat().st_size


def test_a_masked_checkpoint_is_described(masked_bundle: Path, masked_checkpoint: Path) -> None:
    record = manifest.load(masked_bundle)
    assert record["family"] == "masked"
    assert record["tokens"] == {"factor": 8, "codes": 1024, "mask_id": 1087}
    assert record["masking"] == {"schedule": "cosine"}
    assert record["image"] == {"width": 128, "height": 128, "multiple_of": 16, "max_pixels": 262144}
    assert not {"latents", "scheduler", "control"} & record.keys()
    assert set(record["graphs"]) == {"text_encoder", "transformer", "vq_decoder", "vq_encoder"}
    assert (masked_bundle / "vqvae.safetensors").samefile(masked_checkpoint / "vqvae" / WEIGHTS)
    kinds = {site["name"]: site.get("kind", "lora") for site in record["graphs"]["transformer"]["sites"]}
    assert (kinds["transformer_layers.0.attn2"], kinds["transformer_layers.0.attn2.to_q"]) == ("bottleneck", "lora")


def test_a_checkpoint_of_two_stages_is_described(cascade_bundle: Path, cascade_checkpoint: Path) -> None:
    record = manifest.load(cascade_bundle)
    assert record["tokens"] == {"factor": 8, "codes": checkpoints.CODES, "mask_id": checkpoints.MASK_ID}
    tokens = {"factor": 8, "codes": cascades.CODES, "mask_id": cascades.MASK_ID}
    assert record["upscale"] == {"tokens": tokens, "scale": 2, "patch": 2}
    assert record["image"] == {"width": 256, "height": 256, "multiple_of": 32, "max_pixels": 512 * 512}
    assert record["graphs"]["upscaler"]["plain"] == "upscaler.plain.onnx"
    for part in cascades.STAGE:
        assert (cascade_bundle / f"{part}.safetensors").samefile(cascade_checkpoint / part / WEIGHTS)


def test_the_size_that_is_said_is_that_of_the_finished_picture(cascade_checkpoint: Path, tmp_path: Path) -> None:
    made = link(cascade_checkpoint, tmp_path / "bundle", said=Said(size=(512, 256)))
    assert made.notes == ("two stages: the first paints 256x128, the second 512x256 over it",)
    assert (manifest.load(made.folder)["image"]["width"], manifest.load(made.folder)["image"]["height"]) == (512, 256)
    with pytest.raises(CheckpointError, match="--size: got 272x256; mini-muse-cascade needs multiples of 32"):
        link(cascade_checkpoint, tmp_path / "other", said=Said(size=(272, 256)))


def test_without_its_second_stage_it_is_the_architecture_of_one(
    cascade_checkpoint: Path, masked_bundle: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(cascade_checkpoint, tmp_path / "checkpoint")
    shutil.rmtree(own / "upscaler")
    with pytest.raises(CheckpointError, match="it has upscaler_vqvae but no upscaler"):
        link(own, tmp_path / "bundle")
    shutil.rmtree(own / "upscaler_vqvae")
    assert link(own, tmp_path / "bundle").architecture == manifest.load(masked_bundle)["architecture"]
    assert "upscale" not in manifest.load(tmp_path / "bundle")


def test_a_second_stage_of_other_widths_needs_graphs_of_its_own(cascade_checkpoint: Path, tmp_path: Path) -> None:
    own = shutil.copytree(cascade_checkpoint, tmp_path / "checkpoint")
    config = json.loads((own / "upscaler" / "config.json").read_text())
    (own / "upscaler" / "config.json").write_text(json.dumps({**config, "num_layers": 6}))
    with pytest.raises(
        UnknownArchitecture, match=r"mini-muse-cascade:\s+upscaler.num_layers: checkpoint 6, architecture 5"
    ):
        link(own, tmp_path / "bundle")
    (own / "upscaler" / "config.json").write_text(json.dumps({**config, "low_vocab_size": 9}))
    with pytest.raises(GraphError, match=r"upscaler: low_vocab_size is 9, transformer\.vocab_size 1088"):
        link(own, tmp_path / "bundle")


def test_imports_no_torch(checkpoint: Path, tmp_path: Path) -> None:
    code = (
        "import sys, impasto_export.cli, impasto_export.adapters.loras, impasto_export.adapters.registry\n"
        "from pathlib import Path\n"
        "from impasto_export.link import link\n"
        "link(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'peft', 'onnxscript'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, checkpoint, tmp_path / "bundle"], check=True)


def test_linking_again_keeps_the_bundle(checkpoint: Path, tmp_path: Path) -> None:
    first = link(checkpoint, tmp_path / "bundle")
    inode = (tmp_path / "bundle" / "unet.onnx").stat().st_ino
    second = link(checkpoint, tmp_path / "bundle")
    assert (first.reused, second.reused) == (False, True)
    assert first.digest == second.digest
    assert (tmp_path / "bundle" / "unet.onnx").stat().st_ino == inode
    assert leftovers(tmp_path) == []


def test_a_damaged_bundle_is_made_anew(checkpoint: Path, tmp_path: Path) -> None:
    link(checkpoint, tmp_path / "bundle")
    (tmp_path / "bundle" / "unet.onnx").write_bytes(b"")
    assert not link(checkpoint, tmp_path / "bundle").reused
    assert (tmp_path / "bundle" / "unet.onnx").stat().st_size > 0


def test_another_weight_gives_another_digest(own: Path, tmp_path: Path) -> None:
    first = link(own, tmp_path / "bundle")
    header = read_header(own / UNET)
    bias = read_tensor(header, "conv_in.bias") + np.float16(1)
    (own / UNET).rename(own / "aside")
    shutil.copy(own / "aside", own / UNET)
    rewrite(own / UNET, conv_in__bias=("F16", bias))
    second = link(own, tmp_path / "bundle")
    assert (second.reused, second.digest != first.digest) == (False, True)
    assert leftovers(tmp_path) == []


def test_misfits_are_named_each(own: Path, tmp_path: Path) -> None:
    wrong = np.zeros((3, 4), np.float16)
    rewrite(own / UNET, "conv_in.weight", conv_out__bias=("F16", wrong), intruder__weight=("F16", wrong))
    with pytest.raises(MisfitCheckpoint, match=r"missing \(1\)") as raised:
        link(own, tmp_path / "bundle")
    assert raised.value.missing == ("conv_in.weight",)
    assert raised.value.unused == ("intruder.weight",)
    assert raised.value.misfit == (f"conv_out.bias: F16 [3, 4], the architecture has float [{CHANNELS}]",)
    assert not (tmp_path / "bundle").exists()


def test_a_dtype_that_no_cast_reads_is_a_misfit(own: Path, tmp_path: Path) -> None:
    rewrite(own / UNET, conv_out__bias=("I32", np.zeros(CHANNELS, np.int32)))
    with pytest.raises(MisfitCheckpoint, match=r"conv_out\.bias: I32"):
        link(own, tmp_path / "bundle")


def test_an_unknown_architecture_names_what_differs(own: Path, tmp_path: Path) -> None:
    edit_json(own / "unet" / "config.json", layers_per_block=2)
    with pytest.raises(UnknownArchitecture, match=r"unet\.layers_per_block: checkpoint 2, architecture 1"):
        link(own, tmp_path / "bundle")


def test_a_config_may_leave_out_defaults(own: Path, tmp_path: Path) -> None:
    path = own / "unet" / "config.json"
    config = json.loads(path.read_text())
    del config["upcast_attention"], config["dropout"]
    path.write_text(json.dumps(config))
    assert link(own, tmp_path / "bundle").digest


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ("vae/config.json", {"latents_mean": [0.0]}, "latents_mean"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 16}, "model_max_length 16"),
        ("tokenizer/tokenizer_config.json", {"tokenizer_class": "T5Tokenizer"}, "T5Tokenizer"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "77"}, "model_max_length is '77'; a number of tokens"),
        ("tokenizer/tokenizer_config.json", {"pad_token": "<pad>"}, "<pad>"),
        ("tokenizer/tokenizer_config.json", {"padding_side": "left"}, "padding_side is 'left'; only 'right' is served"),
        ("tokenizer/tokenizer_config.json", {"truncation_side": "left"}, "truncation_side is 'left'; only 'right'"),
        ("tokenizer/vocab.json", {"vast": 1024}, r"'vast' \(1024\) lie beyond the text encoder's vocabulary of 1024"),
        ("tokenizer/vocab.json", {"t": 7, "h": 7, "th": None}, "vocab.json and merges.txt do not fit each other"),
        ("vae/config.json", {"scaling_factor": 0}, "vae: scaling_factor is 0, shift_factor 0.0; finite numbers"),
        ("vae/config.json", {"scaling_factor": None}, "vae: scaling_factor is None"),
        ("vae/config.json", {"shift_factor": float("nan")}, "shift_factor nan"),
        (
            "unet/config.json",
            {"sample_size": 0},
            "unet: sample_size means 0x0 pixels; mini-diffusion needs multi",
        ),
        (
            "unet/config.json",
            {"sample_size": [16, 3]},
            "sample_size means 24x128 pixels; .* multiples of 32, up to 8192",
        ),
        ("unet/config.json", {"sample_size": [16]}, r"unet: sample_size is \[16\]; set it to the size in latents"),
        ("unet/config.json", {"sample_size": 2048}, "sample_size means 16384x16384 pixels"),
    ],
)
def test_what_the_server_cannot_honour_is_refused(
    own: Path, tmp_path: Path, file: str, changes: dict[str, object], message: str
) -> None:
    edit_json(own / file, **changes)
    with pytest.raises(CheckpointError, match=message):
        link(own, tmp_path / "bundle")
    assert leftovers(tmp_path) == []


SCHEDULER, TEXT = "scheduler/scheduler_config.json", "text_encoder/config.json"


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (SCHEDULER, {"mask_token_id": 1024}, "mask_token_id is 1024; it must be the vocabulary's last, 1087"),
        (SCHEDULER, {"mask_token_id": None}, "mask_token_id is None"),
        (SCHEDULER, {"masking_schedule": "sigmoid"}, "'sigmoid'; impasto's sampler knows cosine or linear"),
        ("transformer/config.json", {"sample_size": None}, "set it to the size in tokens"),
        ("tokenizer/special_tokens_map.json", {"eos_token": "<|startoftext|>"}, "eos_token_id 513 means 513"),
        (TEXT, {"eos_token_id": 2}, r"text_encoder\.eos_token_id: checkpoint 2, architecture 513"),
        ("vqvae/config.json", {"lookup_from_codebook": False}, "vqvae: lookup_from_codebook is False; only True"),
        (
            "model_index.json",
            {"_class_name": "FluxPipeline"},
            "_class_name is 'FluxPipeline', FLUX; impasto serves",
        ),
    ],
)
def test_what_a_masked_checkpoint_may_not_say(
    masked_checkpoint: Path, tmp_path: Path, file: str, changes: dict[str, object], message: str
) -> None:
    own = shutil.copytree(masked_checkpoint, tmp_path / "checkpoint")
    edit_json(own / file, **changes)
    with pytest.raises(ExportError, match=message):
        link(own, tmp_path / "bundle")
    assert leftovers(tmp_path) == []


def test_unused_tensors_of_a_masked_checkpoint_are_named(masked_checkpoint: Path, tmp_path: Path) -> None:
    own = shutil.copytree(masked_checkpoint, tmp_path / "checkpoint")
    rewrite(own / "vqvae" / WEIGHTS, quantize__used=("F16", np.zeros(3, np.float16)))
    with pytest.raises(MisfitCheckpoint) as raised:
        link(own, tmp_path / "bundle")
    assert raised.value.unused == ("quantize.used",)


def test_missing_weights_say_what_is_there(own: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.fp16\.safetensors is missing.* the folder holds model.safe"):
        link(own, tmp_path / "bundle", said=Said("fp16"))
    (own / UNET).rename(own / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing.* the folder holds .*fp16\.safetensors"):
        link(own, tmp_path / "bundle")


def test_a_part_without_the_variant_gives_its_plain_files_and_a_note(own: Path, tmp_path: Path) -> None:
    (own / UNET).rename(own / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    made = link(own, tmp_path / "bundle", said=Said("fp16"))
    assert made.notes == tuple(
        f"{part} has no fp16 files; its plain ones are linked, as diffusers does" for part in ("text_encoder", "vae")
    )


def test_an_interrupted_link_leaves_the_old_bundle(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = link(own, tmp_path / "bundle")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "place_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        link(own, tmp_path / "bundle", said=Said(defaults={"steps": 3}))
    with pytest.raises(KeyboardInterrupt):
        link(own, tmp_path / "new")
    assert manifest.load(tmp_path / "bundle")["digest"] == first.digest
    assert not (tmp_path / "new").exists()
    assert leftovers(tmp_path) == []


def test_copies_where_no_hard_link_can_be_made(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    made = link(checkpoint, tmp_path / "bundle")
    assert len(made.copied) == 3
    assert not (made.folder / "unet.safetensors").samefile(checkpoint / UNET)


@pytest.mark.parametrize("step", ["os.link", "write_bytes"])
def test_a_full_disk_leaves_the_old_bundle(
    step: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = link(checkpoint, tmp_path / "bundle")
    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    if step == "os.link":
        monkeypatch.setattr(os, "link", Mock(side_effect=OSError(errno.EXDEV, "cross-device link")))
        monkeypatch.setattr(files, "_copy", full)
    else:
        monkeypatch.setattr(Path, "write_bytes", full)
    for name in ("bundle", "new"):
        with pytest.raises(
            DiskFull, match=rf"{name}: its disk has too little room .* nothing was changed; make room, or choose"
        ):
            link(checkpoint, tmp_path / name, said=Said(defaults={"steps": 3}))
    assert manifest.load(tmp_path / "bundle")["digest"] == first.digest
    assert not (tmp_path / "new").exists()
    assert leftovers(tmp_path) == []


def test_the_old_bundle_comes_back_when_the_new_one_cannot_take_its_place(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, rename = link(checkpoint, tmp_path / "bundle"), Path.rename

    def fail(self: Path, target: Path) -> Path:
        if target == tmp_path / "bundle" and ".old." not in self.name:
            raise PermissionError("not now")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PermissionError):
        link(checkpoint, tmp_path / "bundle", said=Said(defaults={"steps": 3}))
    assert manifest.load(tmp_path / "bundle")["digest"] == first.digest
    assert leftovers(tmp_path) == []


def test_an_interrupted_reading_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        link(checkpoint, tmp_path / "bundle", progress=Mock(side_effect=KeyboardInterrupt))
    assert list(tmp_path.iterdir()) == []


def test_copying_and_reading_are_told(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, tuple[int, int]] = {}
    monkeypatch.setattr(os, "link", Mock(side_effect=OSError(errno.EXDEV, "cross-device link")))
    link(checkpoint, tmp_path / "bundle", progress=lambda what, done, total: told.update({what: (done, total)}))
    size = (checkpoint / UNET).stat().st_size
    assert told["reading unet.safetensors"] == told["copying unet.safetensors"] == (size, size)


def test_a_linked_bundle_is_kept_without_reading_its_weights_twice(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(checkpoint, tmp_path / "bundle")
    monkeypatch.setattr(bundles, "sha256_file", Mock(side_effect=AssertionError))
    assert link(checkpoint, tmp_path / "bundle").reused


def test_what_a_request_gets_is_said_in_the_manifest(checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    assert "defaults" not in manifest.load(bundle)
    assert manifest.load(bundle)["source"] == {"checkpoint": checkpoint.name}
    said = Said(defaults={"scheduler": "euler_a", "steps": 1, "guidance_scale": 0.0})
    made = link(checkpoint, tmp_path / "bundle", said=said)
    assert manifest.load(made.folder)["defaults"] == said.defaults
    assert link(checkpoint, tmp_path / "bundle", said=said).reused
    assert not link(checkpoint, tmp_path / "bundle").reused
    with pytest.raises(CheckpointError, match="--scheduler: got 'heun'; choose ddim, dpmpp_2m, euler, euler_a"):
        link(checkpoint, tmp_path / "other", said=Said(defaults={"scheduler": "heun"}))


def test_a_masked_backbone_has_no_diffusion_sampler(masked_checkpoint: Path, tmp_path: Path) -> None:
    made = link(masked_checkpoint, tmp_path / "bundle", said=Said(defaults={"steps": 8}))
    assert manifest.load(made.folder)["defaults"] == {"steps": 8}
    with pytest.raises(CheckpointError, match="--scheduler: got 'ddim'; a masked backbone has no diffusion sampler"):
        link(masked_checkpoint, tmp_path / "bundle", said=Said(defaults={"scheduler": "ddim"}))


@pytest.mark.parametrize(("option", "value"), [("prediction", "epsilon"), ("spacing", "trailing")])
def test_a_folder_says_itself_how_it_was_trained(option: str, value: str, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"--{option}: got '{value}'; the folder's scheduler config states it"):
        link(checkpoint, tmp_path / "bundle", said=Said(**{option: value}))  # type: ignore[arg-type]


def test_the_size_may_be_said(checkpoint: Path, masked_checkpoint: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(cli.link)

    def command(source: Path, size: str) -> str:
        return (
            CliRunner().invoke(app, [str(source), "--out", str(tmp_path / source.parent.name), "--size", size]).output
        )

    for source in (checkpoint, masked_checkpoint):
        assert "weights hard-linked" in command(source, "192x64")
        image = manifest.load(tmp_path / source.parent.name)["image"]
        assert (image["width"], image["height"], image["max_pixels"]) == (192, 64, 512 * 512)
        assert command(source, "100x64").startswith("error: --size: got 100x64; mini-")
    assert "--size: got '64'; WIDTHxHEIGHT in pixels is expected" in command(checkpoint, "64")


@pytest.mark.parametrize("whole", [False, True])
def test_another_tokenizer(whole: bool, own: Path, tmp_path: Path) -> None:
    other = shutil.copytree(own, tmp_path / "other")
    edit_json(other / "tokenizer" / "tokenizer_config.json", pad_token="!")
    made = link(own, tmp_path / "bundle", said=Said(tokenizer=other if whole else other / "tokenizer"))
    assert manifest.load(made.folder)["tokenizer"]["pad_id"] == 0
    assert link(own, tmp_path / "bundle").digest != made.digest


def test_the_command_says_what_is_of_interest(own: Path, tmp_path: Path) -> None:
    (own / UNET).rename(own / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    app = typer.Typer()
    app.command()(cli.link)
    options = ["--variant", "fp16", "--scheduler", "lcm", "--steps", "4", "--guidance-scale", "1"]
    said = CliRunner().invoke(app, [str(own), "--out", str(tmp_path / "bundle"), *options])
    assert said.exit_code == 0, said.output
    assert "weights hard-linked\nnote: text_encoder has no fp16 files; its plain ones are linked" in said.stdout
    assert manifest.load(tmp_path / "bundle")["defaults"] == {"scheduler": "lcm", "steps": 4, "guidance_scale": 1.0}
    torch.save({"state_dict": {"model.diffusion_model.out.2.bias": torch.zeros(4)}}, own / "model.ckpt")
    failed = CliRunner().invoke(app, [str(own / "model.ckpt"), "--out", str(tmp_path / "bundle")])
    assert failed.exit_code == 1
    assert "link a diffusion checkpoint from .safetensors or a folder" in failed.stderr


def test_what_the_system_refuses_is_one_line(own: Path, tmp_path: Path) -> None:
    path = own / "vae" / "config.json"
    path.unlink()
    path.mkdir()
    app = typer.Typer()
    app.command()(cli.link)
    failed = CliRunner().invoke(app, [str(own), "--out", str(tmp_path / "bundle")])
    assert (failed.exit_code, failed.stderr) == (1, f"error: {path}: Is a directory\n")


def test_never_overwrites_what_is_not_a_bundle(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").touch()
    with pytest.raises(BundleError, match="not a bundle"):
        link(checkpoint, tmp_path)


@pytest.mark.parametrize("text", ['{"name": "a web page", "icons": []}', "[]", "no JSON"])
def test_a_manifest_may_be_another_programs(text: str, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / manifest.NAME).write_text(text)
    with pytest.raises(BundleError, match="exists and is not a bundle; choose another folder"):
        link(checkpoint, tmp_path)
    assert (tmp_path / manifest.NAME).read_text() == text


def test_what_cannot_be_a_folder_is_said_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    with pytest.raises(BundleError, match=f"bundle cannot be made, since {tmp_path}/notes is not a writable folder"):
        link(tmp_path / "nothing", tmp_path / "notes" / "a" / "bundle")


def test_one_takes_its_place_at_a_time(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that links to the same folder would wait."""
    held = []

    def swap(draft: Path, target: Path) -> None:
        handle = os.open(target.parent, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.append(target)
        finally:
            os.close(handle)

    monkeypatch.setattr(atomic, "_swap", swap)
    link(checkpoint, tmp_path / "bundle")
    assert held == [tmp_path / "bundle"]


def test_what_a_link_leads_to_is_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "own").symlink_to(tmp_path / "other")
    for size in ((64, 64), (96, 96)):
        made = link(checkpoint, tmp_path / "own", said=Said(size=size))
        assert manifest.load(tmp_path / "other")["digest"] == made.digest
    assert leftovers(tmp_path) == []


def test_a_name_that_is_no_text(checkpoint: Path, tmp_path: Path) -> None:
    own = tmp_path / os.fsdecode(b"caf\xe9")
    own.symlink_to(shutil.copytree(checkpoint, tmp_path / os.fsdecode(b"cr\xe8me")))
    assert link(own, tmp_path / os.fsdecode(b"\xff")).name == "cr?me"


def test_a_folder_without_skeletons_is_not_passed_over(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"--graphs: {tmp_path} holds no skeleton; `impasto export graphs` makes"):
        link(checkpoint, tmp_path / "bundle", [tmp_path])


def taking_a_slot(file: Path) -> None:
    """Make an architecture or a manifest one of before lanes picked rows."""
    facts = json.loads(file.read_text())
    facts["graphs"]["unet"]["inputs"].append({"name": "slot", "dtype": "int64", "shape": ["lanes"]})
    file.write_text(json.dumps(facts))


def test_skeletons_of_an_older_impasto_are_named(checkpoint: Path, tmp_path: Path) -> None:
    old = shutil.copytree(SHIPPED / "mini-diffusion", tmp_path / "old")
    taking_a_slot(old / "architecture.json")
    with pytest.raises(
        CheckpointError, match=f"{old}: its graphs have the input slot, so an older impasto.*; export the arch"
    ):
        link(checkpoint, tmp_path / "bundle", [tmp_path])
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_of_an_older_impasto_is_linked_again(checkpoint: Path, tmp_path: Path) -> None:
    made = link(checkpoint, tmp_path / "bundle")
    taking_a_slot(made.folder / manifest.NAME)
    with pytest.raises(
        BundleError, match="its graphs have the input slot, .*; link the checkpoint again, and import its adap"
    ):
        manifest.load(made.folder)
    assert not link(checkpoint, made.folder).reused
    assert manifest.load(made.folder)["digest"] == made.digest


def test_an_edited_manifest_is_noticed(checkpoint: Path, tmp_path: Path) -> None:
    made = link(checkpoint, tmp_path / "bundle")
    edit_json(made.folder / manifest.NAME, name="other")
    with pytest.raises(BundleError, match="changed after linking"):
        manifest.load(made.folder)


EMA = {"decay": 0.9999, "inv_gamma": 1.0, "optimization_step": 37000, "power": 2 / 3, "use_ema_warmup": False}


def test_a_training_runs_settings_in_a_config_are_named_and_ignored(
    own: Path, checkpoint: Path, tmp_path: Path
) -> None:
    edit_json(own / "unet" / "config.json", **EMA)
    made = link(own, tmp_path / "bundle")
    assert made.architecture == link(checkpoint, tmp_path / "plain").architecture
    known = "its config has decay, inv_gamma, optimization_step, power"
    assert made.notes == (f"unet: {known}, which a UNet2DConditionModel does not know; ignored",)


def test_what_lies_beside_the_parts_is_named(own: Path, tmp_path: Path) -> None:
    """Whoever counted on it would get other pictures."""
    parts = {"text_encoder": ["transformers", "CLIPTextModel"], "unet": ["diffusers", "UNet2DConditionModel"]}
    more = {
        "vae": ["diffusers", "AutoencoderKL"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "refiner": [None, None],
        "requires_safety_checker": True,
        "add_watermarker": True,
        "magic": 3,
        "nothing": None,
    }
    (own / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **parts, **more}))
    (own / "learned_embeds.safetensors").touch()
    edit_json(own / "scheduler" / "scheduler_config.json", waves=3)
    assert link(own, tmp_path / "bundle").notes == (
        "safety_checker (StableDiffusionSafetyChecker) is not read: pictures are not checked",
        "image_encoder (CLIPVisionModelWithProjection) is not read: no picture stands in for a prompt, as with an "
        "IP-Adapter",
        "model_index.json: add_watermarker is True, but impasto puts no watermark into pictures",
        "model_index.json: magic is 3, which impasto does not know; it is ignored",
        "learned_embeds.safetensors lies beside the parts: not read; if you want it, import it with `impasto "
        "adapters import`",
        "scheduler/scheduler_config.json: waves: not known, and ignored",
    )


def test_without_an_index_the_folders_beside_the_parts_are_named(own: Path, tmp_path: Path) -> None:
    (own / "image_encoder").mkdir()
    (own / "image_encoder" / "config.json").write_text('{"architectures": ["CLIPVisionModelWithProjection"]}')
    (note,) = link(own, tmp_path / "bundle").notes
    assert note.startswith("image_encoder (CLIPVisionModelWithProjection) is not read")


TEXT_WEIGHTS = "text_encoder/model.safetensors"


def test_layers_behind_those_that_a_text_encoders_config_counts(own: Path, checkpoint: Path, tmp_path: Path) -> None:
    """So CLIP skip is written down: the file keeps its layers, and the config counts fewer."""
    header = read_header(own / TEXT_WEIGHTS)
    last = {name: read_tensor(header, name) for name in header.tensors if ".layers.3." in name}
    more = {name.replace(".layers.3.", ".layers.4.").replace(".", "__"): ("F16", last[name]) for name in last}
    rewrite(own / TEXT_WEIGHTS, "", **more)
    assert len(read_header(own / TEXT_WEIGHTS).tensors) == len(header.tensors) + len(last)
    assert values(link(own, tmp_path / "bundle").folder) == values(link(checkpoint, tmp_path / "plain").folder)


@pytest.mark.parametrize(
    ("version", "pipeline", "side"),
    [
        ("0.8.1", "StableDiffusionPipeline", 512),
        ("0.9.0", "StableDiffusionPipeline", 128),
        ("0.8.1", "LatentConsistencyModelPipeline", 128),
    ],
)
def test_a_size_that_old_configs_have_wrong(own: Path, version: str, pipeline: str, side: int, tmp_path: Path) -> None:
    """As Stable Diffusion's own pipelines correct it."""
    (own / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    edit_json(own / "unet" / "config.json", _diffusers_version=version)
    edit_json(own / "scheduler" / "scheduler_config.json", clip_sample=False)
    assert manifest.load(link(own, tmp_path / "bundle").folder)["image"]["width"] == side


def test_a_part_of_another_class_than_the_family_has(own: Path, tmp_path: Path) -> None:
    index = {"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "ConsistencyDecoderVAE"]}
    (own / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="vae is a ConsistencyDecoderVAE; only a AutoencoderKL can be served"):
        link(own, tmp_path / "bundle")


def test_a_token_that_reads_as_an_embeddings_name_is_named(own: Path, tmp_path: Path) -> None:
    known = len(json.loads((own / "tokenizer" / "vocab.json").read_text()))
    (own / "tokenizer" / "added_tokens.json").write_text(json.dumps({"<cat-toy>": known, "toystyle": known + 1}))
    made = link(own, tmp_path / "bundle")
    problem = "names an embedding in a prompt, not the tokenizer's token; import the token's vector under that name"
    assert made.notes == (f"tokenizer: <cat-toy> {problem}",)
    assert Tokenizer.from_file(str(made.folder / "tokenizer.json")).token_to_id("toystyle") == known + 1
