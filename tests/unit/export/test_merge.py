"""`merge`: only what an adapter changes is written anew, rounded once; the rest is linked; what cannot be is said."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from impasto_export import cli, manifest, parameters, splice
from impasto_export.adapters.registry import Registry
from impasto_export.checkpoints.checkpoint import Said
from impasto_export.errors import AdapterError, BundleError, DiskFull, ExportError, MergeError, RegistryError
from impasto_export.link import link
from impasto_export.merging import blends, mixes
from impasto_export.merging.merge import merge
from impasto_export.weights import encode, read_header
from tests.helpers import checkpoints, originals
from tests.helpers.folders import leftovers
from tests.helpers.stored import values

RANK = 2
MERGED = "merged.safetensors"
LINEAR = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "mid_block.resnets.0.conv1"
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"
Tensors = dict[str, tuple[str, NDArray[Any]]]


def shape(bundle: Path, graph: str, module: str) -> tuple[int, ...]:
    return parameters.of(bundle, manifest.load(bundle))[graph][f"{module}.weight"].tensor.shape


def lora(bundle: Path, seed: int, graph: str = "unet", module: str = LINEAR) -> Tensors:
    """A plain LoRA's tensors of one layer, as impasto stores them."""
    rng = np.random.default_rng(seed)
    out, into = shape(bundle, graph, module)
    return {
        f"{graph}.{module}.A": ("F32", rng.standard_normal((into, RANK)).astype("<f4")),
        f"{graph}.{module}.B": ("F32", rng.standard_normal((RANK, out)).astype("<f4")),
        f"{graph}.{module}.scale": ("F32", np.array(0.5, "<f4")),
    }


def locon(bundle: Path, seed: int) -> Tensors:
    rng = np.random.default_rng(seed)
    out, *into = shape(bundle, "unet", CONV)
    return {
        f"unet.{CONV}.down": ("F32", rng.standard_normal((RANK, *into)).astype("<f4")),
        f"unet.{CONV}.up": ("F32", rng.standard_normal((out, RANK, 1, 1)).astype("<f4")),
        f"unet.{CONV}.scale": ("F32", np.array(0.5, "<f4")),
    }


def put(registry: Registry, name: str, bundle: Path, tensors: Tensors, **record: object) -> str:
    facts = manifest.load(bundle)
    usual = {"format": 1, "kind": "lora", "family": facts["family"], "architecture": facts["architecture"]}
    return registry.put(name, encode(tensors, {"impasto": json.dumps({**usual, **record})}))


@pytest.fixture
def registry(bundle: Path, tmp_path: Path) -> Registry:
    """`one` and `two` change the same layer, `text` the text encoder's, `conv` a convolution."""
    made = Registry(tmp_path / "registry")
    put(made, "one", bundle, lora(bundle, 1))
    put(made, "two", bundle, lora(bundle, 2))
    put(made, "text", bundle, lora(bundle, 3, "text_encoder", TEXT))
    put(made, "conv", bundle, locon(bundle, 4), kind="delta", forms=["locon"])
    return made


def weight(bundle: Path, graph: str, module: str) -> NDArray[Any]:
    found = parameters.of(bundle, manifest.load(bundle))[graph][f"{module}.weight"]
    return parameters.values(bundle, module, found)


def test_changed_weights_lie_in_one_more_file_and_the_rest_is_linked(
    bundle: Path, registry: Registry, tmp_path: Path
) -> None:
    made = merge(bundle, [("one", 0.8), ("text", 1.0)], tmp_path / "merged", registry)
    record, base = manifest.load(made.folder), manifest.load(bundle)
    assert set(read_header(made.folder / MERGED).tensors) == {
        f"unet.{LINEAR}.weight",
        f"text_encoder.{TEXT}.weight",
    }
    same = {path.name for path in bundle.iterdir() if path.samefile(made.folder / path.name)}
    graphs = {f"{name}{kind}.onnx" for name in ("unet", "text_encoder") for kind in ("", ".plain")}
    assert {path.name for path in bundle.iterdir()} - same == {*graphs, manifest.NAME}
    assert {key: record[key] for key in base if key not in ("weights", "files", "digest")} == {
        key: base[key] for key in base if key not in ("weights", "files", "digest")
    }
    assert record["weights"].keys() == base["weights"].keys() | {MERGED}
    assert record["digest"] != base["digest"]
    assert (made.tensors, made.file, made.copied) == (2, MERGED, ())


