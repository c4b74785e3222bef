"""Every key of a foreign LoRA is accounted for, or the import fails and says which and why."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impasto_export.adapters import importer, loras, sources
from impasto_export.adapters.importer import Said
from impasto_export.adapters.loras import nameless
from impasto_export.errors import AdapterError, ExportError, UnaccountedKeys
from impasto_export.weights import Header, encode, read_header, read_tensor
from impasto_server.adapters import adapter as adapters

Arrays = dict[str, tuple[str, np.ndarray[Any, Any]]]
SIZES = {"in_features": 6, "out_features": 4}
MANIFEST: dict[str, Any] = {
    "family": "diffusion",
    "architecture": "a" * 64,
    "graphs": {
        "unet": {"sites": [{"name": f"mid.attn1.{name}", **SIZES} for name in ("to_q", "to_out.0")]},
        "text_encoder": {"sites": [{"name": "text_model.layers.0.self_attn.q_proj", **SIZES}]},
    },
}
SITE = "unet.mid.attn1.to_q"


MASKED: dict[str, Any] = {
    "family": "masked",
    "architecture": "b" * 64,
    "graphs": {
        "transformer": {
            "sites": [
                *({"name": f"transformer_layers.0.attn1.{name}", **SIZES} for name in ("to_q", "to_k", "to_v")),
                {"name": "transformer_layers.0.attn1", "in_features": 6, "out_features": 6, "kind": "bottleneck"},
            ]
        },
        "text_encoder": {"sites": [{"name": "text_model.encoder.layers.0.self_attn.q_proj", **SIZES}]},
    },
}
AMUSED = "transformer.transformer_layers.0.attn1"
TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


def pair(
    prefix: str, rank: int = 2, down: str = ".lora_A.weight", up: str = ".lora_B.weight", dtype: str = "F32"
) -> Arrays:
    kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[dtype]
    a = np.arange(rank * 6).reshape(rank, 6).astype(kind)
    b = np.arange(4 * rank).reshape(4, rank).astype(kind)
    return {prefix + down: (dtype, a), prefix + up: (dtype, b)}


def number(value: float) -> tuple[str, np.ndarray[Any, Any]]:
    return "F32", np.array(value, "<f4")


def write(folder: Path, tensors: Arrays, name: str = sources.LORA, **metadata: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(encode(tensors, metadata))
    return folder / name


def write_peft(folder: Path, tensors: Arrays, **config: object) -> Path:
    write(folder, tensors, sources.PEFT)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}))
    return folder


def imported(
    source: Path, tmp_path: Path, bundle: dict[str, Any] = MANIFEST, **said: Any
) -> tuple[Header, dict[str, Any]]:
    made = importer.convert(source, bundle, Said(**said))
    path = tmp_path / "made.safetensors"
    path.write_bytes(made.data)
    header = read_header(path)
    assert json.loads(header.metadata["impasto"]) == nameless(made.record)
    return header, made.record


def scale(header: Header, site: str = SITE) -> float:
    return float(read_tensor(header, f"{site}.scale"))


@pytest.mark.parametrize(
    ("prefix", "down", "up", "site"),
    [
        (SITE, ".lora_A.weight", ".lora_B.weight", SITE),
        (SITE, ".lora.down.weight", ".lora.up.weight", SITE),
        ("unet.mid.attn1.processor.to_q_lora", ".down.weight", ".up.weight", SITE),
        ("unet.mid.attn1.processor.to_out_lora", ".down.weight", ".up.weight", "unet.mid.attn1.to_out.0"),
        (
            "text_encoder.text_model.layers.0.self_attn.q_proj",
            ".lora_linear_layer.down.weight",
            ".lora_linear_layer.up.weight",
            "text_encoder.text_model.layers.0.self_attn.q_proj",
        ),
        (
            "text_encoder.layers.0.self_attn.to_q_lora",
            ".down.weight",
            ".up.weight",
            "text_encoder.text_model.layers.0.self_attn.q_proj",
        ),
    ],
)
def test_diffusers_spellings(prefix: str, down: str, up: str, site: str, tmp_path: Path) -> None:
    header, record = imported(write(tmp_path, pair(prefix, down=down, up=up)), tmp_path)
    assert set(header.tensors) == {f"{site}.A", f"{site}.B", f"{site}.scale"}
    assert read_tensor(header, f"{site}.A").tolist() == np.arange(12.0).reshape(2, 6).T.tolist()
    assert read_tensor(header, f"{site}.B").tolist() == np.arange(8.0).reshape(4, 2).T.tolist()
    assert record["source"]["assumed"] == ["alpha is not stated: alpha = rank (scale 1) taken for all sites"]
    assert scale(header, site) == 1.0


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_dtype_stays(dtype: str, tmp_path: Path) -> None:
    header, record = imported(write(tmp_path, pair(SITE, dtype=dtype)), tmp_path)
    assert header.tensors[f"{SITE}.A"].dtype == dtype
    assert header.tensors[f"{SITE}.A"].shape == (6, 2)
    assert header.tensors[f"{SITE}.scale"].dtype == "F32"
    assert (record["rank"], record["sites"], record["architecture"]) == (2, 1, "a" * 64)


def test_alpha_tensor_wins_over_the_config(tmp_path: Path) -> None:
    config = json.dumps({"unet.r": 2, "unet.lora_alpha": 8})
    source = write(tmp_path, {**pair(SITE), f"{SITE}.alpha": number(1.0)}, lora_adapter_metadata=config)
    assert scale(imported(source, tmp_path)[0]) == 0.5


def test_alpha_may_be_a_bf16_number_without_dimensions(tmp_path: Path) -> None:
    source = write(tmp_path, {**pair(SITE), f"{SITE}.alpha": ("BF16", np.array(0x4080, "<u2"))})
    assert scale(imported(source, tmp_path)[0]) == 4 / 2


def test_alpha_from_the_diffusers_header(tmp_path: Path) -> None:
    config = json.dumps({"unet.r": 2, "unet.lora_alpha": 8, "text_encoder.r": 2, "text_encoder.lora_alpha": 1})
    text = "text_encoder.text_model.layers.0.self_attn.q_proj"
    header, record = imported(write(tmp_path, {**pair(SITE), **pair(text)}, lora_adapter_metadata=config), tmp_path)
    assert (scale(header), scale(header, text)) == (4.0, 0.5)
    assert record["source"]["assumed"] == []


def test_peft_folder_with_patterns_and_rslora(tmp_path: Path) -> None:
    prefix = "base_model.model.mid.attn1"
    tensors = {**pair(f"{prefix}.to_q", 4), **pair(f"{prefix}.to_out.0")}
    source = write_peft(tmp_path, tensors, use_rslora=True, rank_pattern={"to_q": 4}, alpha_pattern={"attn1.to_q": 6})
    header, record = imported(source, tmp_path)
    assert scale(header) == pytest.approx(6 / math.sqrt(4))
    assert scale(header, "unet.mid.attn1.to_out.0") == pytest.approx(4 / math.sqrt(2))
    assert record["source"]["layout"] == "peft"
    assert record["rank"] == 4


def test_peft_folders_of_both_components(tmp_path: Path) -> None:
    write_peft(tmp_path / "unet", pair("base_model.model.mid.attn1.to_q"))
    write_peft(tmp_path / "text_encoder", pair("base_model.model.layers.0.self_attn.q_proj"), lora_alpha=6)
    header, record = imported(tmp_path, tmp_path)
    assert (scale(header), scale(header, "text_encoder.text_model.layers.0.self_attn.q_proj")) == (2.0, 3.0)
    assert record["source"]["file"] == "unet/adapter_model.safetensors, text_encoder/adapter_model.safetensors"


def test_same_source_same_bytes(tmp_path: Path) -> None:
    source = write(tmp_path, pair(SITE))
    assert importer.convert(source, MANIFEST).data == importer.convert(source, MANIFEST).data


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (f"{SITE}.lora_A.bias", "LoRA with a bias"),
        (f"{SITE}.lora_embedding_A", "LoRA of an embedding table"),
        (f"{SITE}.oft_diag", "OFT rotates"),
        (f"{SITE}.on_input", "IA3 scales"),
        (f"{SITE}.diff", "a weight's whole change"),
        (f"{SITE}.diff_b", "a bias's whole change"),
        (f"{SITE}.w_norm", "a normalisation's change"),
        (f"{SITE}.lokr_t1", "core in its first factor"),
        ("bundle_emb.cat.string_to_param.*", "an embedding within a LoRA file"),
        ("unet.mid.attn1.to_v.lora_A.weight", "names no layer of this backbone"),
        ("unet.conv_in.bias", "not a LoRA key"),
        ("lora_unet_mid_attn1_to_v.lora_down.weight", "names no layer of this backbone"),
        ("lora_te2_text_model_layers_0_self_attn_q_proj.alpha", "adapts a text_encoder_2, which this backbone"),
        ("text_encoder_2.layers.0.self_attn.q_proj.lora_A.weight", "adapts a text_encoder_2, which this backbone"),
        ("transformer.blocks.0.to_q.lora_A.weight", "adapts a transformer, which this backbone"),
        ("unet.mid.attn1.to_out.0.alpha", "has alpha, which are incomplete"),
        ("unet.mid.attn1.to_out.0.hada_w1_a", "has hada_w1_a, which are incomplete"),
    ],
)
def test_unaccounted_keys_are_named_with_the_reason(key: str, reason: str, tmp_path: Path) -> None:
    source = write(tmp_path, {**pair(SITE), key: ("F32", np.ones((2, 6), "<f4"))})
    with pytest.raises(UnaccountedKeys, match=reason) as raised:
        importer.convert(source, MANIFEST)
    (named,) = raised.value.keys
    assert named.startswith(key.removesuffix(".alpha").removesuffix(".hada_w1_a"))


def test_two_spellings_of_one_tensor_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path, {**pair(SITE), **pair(SITE, down=".lora.down.weight", up=".lora.up.weight")})
    with pytest.raises(UnaccountedKeys, match=f"a second down for {SITE}"):
        importer.convert(source, MANIFEST)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is IA3; LORA, LOHA, LOKR are read"),
        ({"use_dora": True}, "its config says use_dora, but it has no magnitude"),
        ({"lora_bias": True}, "bias"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base weights"),
        ({"r": 3}, "rank 2, its config says 3"),
        ({"lora_alpha": "much"}, "the LoRA config cannot be used"),
        ({"r": 0}, "a rank of 0"),
        ({"r": math.inf}, "the LoRA config cannot be used: OverflowError"),
        ({"peft_type": {"a": 1}}, "peft_type is {'a': 1}; LORA, LOHA"),
        ({"lora_alpha": math.inf}, "its alpha is inf; a finite number is expected"),
        ({"rank_pattern": {"to_q(": 2}}, "the LoRA config cannot be used"),
        ({"rank_pattern": ["to_q"]}, "the LoRA config cannot be used"),
    ],
)
def test_configs_that_cannot_be_honoured(config: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=message):
        importer.convert(write_peft(tmp_path, pair("base_model.model.mid.attn1.to_q"), **config), MANIFEST)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds no tensors; get the file again"),
        ({**pair(SITE), f"{SITE}.lora_A.weight": ("F32", np.ones((2, 7), "<f4"))}, "another backbone"),
        ({**pair(SITE), f"{SITE}.lora_B.weight": ("F32", np.ones((4, 3), "<f4"))}, "another backbone"),
        ({**pair(SITE), f"{SITE}.lora_A.weight": ("F32", np.full((2, 6), np.nan, "<f4"))}, "down holds NaN"),
        (
            {**pair(SITE), f"{SITE}.lora_A.weight": ("BF16", np.full((2, 6), 0x7F80, "<u2"))},
            "down holds NaN or infinity",
        ),
        ({**pair(SITE), f"{SITE}.lora_A.weight": ("I32", np.ones((2, 6), "<i4"))}, "has dtype I32"),
        ({**pair(SITE), f"{SITE}.alpha": ("F32", np.ones(2, "<f4"))}, "a single number"),
    ],
)
def test_bad_tensors(tensors: Arrays, message: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=message):
        importer.convert(write(tmp_path, tensors), MANIFEST)


def test_truncated_files(tmp_path: Path) -> None:
    source = write(tmp_path, pair(SITE))
    data = source.read_bytes()
    for length in (0, 4, 30, len(data) - 1):
        source.write_bytes(data[:length])
        with pytest.raises(ExportError, match="cut short"):
            importer.convert(source, MANIFEST)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[" * 5000, "it is nested too deeply"),
        (b"[]", "'list' object is not a mapping"),
        (b'{"__metadata__": [1]}', "'list' object is not a mapping"),
        (b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 0]}}', "infinity"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "4 bytes for a F32 tensor of shape"),
    ],
)
def test_headers_that_lie(header: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ExportError, match=f"x.safetensors: its safetensors header cannot be read .*{message}.*; get"):
        importer.convert(tmp_path / "x.safetensors", MANIFEST)


def test_a_header_of_nine_megabytes(tmp_path: Path) -> None:
    """sd-scripts writes the tags of every caption into it; none of that goes on into the registry."""
    source = write(tmp_path, pair(SITE), ss_tag_frequency=json.dumps({"img": {"a caption": 1}}) + " " * (9 << 20))
    made = importer.convert(source, MANIFEST)
    assert made.record["sites"] == 1
    assert len(made.data) < 2000


def test_a_header_that_is_longer_than_safetensors_allows(tmp_path: Path) -> None:
    source = tmp_path / "x.safetensors"
    with source.open("wb") as file:  # a sparse one
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(100_000_009)
    with pytest.raises(ExportError, match="x.safetensors: its header has 100000001 bytes, but safetensors allows 1"):
        importer.convert(source, MANIFEST)


def test_what_is_imported_has_a_header_that_servers_read(tmp_path: Path) -> None:
    source = write(tmp_path, pair(SITE), **{"modelspec.trigger_phrase": "ink " * (1 << 18)})
    with pytest.raises(AdapterError, match=r"its header would have \d+ bytes, but servers read up to 1048576; it h"):
        importer.convert(source, MANIFEST)
    assert importer.convert(source, MANIFEST, Said(trigger="ink")).record["trigger"] == "ink"
    assert loras.MAX_OWN_HEADER == adapters.MAX_HEADER


def test_a_second_adapter_in_one_file_is_not_dropped(tmp_path: Path) -> None:
    """PEFT's names of adapters are no part of a layer's."""
    both = {**pair(SITE, down=".lora_A.default.weight", up=".lora_B.default.weight"), **pair(SITE)}
    with pytest.raises(UnaccountedKeys, match=f"{SITE}.lora_A.weight: a second down for {SITE}"):
        importer.convert(write(tmp_path, both), MANIFEST)


@pytest.mark.parametrize("key", [f"{SITE}.lora_B.default.bias", f"{SITE}.lora_embedding_A.default"])
def test_what_is_refused_is_so_under_an_adapters_name(key: str, tmp_path: Path) -> None:
    source = write(tmp_path, {**pair(SITE), key: ("F32", np.ones((2, 6), "<f4"))})
    with pytest.raises(UnaccountedKeys, match=f"{key}: LoRA "):
        importer.convert(source, MANIFEST)


def test_metadata_that_is_nested_too_deeply(tmp_path: Path) -> None:
    source = write(tmp_path, pair(SITE), lora_adapter_metadata="[" * 5000)
    with pytest.raises(AdapterError, match="lora_adapter_metadata is not JSON: it is nested too deeply"):
        importer.convert(source, MANIFEST)


def test_factors_with_nothing_in_them(tmp_path: Path) -> None:
    nothing = {key: (kind, array.reshape(-1)[:0].reshape(0, 6)) for key, (kind, array) in pair(SITE).items()}
    with pytest.raises(UnaccountedKeys, match=r"down has shape \[0, 6\]: it is empty"):
        importer.convert(write(tmp_path, nothing), MANIFEST)


def test_a_checkpoint_is_no_adapter(tmp_path: Path) -> None:
    """Though its keys hold ".diff", as do those of a weight's whole change."""
    key = "model.diffusion_model.input_blocks.0.0.weight"
    source = write(tmp_path, {key: ("F32", np.ones((2, 6), "<f4"))}, "painted.safetensors")
    with pytest.raises(
        AdapterError, match="painted.safetensors is a checkpoint, not an adapter; link it with `impasto"
    ):
        importer.convert(source, MANIFEST)


