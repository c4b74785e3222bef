"""`impasto adapters check FILE`: what a file is, for which base model, what is assumed, where it fits, and what not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from impasto_export import cli, manifest
from impasto_export.adapters import bases, layers
from impasto_export.adapters.registry import Registry
from tests.helpers import lora_files
from tests.helpers.lora_files import Form, Shape

BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"
PROJ, CONV = "down_blocks.0.attentions.0.proj_in", "down_blocks.1.resnets.0.conv1"
SD1: Mapping[str, Mapping[str, Shape]] = {
    "unet": {f"{BLOCK}.attn1.to_q": (320, 320), f"{BLOCK}.attn2.to_k": (320, 768)},
    "text_encoder": {"text_model.encoder.layers.0.mlp.fc1": (3072, 768)},
}


def check(place: Path | str, *more: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(cli.adapters, ["check", str(place), "--json", *more])
    return result.exit_code, json.loads(result.stdout) if result.stdout else {"error": result.stderr}


def kohya(path: Path, form: Form = lora_files.lora, **options: Any) -> Path:
    metadata = options.pop("metadata", {})
    return lora_files.write(path, lora_files.kohya(options.pop("layers", SD1), form, **options), **metadata)


def test_a_kohya_lora(tmp_path: Path) -> None:
    tags = {"5_cat": {"a cat": 20, "sitting": 3}, "1_dog": {"sitting": 4}}
    header = {
        "ss_base_model_version": "sd_v1",
        "ss_tag_frequency": json.dumps(tags),
        "modelspec.trigger_phrase": "sks style",
        "modelspec.title": "Cats and dogs",
    }
    code, facts = check(kohya(tmp_path / "x.safetensors", rank=8, alpha=1.0, metadata=header))
    assert code == 0
    assert (facts["kind"], facts["layout"], facts["base"]) == ("LoRA", "kohya", bases.SD1)
    assert facts["because"] == "its cross-attention takes 768 features"
    assert (facts["title"], facts["says"]) == ("Cats and dogs", {"ss_base_model_version": "sd_v1"})
    assert facts["words"] == {"trigger phrase": "sks style", "frequent tags": "a cat, sitting"}
    assert facts["components"] == {"unet": 2, "text_encoder": 1}
    assert (facts["ranks"], facts["alphas"], facts["problems"]) == ({"8": 3}, {"1": 3}, [])
    assert facts["notes"] == ["no --trigger was given: 'sks style' taken, its header's modelspec.trigger_phrase"]
    assert facts["use"].startswith("every request can use it")


def test_what_would_be_assumed(tmp_path: Path) -> None:
    _, facts = check(kohya(tmp_path / "x.safetensors", alpha=None))
    assert facts["alphas"] == {"not stated": 3}
    assert facts["notes"] == ["alpha is not stated: alpha = rank (scale 1) taken for all sites"]


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (lora_files.lora, "LoCon"),
        (lora_files.dora, "DoRA + LoCon"),
        (lora_files.loha_tucker, "LoHa"),
        (lora_files.lokr_whole, "LoKr"),
    ],
)
def test_what_only_merging_can_use(form: Form, kind: str, tmp_path: Path) -> None:
    shapes = {"unet": {CONV: (128, 64, 3, 3), PROJ: (64, 64)}}
    code, facts = check(kohya(tmp_path / "x.safetensors", form, layers=shapes))
    assert (code, facts["kind"]) == (0, kind)
    assert facts["use"].startswith("only `impasto export merge` can use it: ")


@pytest.mark.parametrize(
    ("name", "shape", "base"),
    [
        (f"unet.{BLOCK}.attn2.to_k", (64, 768), bases.SD1),
        (f"unet.{BLOCK}.attn2.to_v", (64, 1024), bases.SD2),
        (f"unet.{BLOCK}.attn2.to_k", (64, 2048), bases.SDXL),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", (64, 1280), bases.SDXL),
        ("clip_g.text_model.encoder.layers.0.self_attn.v_proj", (64, 64), bases.SDXL),
        ("lora_te2_encoder_layers_0_self_attn_v_proj", (64, 64), bases.SDXL),
        ("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k", (64, 2048), bases.SDXL),
        ("lora_te3_encoder_layers_0_self_attn_v_proj", (64, 64), "Stable Diffusion 3, a family that is not served"),
        ("text_encoder.text_model.encoder.layers.0.mlp.fc1", (64, 1024), bases.SD2),
        ("transformer.transformer_layers.3.attn1.to_q", (64, 768), bases.AMUSED),
        ("transformer.single_transformer_blocks.3.attn.to_q", (64, 64), "FLUX, a family that is not served"),
        ("unet.mid_block.attentions.0.proj_in", (64, 64), bases.UNKNOWN),
    ],
)
def test_the_base_model(name: str, shape: Shape, base: str, tmp_path: Path) -> None:
    parts = lora_files.lora(shape, 4, np.random.default_rng(0))
    tensors = {f"{name}.lora_A.weight": parts["lora_down.weight"], f"{name}.lora_B.weight": parts["lora_up.weight"]}
    assert check(lora_files.write(tmp_path / "x.safetensors", tensors))[1]["base"] == base


def test_cross_attention_of_an_unknown_width_is_told(tmp_path: Path) -> None:
    file = kohya(tmp_path / "x.safetensors", layers={"unet": {f"{BLOCK}.attn2.to_k": (64, 128)}})
    facts = check(file)[1]
    assert facts["base"] == bases.UNKNOWN
    assert facts["because"] == "its widths (128) are those of no known base model"


def test_the_base_model_by_the_header_where_the_layers_do_not_tell(tmp_path: Path) -> None:
    header = {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}
    file = kohya(tmp_path / "x.safetensors", layers={"unet": {PROJ: (64, 64)}}, metadata=header)
    assert check(file)[1]["base"] == bases.SDXL


def test_amuseds_trap_is_told(tmp_path: Path) -> None:
    parts = lora_files.lora((64, 64), 16, np.random.default_rng(0))
    site = "transformer.transformer_layers.0.attn1.to_q"
    tensors = {f"{site}.lora_A.weight": parts["lora_down.weight"], f"{site}.lora_B.weight": parts["lora_up.weight"]}
    (note,) = check(lora_files.write(tmp_path / "x.safetensors", tensors))[1]["notes"]
    assert note.endswith("then give --alpha 32")


def test_a_peft_folder(tmp_path: Path) -> None:
    parts = lora_files.lora((64, 64), 4, np.random.default_rng(0))
    tensors = {
        f"base_model.model.mid.to_q.{role}.weight": parts[f"{own}.weight"]
        for role, own in (("lora_A", "lora_down"), ("lora_B", "lora_up"))
    }
    lora_files.write(tmp_path / "unet" / "adapter_model.safetensors", tensors)
    (tmp_path / "unet" / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 6}))
    _, facts = check(tmp_path)
    assert (facts["layout"], facts["components"], facts["alphas"]) == ("peft", {"unet": 1}, {"6": 1})


def test_bottleneck_adapters(tmp_path: Path) -> None:
    entry = {"gelu": "tanh", "shared": False, "sites": {"ff": ["transformer_layers.0.ff"]}}
    pair = {"down": np.ones((12, 4), np.float32), "up": np.ones((4, 12), np.float32)}
    tensors = {f"transformer_layers.0.ff.{role}": part for role, part in pair.items()}
    file = lora_files.write(tmp_path / "x.safetensors", tensors, bottleneck=json.dumps(entry))
    code, facts = check(file)
    assert (code, facts["kind"], facts["layout"], facts["rank"]) == (0, "bottleneck", "studio", "4")
    assert (facts["gelu"], facts["shared"]) == ("tanh", False)
    torch.save({"WD.weight": torch.ones(3, 48), "WU.weight": torch.ones(3, 48)}, tmp_path / "x.pth")
    code, facts = check(tmp_path / "x.pth")
    assert (code, facts["layout"], facts["tables"]) == (0, "styledrop-pytorch", {"WD": "[3, 48]", "WU": "[3, 48]"})
    assert facts["notes"] == ["gelu is not stated: exact taken, as in the code of StyleDrop-PyTorch"]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"<cat>": np.full((2, 768), np.nan, np.float32)}, "<cat> holds NaN or infinity"),
        (
            {"<cat>": np.ones((2, 0), np.float32)},
            r"its tensors: <cat> F32 \[2, 0\]; an embedding's tensors are as wide as a text encoder: 768, 1024",
        ),
        ({"<cat>": np.ones((76, 768), np.float32)}, "has 1 stages of 76 vectors; 1 to 64 stages of 1 to 75 vectors"),
        ({"WD": np.full((1, 4), np.nan, np.float32), "WU": np.ones((1, 4), np.float32)}, "WD holds NaN or infinity"),
    ],
)
def test_what_no_bundle_could_take(tensors: dict[str, Any], message: str, tmp_path: Path) -> None:
    code, facts = check(lora_files.write(tmp_path / "x.safetensors", tensors))
    assert code == 1
    assert re.search(message, facts["error"])


def test_what_is_spoilt_is_of_no_use(tmp_path: Path) -> None:
    tensors = lora_files.kohya(SD1, lora_files.lora)
    next(part for key, part in tensors.items() if key.endswith("lora_up.weight"))[0, 0] = np.nan
    code, facts = check(lora_files.write(tmp_path / "x.safetensors", tensors))
    assert (code, facts["use"], len(facts["problems"])) == (1, "nothing can use it as it is", 1)


def test_an_embedding_and_a_pickled_lora(tmp_path: Path) -> None:
    vectors = {"clip_l": np.ones((2, 768), np.float32), "clip_g": np.ones((2, 1280), np.float32)}
    _, facts = check(lora_files.write(tmp_path / "x.safetensors", vectors))
    assert (facts["kind"], facts["layout"], facts["base"]) == ("embedding", "clip", bases.SDXL)
    torch.save({"unet.mid.to_q.lora_A.weight": torch.ones(2, 6)}, tmp_path / "x.bin")
    code, facts = check(tmp_path / "x.bin")
    assert code == 1
    assert "a LoRA in a pickle; convert it to safetensors first" in facts["problems"]


@pytest.mark.parametrize(("place", "notes"), [("", 0), ("learned_embeds.safetensors", 1)])
def test_an_embedding_in_two_files(place: str, notes: int, tmp_path: Path) -> None:
    for number, width in (("", 768), ("_2", 1280)):
        vectors = {"<cat>": np.ones((2, width), np.float32)}
        lora_files.write(tmp_path / f"learned_embeds{number}.safetensors", vectors)
    code, facts = check(tmp_path / place)
    assert (code, facts["base"], facts["widths"], facts["token"]) == (0, bases.SDXL, ["768", "1280"], "<cat>")
    told = "learned_embeds_2.safetensors beside it was read, too: the vectors for the other text encoder"
    assert facts["notes"] == [told] * notes


def fitting(bundle: Path, *names: str) -> Mapping[str, Mapping[str, Shape]]:
    known = layers.of(manifest.load(bundle), bundle)["unet"]
    return {"unet": {name: known[name].shape for name in names}}


def test_against_a_bundle(bundle: Path, tmp_path: Path) -> None:
    hot = kohya(tmp_path / "hot.safetensors", layers=fitting(bundle, PROJ))
    code, facts = check(hot, "--bundle", str(bundle))
    assert (code, facts["hit"], facts["use"]) == (0, {"unet": 1}, "every request can use it, alone or mixed")
    time = fitting(bundle, PROJ, "down_blocks.1.resnets.0.time_emb_proj")
    code, facts = check(kohya(tmp_path / "time.safetensors", layers=time), "--bundle", str(bundle))
    assert (code, facts["hit"], facts["kind"]) == (0, {"unet": 2}, "LoRA")
    assert facts["use"] == "only `impasto export merge` can use it: it changes layers that take no hot adapters (LoRA)"


def test_what_a_bundle_misses(bundle: Path, tmp_path: Path) -> None:
    shapes = {"unet": {**fitting(bundle, PROJ)["unet"], f"{BLOCK}.attn2.to_k": (640, 2048)}}
    file = kohya(tmp_path / "x.safetensors", layers={**shapes, "text_encoder_2": {"a": (4, 4)}}, names=lora_files.SDXL)
    code, facts = check(file, "--bundle", str(bundle))
    assert (code, facts["base"], facts["use"]) == (1, bases.SDXL, "this bundle cannot use it")
    assert facts["hit"] == {"unet": 2}
    *missed, misfit = facts["problems"]
    assert all("lora_te2_a." in key and "adapts a text_encoder_2" in key for key in missed)
    assert "do not fit its weight [128, 128]; is the adapter for another backbone?" in misfit
    shown = CliRunner().invoke(cli.adapters, ["check", str(file), "--bundle", str(bundle)]).stdout
    assert "components: text_encoder_2 (1); unet (2)\nranks: 4 (3)\nalphas: 2 (3)\n" in shown
    assert "problems (4):\n  lora_te2_a.alpha: adapts" in shown
    imported = ["import", str(file), "--name", "x", "--bundle", str(bundle), "--registry", str(tmp_path / "registry")]
    assert "x.safetensors (made for SDXL): nothing was imported" in CliRunner().invoke(cli.adapters, imported).stderr


def test_an_import_says_what_it_is_for(bundle: Path, tmp_path: Path) -> None:
    file = kohya(tmp_path / "x.safetensors", layers=fitting(bundle, PROJ, CONV), alpha=None)
    place = ["--registry", str(tmp_path / "registry")]
    command = ["import", str(file), "--name", "style", "--bundle", str(bundle), *place]
    shown = CliRunner().invoke(cli.adapters, command).stdout.splitlines()
    assert shown[0].endswith(", to be merged, rank 4, 2 sites")
    assert shown[1:] == [
        "note: alpha is not stated: alpha = rank (scale 1) taken for all sites",
        "note: only `impasto export merge` can use it: it changes convolutions (LoCon)",
    ]
    assert check("style", *place, "--bundle", str(bundle)) == (0, {"name": "style", "problems": []})


def test_the_headers_trigger_phrase_is_taken_over(bundle: Path, tmp_path: Path) -> None:
    header = {"modelspec.trigger_phrase": "sks  style,\nwatercolour"}
    file = kohya(tmp_path / "x.safetensors", layers=fitting(bundle, PROJ), metadata=header)
    place = ["--registry", str(tmp_path / "registry")]
    command = ["import", str(file), "--name", "style", "--bundle", str(bundle), *place]
    note = "no --trigger was given: 'sks style, watercolour' taken, its header's modelspec.trigger_phrase"
    assert CliRunner().invoke(cli.adapters, command).stdout.splitlines()[1:] == [f"note: {note}"]
    shown = CliRunner().invoke(cli.adapters, ["show", "style", *place]).stdout
    assert "trigger: sks style, watercolour\n" in shown
    assert check(file, "--bundle", str(bundle))[1]["notes"] == [note]
    assert "--trigger" not in CliRunner().invoke(cli.adapters, [*command, "--trigger", "ink"]).stdout
    assert "trigger: ink\n" in CliRunner().invoke(cli.adapters, ["show", "style", *place]).stdout


def test_a_delta_of_another_bundle(bundle: Path, masked_bundle: Path, tmp_path: Path) -> None:
    file = kohya(tmp_path / "x.safetensors", layers=fitting(bundle, CONV))
    place = ["--registry", str(tmp_path / "registry")]
    CliRunner().invoke(cli.adapters, ["import", str(file), "--name", "style", "--bundle", str(bundle), *place])
    code, facts = check("style", *place, "--bundle", str(masked_bundle))
    assert code == 1
    assert facts["problems"][-1] == f"unet.{CONV}: the bundle has no such layer"


def test_a_registered_name_comes_before_a_file(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kohya(tmp_path / "style")
    Registry(tmp_path / "registry").put("style", b"no adapter")
    assert "object is damaged" in check("style", "--registry", "registry")[1]["error"]
    assert "no adapter named 'other'" in check("other", "--registry", "registry")[1]["error"]
    assert "there is no such file or folder" in check("./other", "--registry", "registry")[1]["error"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 900), value=st.binary(min_size=1, max_size=12), length=st.integers(0, 2000))
def test_a_damaged_file_is_never_a_traceback(place: int, value: bytes, length: int, tmp_path: Path) -> None:
    file = kohya(tmp_path / "x.safetensors", layers={"unet": {PROJ: (8, 8)}}, rank=2)
    data = bytearray(file.read_bytes())
    data[place : place + len(value)] = value
    file.write_bytes(bytes(data[:length]) if length % 3 else bytes(data))
    result = CliRunner().invoke(cli.adapters, ["check", str(file)])
    assert result.exit_code in (0, 1)
    assert result.exception is None or isinstance(result.exception, SystemExit)