def test_what_was_merged_is_recorded_and_merging_again_adds_to_it(
    bundle: Path, registry: Registry, tmp_path: Path
) -> None:
    """Tensors that the second mix leaves alone move into the new file as they are."""
    first = merge(bundle, [("one", 0.8), ("text", 1.0)], tmp_path / "first", registry).folder
    second = merge(first, [("one", -0.5), ("conv", 1.0)], tmp_path / "second", registry).folder
    record = manifest.load(second)
    assert [(item["name"], item["weight"]) for item in record["merged"]] == [
        ("one", 0.8), ("text", 1.0), ("one", -0.5), ("conv", 1.0)
    ]  # fmt: skip
    assert record["merged"][0]["digest"] == registry.show("one").digest
    assert len(read_header(second / MERGED).tensors) == 3
    assert np.array_equal(weight(second, "text_encoder", TEXT), weight(first, "text_encoder", TEXT))
    assert not np.array_equal(weight(second, "unet", LINEAR), weight(first, "unet", LINEAR))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_arithmetic_is_float32_with_one_rounding(dtype: torch.dtype, tmp_path: Path) -> None:
    """Bit for bit what torch gets that way."""
    bundle = link(checkpoints.save(tmp_path / "checkpoint", 1, dtype), tmp_path / "bundle").folder
    registry, (one, two) = Registry(tmp_path / "registry"), (lora(bundle, seed) for seed in (1, 2))
    put(registry, "one", bundle, one)
    put(registry, "two", bundle, two)
    made = merge(bundle, [("one", 0.8), ("two", -0.3)], tmp_path / "merged", registry).folder
    exact: NDArray[Any] = torch.from_numpy(weight(bundle, "unet", LINEAR).copy()).view(dtype).float().numpy()
    for tensors, strength in ((one, 0.8), (two, -0.3)):
        a, b, scale = (value for _, value in tensors.values())
        exact = exact + np.float32(strength * float(scale)) * (a @ b).T
    expected = torch.from_numpy(exact).to(dtype)
    found = torch.from_numpy(weight(made, "unet", LINEAR).copy()).view(dtype)
    assert torch.equal(found, expected)


def test_halves_round_to_even() -> None:
    """1 + 2^-8 lies between two bf16 numbers, 1 and 1 + 2^-7; 1 + 3 · 2^-8 between this and 1 + 2^-6."""
    found = blends._rounded(np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8], np.float32), "BF16")
    assert found.tolist() == [0x3F80, 0x3F82, 0xBF80]