def test_pickles_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="holds none of pytorch_lora_weights.safetensors, adapter_model"):
        importer.convert(tmp_path, MANIFEST)
    torch.save({f"{SITE}.lora_A.weight": torch.ones(2, 6)}, tmp_path / "pytorch_lora_weights.bin")
    with pytest.raises(AdapterError, match="a LoRA in a pickle; convert it to safetensors first"):
        importer.convert(tmp_path / "pytorch_lora_weights.bin", MANIFEST)
    (tmp_path / "lora.gguf").write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(ExportError, match="lora.gguf is not a safetensors file, or is cut short"):
        importer.convert(tmp_path / "lora.gguf", MANIFEST)


def amused(folder: Path) -> Path:
    """What aMUSEd's `save_lora_weights` leaves behind: three sites of rank 16, one of rank 4, and no alpha."""
    layers = [pair(f"{AMUSED}.{name}", 16) for name in ("to_q", "to_k", "to_v")]
    return write(folder, {key: value for layer in (*layers, pair(TEXT, 4)) for key, value in layer.items()})


def test_what_diffusers_writes_for_amused(tmp_path: Path) -> None:
    from diffusers.loaders import AmusedLoraLoaderMixin

    layers = {f"transformer_layers.0.attn1.to_k.lora_{role}.weight": torch.ones(4, 4) for role in "AB"}
    layers["transformer_layers.0.attn1.to_k.lora_A.weight"] = torch.ones(4, 6)
    AmusedLoraLoaderMixin.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    header, _ = imported(tmp_path, tmp_path, MASKED, alpha=2.0)
    assert scale(header, f"{AMUSED}.to_k") == 0.5


def test_amused_loras_say_what_they_do_not_state(tmp_path: Path) -> None:
    header, record = imported(amused(tmp_path), tmp_path, MASKED)
    assert (record["family"], record["kind"], record["sites"], record["rank"]) == ("masked", "lora", 4, 16)
    (assumed,) = record["source"]["assumed"]
    assert assumed.startswith("alpha is not stated: alpha = rank (scale 1) taken for all sites; aMUSEd's trainer")
    assert "r=16, alpha=32 is at half strength so: then give --alpha 32" in assumed
    assert (scale(header, f"{AMUSED}.to_q"), scale(header, TEXT)) == (1.0, 1.0)
    assert "given" not in record["source"]


@given(alpha=st.floats(1e-30, 1e30))
def test_the_users_alpha_is_divided_by_each_sites_rank(alpha: float) -> None:
    with TemporaryDirectory() as folder:
        header, record = imported(amused(Path(folder)), Path(folder), MASKED, alpha=alpha)
        assert scale(header, f"{AMUSED}.to_q") == pytest.approx(alpha / 16)
        assert scale(header, TEXT) == pytest.approx(alpha / 4)
    assert (record["source"]["assumed"], record["source"]["given"]) == ([], {"alpha": alpha})


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf, -math.inf, 1e300, 1e-300])
def test_an_alpha_that_is_no_scale(alpha: float, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="--alpha: got .*; a finite number above 0"):
        importer.convert(amused(tmp_path), MASKED, Said(alpha=alpha))