def test_the_order_of_linear_forms_does_not_matter(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    """Up to float32's own: in fp16 that is at most the last place of a few weights."""
    mix = [("one", 0.8), ("two", -0.5), ("conv", 1.0)]
    ways = [merge(bundle, order, tmp_path / f"{order[0][0]}", registry).folder for order in (mix, mix[::-1])]
    for module in (LINEAR, CONV):
        here, there = (weight(way, "unet", module) for way in ways)
        assert np.abs(here.astype(np.float32) - there).max() <= 2**-10 * np.abs(here).max()


def test_a_tensor_that_two_graphs_read_is_merged_once_for_both(
    bundle: Path, registry: Registry, tmp_path: Path
) -> None:
    """Two graphs of one component: here the skeleton of the UNet stands in the bundle twice."""
    twin = tmp_path / "twin"
    twin.mkdir()
    record = manifest.load(bundle)
    for name in (*record["files"], *record["weights"]):
        (twin / name).hardlink_to(bundle / name)
    (twin / "twin.onnx").hardlink_to(bundle / "unet.onnx")
    record["graphs"]["twin"] = {**record["graphs"]["unet"], "file": "twin.onnx"}
    record["files"]["twin.onnx"] = record["files"]["unet.onnx"]
    record["digest"] = manifest.digest(record)
    (twin / manifest.NAME).write_text(json.dumps(record))
    made = merge(twin, [("one", 0.8)], tmp_path / "merged", registry).folder
    assert len(read_header(made / MERGED).tensors) == 1
    assert np.array_equal(weight(made, "unet", LINEAR), weight(made, "twin", LINEAR))
    assert not np.array_equal(weight(made, "twin", LINEAR), weight(bundle, "unet", LINEAR))


def test_weights_of_a_single_file_are_merged_as_a_folders(
    bundle: Path, checkpoint: Path, registry: Registry, tmp_path: Path
) -> None:
    """All graphs point into one file, and the text encoder's q, k and v are thirds of one tensor there."""
    skeleton = originals.skeleton(tmp_path / "skeleton", originals.OPEN_CLIP)
    file = originals.write(tmp_path / "one.safetensors", originals.tensors(checkpoint, skeleton))
    said = Said(prediction="v_prediction", tokenizer=checkpoint)
    single = link(file, tmp_path / "single", [skeleton], said).folder
    mix = [("one", 0.8), ("text", 1.0), ("conv", 1.0)]
    ours, theirs = (merge(base, mix, tmp_path / f"merged-{base.name}", registry).folder for base in (single, bundle))
    assert values(ours) == values(theirs) != values(bundle)


def test_the_graph_without_sites_has_the_merged_weights_too(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    made = merge(bundle, [("one", 0.8)], tmp_path / "merged", registry).folder
    facts = manifest.load(made)["graphs"]["unet"]
    found = parameters.of(made, {"graphs": {key: {"file": facts[key]} for key in ("file", "plain")}})
    assert found["plain"] == found["file"]
    assert [name for name, parameter in found["plain"].items() if parameter.file == MERGED] == [f"{LINEAR}.weight"]


def test_a_controlnet_is_left_alone(controlled_bundle: Path, registry: Registry, tmp_path: Path) -> None:
    """Its parameters have the UNet's names."""
    made = merge(controlled_bundle, [("one", 0.8), ("conv", 1.0)], tmp_path / "merged", registry).folder
    for name in ("controlnet.onnx", "controlnet.safetensors"):
        assert (made / name).samefile(controlled_bundle / name)


def test_pins_stand_beside_the_bundle(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    first = merge(bundle, [("one", 0.8), ("text", 1.0)], tmp_path / "pinned", registry, pin=True)
    second = merge(first.folder, [("conv", 1.0)], tmp_path / "pinned", registry, pin=True)
    record = manifest.load(second.folder)
    assert all(path.samefile(second.folder / path.name) for path in bundle.iterdir() if path.name != manifest.NAME)
    assert [entry["graphs"].keys() for entry in record["pinned"]] == [{"unet", "text_encoder"}, {"unet"}]
    assert [entry["adapters"][0]["name"] for entry in record["pinned"]] == ["one", "conv"]
    files = {graph["file"] for entry in record["pinned"] for graph in entry["graphs"].values()}
    for file in files:
        inputs = [value.name for value in splice.read(second.folder / file).graph.input]
        assert not [name for name in inputs if "." in name or name.startswith("lora_")], "who runs it has no adapter"
    assert files < record["files"].keys()
    assert {first.file, second.file} < record["weights"].keys()
    held = {path.name for path in second.folder.iterdir()}
    assert held == {*record["files"], *record["weights"], manifest.NAME}
    assert "merged" not in record


def test_a_pinned_mix_is_known_in_any_order(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    mix = [("one", 0.8), ("two", 0.5)]
    made = merge(bundle, mix, tmp_path / "pinned", registry, pin=True).folder
    with pytest.raises(MergeError, match="already has this mix pinned"):
        merge(made, mix[::-1], tmp_path / "again", registry, pin=True)


def test_a_pinned_mix_has_the_merged_weights(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    """Bit for bit, and its graph reads them in the merged one's places."""
    mix = [("one", 0.8), ("conv", 1.0)]
    pinned, merged = (merge(bundle, mix, tmp_path / f"{pin}", registry, pin).folder for pin in (True, False))
    (entry,) = manifest.load(pinned)["pinned"]
    ours, theirs = parameters.of(pinned, entry)["unet"], parameters.of(merged, manifest.load(merged))["unet"]
    assert ours.keys() == theirs.keys()
    for name, found in ours.items():
        assert np.array_equal(parameters.values(pinned, name, found), parameters.values(merged, name, theirs[name]))


def test_a_mix_that_no_request_may_have_is_not_pinned(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(
        MergeError, match="'one' has the weight 4.5, but requests can only ask for -4 to 4; merge it without --pin"
    ):
        merge(bundle, [("one", 4.5)], tmp_path / "pinned", registry, pin=True)
    assert merge(bundle, [("one", 4.5)], tmp_path / "merged", registry).tensors == 1


def test_a_bundle_with_pins_is_not_merged_into(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    made = merge(bundle, [("one", 0.8)], tmp_path / "pinned", registry, pin=True).folder
    with pytest.raises(MergeError, match="has pinned mixes, which would keep the old weights; merge"):
        merge(made, [("two", 0.5)], tmp_path / "merged", registry)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one:", "got 'one:'; expected NAME:WEIGHT, with a weight other than 0"),
        ("one:strong", "got 'one:strong'"),
        ("one:0", "got 'one:0'"),
        ("one:nan", "got 'one:nan'"),
        ("one:1e39", "got 'one:1e39'"),
        ("one:1e-50", "got 'one:1e-50'"),
        ("one:-inf", "got 'one:-inf'"),
        ("one:0.8:2", "got 'one:0.8:2'"),
    ],
)
def test_weights_that_are_none(text: str, message: str) -> None:
    with pytest.raises(MergeError, match=message):
        mixes.parse([text])


def test_mixes_are_parsed_in_their_order() -> None:
    assert mixes.parse(["b:-0.5", "a"]) == [("b", -0.5), ("a", 1.0)]
    with pytest.raises(MergeError, match="'a' is named twice; name it once, with its whole weight"):
        mixes.parse(["a:0.5", "b", "a:1"])


def test_one_adapter_under_two_names(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    put(registry, "alias", bundle, lora(bundle, 1))
    with pytest.raises(MergeError, match="'one' and 'alias' are the same adapter; name it once"):
        merge(bundle, [("one", 0.5), ("alias", 0.5)], tmp_path / "merged", registry)


BAD: Mapping[str, tuple[dict[str, Any], str]] = {
    "bottleneck": ({"kind": "bottleneck"}, "'bad' is a bottleneck adapter, which puts a gelu after a layer, so no"),
    "embedding": ({"kind": "embedding"}, "'bad' is an embedding, which prompts use and which changes no weight"),
    "kind": ({"kind": "hypernetwork"}, "'bad' is of the kind 'hypernetwork', which cannot be merged"),
    "family": (
        {"family": "masked"},
        "'bad' is for the family masked, the bundle's is diffusion; import its source again for this",
    ),
    "architecture": ({"architecture": "a" * 64}, "'bad' is for the architecture aaaaaaaaaaaa, the bundle's is"),
}


@pytest.mark.parametrize("case", BAD)
def test_adapters_that_cannot_be_merged(bundle: Path, registry: Registry, tmp_path: Path, case: str) -> None:
    record, message = BAD[case]
    put(registry, "bad", bundle, lora(bundle, 1), **record)
    with pytest.raises(AdapterError, match=message):
        merge(bundle, [("bad", 1.0)], tmp_path / "merged", registry)


def test_layers_that_the_bundle_does_not_have_are_named(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    tensors = {key.replace("mid_block", "middle"): value for key, value in lora(bundle, 1).items()}
    put(registry, "bad", bundle, {**tensors, **lora(bundle, 2)})
    with pytest.raises(AdapterError, match=r"weights that the bundle does not have.*\n  unet\.middle\.\S+\.weight$"):
        merge(bundle, [("bad", 1.0)], tmp_path / "merged", registry)
    assert leftovers(tmp_path) == []


def test_shapes_that_do_not_fit_leave_nothing_behind(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    tensors = lora(bundle, 1)
    tensors[f"unet.{LINEAR}.A"] = ("F32", np.ones((7, RANK), "<f4"))
    put(registry, "bad", bundle, tensors)
    with pytest.raises(AdapterError, match=rf"adapter 'bad': unet\.{LINEAR}\.weight: A \[7, 2\], B .* do not fit"):
        merge(bundle, [("bad", 1.0)], tmp_path / "merged", registry)
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("scale", [None, np.zeros((0,), "<f4"), np.ones((2,), "<f4")])
def test_a_scale_is_one_number(
    bundle: Path, registry: Registry, tmp_path: Path, scale: NDArray[np.float32] | None
) -> None:
    tensors = lora(bundle, 1)
    del tensors[f"unet.{LINEAR}.scale"]
    put(registry, "bad", bundle, {**tensors, **({f"unet.{LINEAR}.scale": ("F32", scale)} if scale is not None else {})})
    with pytest.raises(AdapterError, match="has no scale; import it again"):
        merge(bundle, [("bad", 1.0)], tmp_path / "merged", registry)


@pytest.mark.parametrize("weight", [1.0, 1e38])
@pytest.mark.parametrize("size", [1e9, np.nan])
def test_numbers_that_the_dtype_cannot_hold(
    bundle: Path, registry: Registry, tmp_path: Path, size: float, weight: float
) -> None:
    tensors = lora(bundle, 1)
    tensors[f"unet.{LINEAR}.scale"] = ("F32", np.array(size, "<f4"))
    put(registry, "bad", bundle, tensors)
    with pytest.raises(AdapterError, match=r"with 'bad', its numbers are too large for F16; take smaller weights"):
        merge(bundle, [("bad", weight)], tmp_path / "merged", registry)


def test_a_damaged_object_is_noticed(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    path = registry.file(registry.show("one").digest)
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(AdapterError, match="its bytes do not match its digest; import the adapter again"):
        merge(bundle, [("one", 1.0)], tmp_path / "merged", registry)


def test_unknown_names_are_answered_with_near_ones(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no adapter named 'tow' .* did you mean two"):
        merge(bundle, [("tow", 1.0)], tmp_path / "merged", registry)


def test_neither_end_may_be_anything_but_a_bundle(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"registry exists and is not a bundle; choose another folder"):
        merge(bundle, [("one", 1.0)], registry.folder, registry)
    with pytest.raises(BundleError, match=r"is not a bundle: .* make one with `impasto link`"):
        merge(registry.folder, [("one", 1.0)], tmp_path / "merged", registry)


def test_a_full_disk_leaves_the_old_bundle(
    bundle: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = merge(bundle, [("one", 1.0)], tmp_path / "merged", registry)

    def full(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blends, "_changed", full)
    with pytest.raises(DiskFull, match="its disk has too little room"):
        merge(bundle, [("two", 1.0)], made.folder, registry)
    assert manifest.load(made.folder)["digest"] == made.digest
    assert leftovers(tmp_path) == []


def test_a_bundle_may_be_merged_into_itself(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    made = merge(bundle, [("one", 1.0)], tmp_path / "merged", registry)
    merge(made.folder, [("two", 1.0)], made.folder, registry)
    there = merge(made.folder, [("text", 1.0)], tmp_path / "there", registry).folder
    assert [item["name"] for item in manifest.load(there)["merged"]] == ["one", "two", "text"]


def test_the_same_mix_gives_the_same_digest(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    first, second, other = (
        merge(bundle, [("one", weight)], tmp_path / name, registry)
        for name, weight in (("first", 0.8), ("second", 0.8), ("other", 0.9))
    )
    assert first.digest == second.digest != other.digest


def test_the_command_says_what_it_did_and_needs_no_torch(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'diffusers', 'transformers', 'peft', 'onnxscript'): sys.modules[name] = None\n"
        "from impasto_export.cli import export\n"
        "export(sys.argv[1:], standalone_mode=False)\n"
    )
    where = ["--out", str(tmp_path / "merged"), "--registry", str(registry.folder)]
    mix = ["--adapter", "one:0.8", "--adapter", "conv"]
    command = [sys.executable, "-c", code, "merge", str(bundle), *mix, *where, "--json"]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert said["digest"] == manifest.load(tmp_path / "merged")["digest"]
    assert (said["tensors"], said["file"]) == (2, MERGED)


def test_errors_of_the_command_are_one_sentence(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    where = ["--out", str(tmp_path / "merged"), "--registry", str(registry.folder)]
    refused = CliRunner().invoke(cli.export, ["merge", str(bundle), "--adapter", "one:zero", *where])
    assert refused.exit_code == 1
    assert "error: --adapter: got 'one:zero'" in refused.output
    assert issubclass(MergeError, ExportError)