def test_a_file_that_states_its_alpha_takes_no_other(tmp_path: Path) -> None:
    site = f"{AMUSED}.to_q"
    stated = [
        write(tmp_path / "tensor", {**pair(site), f"{site}.alpha": number(8.0)}),
        write(
            tmp_path / "header",
            pair(site),
            lora_adapter_metadata=json.dumps({"transformer.r": 2, "transformer.lora_alpha": 8}),
        ),
        write_peft(tmp_path / "folder", pair("base_model.model.transformer_layers.0.attn1.to_q"), lora_alpha=8),
    ]
    for source in stated:
        assert scale(imported(source, tmp_path, MASKED)[0], site) == 4.0
        with pytest.raises(
            AdapterError, match="--alpha: got 32, but the source itself states 8 for transformer_layers"
        ):
            importer.convert(source, MASKED, Said(alpha=32))


def test_peft_folders_of_a_masked_backbone(tmp_path: Path) -> None:
    write_peft(tmp_path / "transformer", pair("base_model.model.transformer_layers.0.attn1.to_v"))
    write_peft(tmp_path / "text_encoder", pair("base_model.model.text_model.encoder.layers.0.self_attn.q_proj"))
    header, record = imported(tmp_path, tmp_path, MASKED)
    assert (scale(header, f"{AMUSED}.to_v"), scale(header, TEXT)) == (2.0, 2.0)
    assert record["source"]["file"] == "transformer/adapter_model.safetensors, text_encoder/adapter_model.safetensors"


@pytest.mark.parametrize(
    ("prefix", "bundle", "message"),
    [
        (SITE, MASKED, "its keys name a unet, so it is for a bundle of the family diffusion; this one's is masked"),
        (
            f"{AMUSED}.to_q",
            MANIFEST,
            "its keys name a transformer, so it is for a bundle of the family masked; this one's is diffusion",
        ),
    ],
)
def test_the_other_family_is_one_error(prefix: str, bundle: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=f"{message}. Import it with --bundle") as raised:
        importer.convert(write(tmp_path, pair(prefix)), bundle)
    assert not isinstance(raised.value, UnaccountedKeys)


def test_a_bottlenecks_site_takes_no_lora(tmp_path: Path) -> None:
    with pytest.raises(UnaccountedKeys, match="attn1.lora_A.weight: names no layer"):
        importer.convert(write(tmp_path, pair(AMUSED)), MASKED)


def test_the_prompt_of_its_training(tmp_path: Path) -> None:
    template = "{context} in stained glass style"
    assert imported(write(tmp_path, pair(SITE)), tmp_path, prompt=template)[1]["prompt"] == template
    assert "prompt" not in imported(write(tmp_path, pair(SITE)), tmp_path)[1]


@pytest.mark.parametrize("template", ["in stained glass style", "{context} {context}", "{context} in {style}"])
def test_prompts_that_are_no_template(template: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="--prompt: got .*; it must contain {context} once"):
        importer.convert(write(tmp_path, pair(SITE)), MANIFEST, Said(prompt=template))


XL: dict[str, Any] = {
    **MANIFEST,
    "graphs": {**MANIFEST["graphs"], "text_encoder_2": MANIFEST["graphs"]["text_encoder"]},
}
LAYER = "layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "key",
    [
        "text_encoder_2.text_model.layers.0.self_attn.q_proj.lora_A.weight",
        "text_encoder_2.text_model.layers.0.self_attn.q_proj.lora_linear_layer.down.weight",
        "text_encoder_2.layers.0.self_attn.to_q_lora.down.weight",
        "lora_te2_text_model_layers_0_self_attn_q_proj.lora_down.weight",
    ],
)
def test_the_second_text_encoder(key: str, tmp_path: Path) -> None:
    other = {"A": "B", "down": "up"}
    role = next(role for role in other if f"{role}.weight" in key)
    tensors = pair(key.removesuffix(f"{role}.weight"), down=f"{role}.weight", up=f"{other[role]}.weight")
    header, _ = imported(write(tmp_path, tensors), tmp_path, XL)
    assert set(header.tensors) == {f"text_encoder_2.text_model.{LAYER}.{part}" for part in ("A", "B", "scale")}


def test_peft_folders_of_two_text_encoders(tmp_path: Path) -> None:
    """Their layers have the same names: the folder tells which."""
    write_peft(tmp_path / "text_encoder", pair(f"base_model.model.{LAYER}"), lora_alpha=6)
    write_peft(tmp_path / "text_encoder_2", pair(f"base_model.model.text_model.{LAYER}"), lora_alpha=8)
    header, _ = imported(tmp_path, tmp_path, XL)
    assert scale(header, f"text_encoder.text_model.{LAYER}") == 3.0
    assert scale(header, f"text_encoder_2.text_model.{LAYER}") == 4.0
    with pytest.raises(
        UnaccountedKeys, match="may belong to text_encoder or text_encoder_2; put its file into a folder"
    ):
        importer.convert(tmp_path / "text_encoder_2", XL)


def test_a_peft_folder_for_a_component_that_is_not_there(tmp_path: Path) -> None:
    write_peft(tmp_path / "text_encoder_2", pair(f"base_model.model.{LAYER}"))
    with pytest.raises(UnaccountedKeys, match="adapts a text_encoder_2, which this backbone does not have"):
        importer.convert(tmp_path, MANIFEST)


def test_lycoris_own_prefix(tmp_path: Path) -> None:
    source = write(tmp_path, pair("lycoris_mid_attn1_to_q", down=".lora_down.weight", up=".lora_up.weight"))
    assert f"{SITE}.A" in imported(source, tmp_path)[0].tensors


@pytest.mark.parametrize(("kind", "alpha"), [("LOHA", 6.0), ("LOKR", 6.0)])
def test_peft_calls_alpha_otherwise_in_other_kinds(kind: str, alpha: float, tmp_path: Path) -> None:
    """And a LoKr of whole factors has a rank in its config alone."""
    loha = {f"hada_w{number}_a": np.ones((4, 3), "<f4") for number in (1, 2)}
    loha |= {f"hada_w{number}_b": np.ones((3, 6), "<f4") for number in (1, 2)}
    lokr = {"lokr_w1": np.ones((2, 2), "<f4"), "lokr_w2": np.ones((2, 3), "<f4")}
    parts = loha if kind == "LOHA" else lokr
    tensors: Arrays = {f"base_model.model.mid.attn1.to_q.{name}": ("F32", part) for name, part in parts.items()}
    source = write_peft(tmp_path, tensors, peft_type=kind, r=3, alpha=alpha)
    header, record = imported(source, tmp_path)
    assert (record["kind"], record["forms"]) == ("delta", [kind.lower()])
    assert scale(header) == 2.0


def test_dora_of_a_site(tmp_path: Path) -> None:
    norms = {f"{SITE}.lora_magnitude_vector": ("F32", np.array([1, 2, 3, 4], "<f4"))}
    header, record = imported(write(tmp_path, {**pair(SITE), **norms}), tmp_path)
    assert (record["kind"], record["forms"], record["sites"]) == ("delta", ["dora"], 1)
    assert read_tensor(header, f"{SITE}.magnitude").tolist() == [[1], [2], [3], [4]]
    assert set(header.tensors) == {f"{SITE}.{role}" for role in ("down", "up", "magnitude", "scale")}
