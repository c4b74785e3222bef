"""Adapters in pairs: both halves or the base's alone come into one file, and whatever is no pair is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from impasto_export import cli, manifest
from impasto_export.adapters import check, explain, importer
from impasto_export.adapters.importer import Said
from impasto_export.adapters.loras import Imported, nameless
from impasto_export.adapters.registry import Registry
from impasto_export.architecture import Json
from impasto_export.errors import AdapterError, UnaccountedKeys
from impasto_export.merging import mixes
from impasto_export.weights import Header, encode, read_header, read_tensor
from tests.helpers import pairs

WIDTH, FINE = 12, 16
BASE = {f"transformer_layers.{layer}.{place}": WIDTH for layer in range(3) for place in ("attn2", "ff")}
SECOND = {f"low_layers.{layer}.{place}": FINE for layer in range(2) for place in ("attn1", "ff")} | {
    f"layers.{layer}.{place}": FINE for layer in range(3) for place in ("attn2", "ff")
}
BASE_LINEARS = {f"transformer_layers.0.attn2.{name}": (WIDTH, WIDTH) for name in ("to_q", "to_out.0")}
SECOND_LINEARS = {
    "low_layers.0.attn1.to_q": (FINE, FINE),
    "layers.2.attn2.to_out.0": (FINE, FINE),
    "layers.1.ff.net.2": (2 * FINE, FINE),
}
WHOLE, HALF = "bottleneck.safetensors", "upscaler.safetensors"


def graph(widths: Mapping[str, int], linears: Mapping[str, tuple[int, int]]) -> Json:
    blocks = [
        {"name": name, "in_features": width, "out_features": width, "kind": "bottleneck"}
        for name, width in widths.items()
    ]
    return {"sites": [*({"name": n, "in_features": i, "out_features": o} for n, (i, o) in linears.items()), *blocks]}


def bundle_of(second: bool = True, **widths: int) -> Json:
    """The manifest of a cascade, or of its base alone, as far as adapters go by it."""
    base = graph({name: widths.get("base", WIDTH) for name in BASE}, BASE_LINEARS)
    upscaler = graph({name: widths.get("fine", FINE) for name in SECOND}, SECOND_LINEARS)
    return {
        "format": 1,
        "name": "muse",
        "family": "masked",
        "architecture": ("c" if second else "b") * 64,
        "graphs": {"transformer": base, "text_encoder": {"sites": []}, **({"upscaler": upscaler} if second else {})},
    }


TWO, ONE = bundle_of(), bundle_of(second=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pair as the studio leaves it: both halves in one folder."""
    pairs.bottleneck(tmp_path / WHOLE, BASE, 3, seed=1)
    pairs.bottleneck(tmp_path / HALF, SECOND, 5, seed=2)
    return tmp_path


def kept(made: Imported, folder: Path) -> Header:
    path = folder / "made" / "made.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(made.data)
    header = read_header(path)
    assert json.loads(header.metadata["impasto"]) == nameless(made.record)
    return header


def test_a_folder_holds_both_halves(folder: Path) -> None:
    made = importer.convert(folder, TWO)
    record, header = made.record, kept(made, folder)
    assert (record["kind"], record["stages"], record["rank"]) == ("bottleneck", ["base", "upscale"], 5)
    assert record["sites"] == len(BASE) + len(SECOND)
    assert record["source"]["file"] == f"{WHOLE}, {HALF}"
    sites = {key.rpartition(".")[0] for key in header.tensors}
    assert sites == {f"transformer.{name}" for name in BASE} | {f"upscaler.{name}" for name in SECOND}


def test_each_half_is_what_its_file_says(folder: Path) -> None:
    header = kept(importer.convert(folder, TWO), folder)
    for name, widths, rank, seed, graph in (
        (WHOLE, BASE, 3, 1, "transformer"),
        (HALF, SECOND, 5, 2, "upscaler"),
    ):
        for module, (down, up) in pairs.bottleneck(folder / name, widths, rank, seed=seed).items():
            np.testing.assert_array_equal(read_tensor(header, f"{graph}.{module}.A"), down)
            np.testing.assert_array_equal(read_tensor(header, f"{graph}.{module}.B"), up)


def shared(folder: Path) -> Callable[[Tensor, str, int], Tensor]:
    """A second half whose layers share a pair for each place; what it makes of a site's output."""
    draw = torch.Generator().manual_seed(3)
    places = {"low": [n for n in SECOND if n.startswith("low")], "ff": ["layers.0.ff", "layers.1.ff", "layers.2.ff"]}
    tensors: dict[str, Tensor] = {}
    for place, names in places.items():
        shapes = {"down": (FINE, 4), "up": (4, FINE), "down_offset": (len(names), 1, 4)}
        shapes |= {"up_offset": (len(names), 1, FINE)}
        tensors |= {f"{place}.{role}": torch.randn(*shape, generator=draw) for role, shape in shapes.items()}
    arrays = {key: ("F32", tensor.numpy()) for key, tensor in tensors.items()}
    entry = {"gelu": "exact", "shared": True, "sites": places}
    (folder / HALF).write_bytes(encode(arrays, {"bottleneck": json.dumps(entry)}))

    def applied(x: Tensor, place: str, layer: int) -> Tensor:
        down, up = (tensors[f"{place}.{role}"] + tensors[f"{place}.{role}_offset"][layer] for role in ("down", "up"))
        return x + nn.functional.gelu(x @ down) @ up

    return applied


def test_a_shared_half_becomes_a_pair_for_each_of_its_sites(folder: Path) -> None:
    expected, x = shared(folder), torch.randn(2, 7, FINE)
    header = kept(importer.convert(folder, TWO), folder)
    for site, place, layer in (("low_layers.1.attn1", "low", 2), ("layers.2.ff", "ff", 2)):
        a, b = (torch.tensor(read_tensor(header, f"upscaler.{site}.{part}")) for part in ("A", "B"))
        torch.testing.assert_close(x + nn.functional.gelu(x @ a) @ b, expected(x, place, layer), atol=1e-5, rtol=1e-5)


def test_two_files_are_the_same_pair(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "second.safetensors"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes((folder / HALF).read_bytes())
    one, other = (
        importer.convert(folder, TWO),
        importer.convert(folder / WHOLE, TWO, Said(upscaler=elsewhere)),
    )
    assert other.record["source"]["file"] == f"{WHOLE}, second.safetensors"
    assert other.record["source"]["sha256"] == one.record["source"]["sha256"]
    assert other.record["stages"] == one.record["stages"]
    ours, theirs = kept(one, folder), kept(other, tmp_path / "elsewhere")
    for key in ours.tensors:
        np.testing.assert_array_equal(read_tensor(ours, key), read_tensor(theirs, key))
    assert ours.tensors.keys() == theirs.tensors.keys()


def test_the_base_alone_is_an_adapter_of_both_bundles(folder: Path) -> None:
    """Named by its file it comes alone, and what was left is told where it could have been used."""
    made = importer.convert(folder / WHOLE, TWO)
    assert "stages" not in made.record
    assert all(key.startswith("transformer.") for key in kept(made, folder).tensors)
    (note,) = made.record["source"]["assumed"]
    assert note == (
        f"{HALF} beside it was not read; to have both stages, give it as --upscaler, or give the folder of both"
    ), "a path in it would make digests depend on where files lie"
    assert importer.convert(folder / WHOLE, ONE).record["source"]["assumed"] == []


# LoRAs


def lora_halves(folder: Path) -> tuple[pairs.Halves, pairs.Halves]:
    base = pairs.lora(folder / "pytorch_lora_weights.safetensors", BASE_LINEARS, 2, "transformer.", seed=4)
    return base, pairs.lora(folder / HALF, SECOND_LINEARS, 4, seed=5)


def test_a_lora_may_be_a_pair_in_one_file_or_two(tmp_path: Path) -> None:
    base, second = lora_halves(tmp_path)
    both = {**pairs.named(base, "transformer."), **pairs.named(second, "upscaler.")}
    one_file = pairs.write(tmp_path / "one" / "pair.safetensors", both)
    found = [importer.convert(place, TWO) for place in (one_file, tmp_path)]
    for number, made in enumerate(found):
        header = kept(made, tmp_path)
        assert (made.record["kind"], made.record["stages"]) == ("lora", ["base", "upscale"])
        assert (made.record["rank"], made.record["sites"]) == (4, len(BASE_LINEARS) + len(SECOND_LINEARS)), number
        for graph, half in (("transformer", base), ("upscaler", second)):
            for module, (down, up) in half.items():
                np.testing.assert_array_equal(read_tensor(header, f"{graph}.{module}.A"), down.T)
                np.testing.assert_array_equal(read_tensor(header, f"{graph}.{module}.B"), up.T)


@pytest.mark.parametrize("spell", [str, lambda key: f"base_model.model.{key}", lambda key: f"upscaler.{key}"])
def test_a_second_half_may_say_what_it_is_of_or_leave_it_to_the_option(
    spell: Callable[[str], str], tmp_path: Path
) -> None:
    _, second = lora_halves(tmp_path)
    half = pairs.write(tmp_path / "h" / "h.safetensors", {spell(k): v for k, v in pairs.named(second).items()})
    place = tmp_path / "pytorch_lora_weights.safetensors"
    (tmp_path / HALF).unlink()
    assert importer.convert(place, TWO, Said(upscaler=half)).record["stages"] == ["base", "upscale"]


def test_folders_of_peft_are_a_pair_by_their_names(tmp_path: Path) -> None:
    pairs.lora(tmp_path / "transformer/adapter_model.safetensors", BASE_LINEARS, 2, "base_model.model.")
    pairs.lora(tmp_path / "upscaler/adapter_model.safetensors", SECOND_LINEARS, 2, "base_model.model.")
    for graph, alpha in (("transformer", 2), ("upscaler", 8)):
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": alpha}
        (tmp_path / graph / "adapter_config.json").write_text(json.dumps(config))
    made = importer.convert(tmp_path, TWO)
    assert made.record["stages"] == ["base", "upscale"]
    header = kept(made, tmp_path)
    assert float(read_tensor(header, "transformer.transformer_layers.0.attn2.to_q.scale")) == 1.0
    assert float(read_tensor(header, "upscaler.low_layers.0.attn1.to_q.scale")) == 4.0


def test_kohyas_spelling_names_the_second_stage(tmp_path: Path) -> None:
    base, second = lora_halves(tmp_path)
    keys = {f"lora_transformer_{k.replace('.', '_')}": v for k, v in base.items()}
    keys |= {f"lora_upscaler_{k.replace('.', '_')}": v for k, v in second.items()}
    tensors = {
        f"{key}.{role}": half
        for key, both in keys.items()
        for role, half in zip(("lora_down.weight", "lora_up.weight"), both, strict=True)
    }
    made = importer.convert(pairs.write(tmp_path / "kohya" / "k.safetensors", tensors), TWO)
    assert (made.record["stages"], made.record["source"]["layout"]) == (["base", "upscale"], "kohya")


# what is no pair


def test_a_second_half_alone_is_refused(folder: Path) -> None:
    alone = "only the second stage's half of a pair.* give the base's half, and this one as --upscaler"
    for bundle in (TWO, ONE):
        with pytest.raises(AdapterError, match=alone):
            importer.convert(folder / HALF, bundle)
    (folder / WHOLE).unlink()
    with pytest.raises(AdapterError, match=f"{HALF}, the second stage's half of a pair; put the base's"):
        importer.convert(folder, TWO)


@pytest.mark.parametrize("prefix", ["", "upscaler."])
def test_a_second_half_of_a_lora_alone_is_refused(prefix: str, tmp_path: Path) -> None:
    pairs.lora(tmp_path / "half.safetensors", SECOND_LINEARS, prefix=prefix)
    with pytest.raises(AdapterError, match="half of a pair; give the base's half, and this one as"):
        importer.convert(tmp_path / "half.safetensors", TWO)


def test_a_pair_for_a_bundle_of_one_stage_is_refused(folder: Path, tmp_path: Path) -> None:
    refused = "has a half for the second stage, but the bundle 'muse' has one stage; import only the base's file"
    base, second = lora_halves(tmp_path / "lora")
    both = {**pairs.named(base, "transformer."), **pairs.named(second, "upscaler.")}
    for place in (folder, tmp_path / "lora", pairs.write(tmp_path / "both" / "pair.safetensors", both)):
        with pytest.raises(AdapterError, match=refused):
            importer.convert(place, ONE)


def test_the_stages_swapped_are_refused(folder: Path) -> None:
    (folder / "base").mkdir()
    base = (folder / WHOLE).rename(folder / "base" / WHOLE)
    with pytest.raises(AdapterError, match="half of a pair .low_layers.0.attn1.; give the base's half, and"):
        importer.convert(folder / HALF, TWO, Said(upscaler=base))
    with pytest.raises(AdapterError, match="--upscaler: .* adapts transformer_layers.0.attn2, which is not in"):
        importer.convert(base, TWO, Said(upscaler=base))


def test_halves_of_two_kinds_are_refused(folder: Path, tmp_path: Path) -> None:
    pairs.lora(tmp_path / "lora" / "half.safetensors", SECOND_LINEARS)
    lora = tmp_path / "lora" / "half.safetensors"
    with pytest.raises(
        AdapterError, match="half.safetensors is a LoRA, but the base's half is a bottleneck adapter; both"
    ):
        importer.convert(folder / WHOLE, TWO, Said(upscaler=lora))
    lora_halves(tmp_path / "other")
    with pytest.raises(
        AdapterError, match="upscaler.safetensors is a bottleneck adapter, but the base's half is a LoRA"
    ):
        importer.convert(tmp_path / "other" / "pytorch_lora_weights.safetensors", TWO, Said(upscaler=folder / HALF))


def test_an_embedding_has_no_second_half(folder: Path, tmp_path: Path) -> None:
    words = tmp_path / "words" / "learned_embeds.safetensors"
    pairs.write(words, {"<glass>": np.ones((1, 768), np.float32)})
    with pytest.raises(AdapterError, match="--upscaler: .* is an embedding, which both stages read; leave the option"):
        importer.convert(words, TWO, Said(upscaler=folder / HALF))


@pytest.mark.parametrize(
    ("bundle", "message"),
    [
        (bundle_of(fine=FINE + 4), r"upscaler.safetensors: low_layers.0.attn1: down \[16, 5\] and up \[5, 16\] do not"),
        (
            bundle_of(base=WIDTH + 4),
            r": transformer_layers.0.attn2: down \[12, 3\] and up \[3, 12\] do not fit a width of 16",
        ),
    ],
)
def test_a_half_of_another_width_is_refused(bundle: Json, message: str, folder: Path) -> None:
    with pytest.raises(AdapterError, match=message):
        importer.convert(folder, bundle)


@pytest.mark.parametrize("broken", ["is a dangling link", "is a folder"])
def test_a_second_half_that_is_no_file_is_refused_not_left_out(broken: str, folder: Path) -> None:
    (folder / HALF).unlink()
    (folder / HALF).mkdir() if broken == "is a folder" else (folder / HALF).symlink_to("nowhere")
    fix = f"{HALF}: {broken}; get the file again, or name the base's file alone"
    for said in (Said(), Said(upscaler=folder / WHOLE)):
        with pytest.raises(AdapterError, match=fix):
            importer.convert(folder, TWO, said)
    made = importer.convert(folder / WHOLE, TWO)
    assert [note.partition(";")[0] for note in made.record["source"]["assumed"]] == [f"{HALF} beside it was not read"]


def test_a_half_of_other_depth_names_what_is_too_much(folder: Path) -> None:
    pairs.bottleneck(folder / HALF, {**SECOND, "low_layers.2.ff": FINE, "layers.3.attn2": FINE})
    with pytest.raises(UnaccountedKeys) as raised:
        importer.convert(folder, TWO)
    assert [key.split(":")[0] for key in raised.value.keys] == ["layers.3.attn2", "low_layers.2.ff"]
    lora_halves(folder / "lora")
    deeper = {**SECOND_LINEARS, "layers.9.ff.net.2": (2 * FINE, FINE), "layers.0.attn2.to_k": (FINE, FINE)}
    pairs.lora(folder / "lora" / HALF, deeper)
    with pytest.raises(UnaccountedKeys, match=rf"{HALF}: layers.9.ff.net.2.lora_A.weight: names no layer of this"):
        importer.convert(folder / "lora", TWO)
    pairs.lora(folder / "lora" / HALF, {**SECOND_LINEARS, "layers.1.ff.net.2": (FINE, FINE)})
    with pytest.raises(
        UnaccountedKeys, match=rf"{HALF}: upscaler.layers.1.ff.net.2: down \[3, 16\], up \[16, 3\] do not fit"
    ):
        importer.convert(folder / "lora", TWO)


def test_a_key_of_a_second_file_is_told_with_that_file(tmp_path: Path) -> None:
    lora_halves(tmp_path)
    base = tmp_path / "pytorch_lora_weights.safetensors"
    deeper = tmp_path / "second" / "deeper.safetensors"
    pairs.lora(deeper, {**SECOND_LINEARS, "layers.9.ff.net.2": (2 * FINE, FINE)})
    (tmp_path / HALF).unlink()
    with pytest.raises(UnaccountedKeys, match=f"^{base} and {deeper}.*: nothing") as raised:
        importer.convert(base, TWO, Said(upscaler=deeper))
    assert all(key.startswith("deeper.safetensors: layers.9.") for key in raised.value.keys)


def test_a_second_half_without_tensors_is_refused(tmp_path: Path) -> None:
    lora_halves(tmp_path)
    pairs.write(tmp_path / HALF, {})
    with pytest.raises(AdapterError, match=f"{HALF} holds no tensors; get the file again"):
        importer.convert(tmp_path, TWO)


def test_a_folder_with_two_loras_swapped_says_so(tmp_path: Path) -> None:
    base, second = lora_halves(tmp_path)
    pairs.write(tmp_path / "pytorch_lora_weights.safetensors", pairs.named(second))
    pairs.write(tmp_path / HALF, pairs.named(base))
    with pytest.raises(AdapterError, match=f"pytorch_lora_weights.* holds the second .* {HALF} the base's; swap the"):
        importer.convert(tmp_path, TWO)
    (problem,) = explain.explain(tmp_path, Said())["problems"]
    assert problem.endswith("swap the two")


def test_loras_of_one_stage_twice_are_refused(tmp_path: Path) -> None:
    base, second = lora_halves(tmp_path)
    pairs.write(tmp_path / "pytorch_lora_weights.safetensors", {**pairs.named(base), **pairs.named(second)})
    with pytest.raises(
        UnaccountedKeys, match="belongs to the second stage, whose half is upscaler.safetensors; remove it"
    ):
        importer.convert(tmp_path, TWO)
    pairs.write(tmp_path / "pytorch_lora_weights.safetensors", pairs.named(base))
    pairs.write(tmp_path / HALF, pairs.named(base, "transformer."))
    with pytest.raises(UnaccountedKeys, match=rf"{HALF}: transformer.* is not a layer of the second stage"):
        importer.convert(tmp_path, TWO)


def test_halves_with_two_gelus_are_refused(folder: Path) -> None:
    pairs.bottleneck(folder / HALF, SECOND, gelu="tanh")
    with pytest.raises(
        AdapterError, match="base's half has the exact gelu, .*upscaler.safetensors the tanh one; give halves"
    ):
        importer.convert(folder, TWO)


def test_one_prompt_is_the_pairs(folder: Path) -> None:
    glass, paper = "{context} in glass", "{context} as paper"
    pairs.bottleneck(folder / HALF, SECOND, prompt=glass)
    assert importer.convert(folder, TWO).record["prompt"] == glass
    pairs.bottleneck(folder / WHOLE, BASE, prompt=paper)
    with pytest.raises(
        AdapterError, match="--prompt: .* were trained with '{context} as paper' and '{context} in glass'"
    ):
        importer.convert(folder, TWO)
    assert importer.convert(folder, TWO, Said(prompt=glass)).record["prompt"] == glass


def test_styledrop_pytorchs_tables_are_a_first_half(folder: Path) -> None:
    tables = {"WD": np.ones((3, WIDTH * 2), np.float32), "WU": np.ones((3, 2 * WIDTH), np.float32)}
    half = pairs.write(folder / "tables.safetensors", tables)
    with pytest.raises(
        AdapterError, match="--upscaler: .* holds StyleDrop-PyTorch's tables, which are for the first stage"
    ):
        importer.convert(folder / WHOLE, TWO, Said(upscaler=half))


def test_an_option_that_leads_nowhere_is_refused(folder: Path, tmp_path: Path) -> None:
    for upscaler, message in (
        (folder / "nothing", "nothing does not exist; give the file of the second stage's half"),
        (folder, "is a folder; give the file"),
    ):
        with pytest.raises(AdapterError, match=f"--upscaler: .*{message}"):
            importer.convert(folder / WHOLE, TWO, Said(upscaler=upscaler))
    with pytest.raises(AdapterError, match="got .*, but .* already holds upscaler.safetensors; leave the option out"):
        importer.convert(folder, TWO, Said(upscaler=folder / HALF))


# explained


def test_a_file_tells_of_its_halves_without_a_bundle(folder: Path, tmp_path: Path) -> None:
    found = explain.explain(folder, Said())
    assert found["second stage"]["file"] == HALF
    assert (found["rank"], found["second stage"]["rank"], found["problems"]) == ("3", "5", [])
    assert any(
        line.startswith("second stage: file: upscaler.safetensors; layout: studio") for line in explain.lines(found)
    )
    lora_halves(tmp_path / "lora")
    assert explain.explain(tmp_path / "lora", Said())["components"] == {"transformer": 2, "upscaler": 3}
    for place in (folder / HALF, tmp_path / "lora" / HALF):
        (problem,) = explain.explain(place, Said(), TWO)["problems"]
        assert "only the second stage's half of a pair" in problem
    (problem,) = explain.explain(folder / HALF, Said())["problems"]
    assert "it is only the second stage's half of a pair (low_layers.0.attn1); give the base's half" in problem


def test_a_loras_second_half_is_told_by_its_modules_without_a_bundle(tmp_path: Path) -> None:
    base, _ = lora_halves(tmp_path)
    found = explain.explain(tmp_path / HALF, Said())
    assert found["problems"] == [
        "it is only the second stage's half of a pair; give the base's half, and this one as --upscaler"
    ]
    assert found["use"] == explain.UNUSABLE
    bare = pairs.write(tmp_path / "bare" / "base.safetensors", pairs.named(base))
    assert explain.explain(bare, Said(upscaler=tmp_path / HALF))["problems"] == []


def test_halves_that_were_not_trained_together_are_told_without_a_bundle(folder: Path) -> None:
    pairs.bottleneck(folder / WHOLE, BASE, prompt="{context} as paper")
    pairs.bottleneck(folder / HALF, SECOND, gelu="tanh", prompt="{context} in glass")
    found = explain.explain(folder, Said())
    assert found["use"] == explain.UNUSABLE
    gelus, prompts = found["problems"]
    assert "the base's half has the exact gelu" in gelus
    assert "were trained with '{context} as paper' and '{context} in glass'" in prompts


def test_a_folder_with_its_halves_swapped_says_so(folder: Path) -> None:
    pairs.bottleneck(folder / WHOLE, SECOND)
    pairs.bottleneck(folder / HALF, BASE)
    message = f"{WHOLE} holds the second stage's half, and {HALF} the base's; swap the two"
    with pytest.raises(AdapterError, match=message):
        importer.convert(folder, TWO)
    (problem,) = explain.explain(folder, Said())["problems"]
    assert message in problem


# registered, by whomever


def put(registry: Registry, data: bytes, **changed: Any) -> None:
    """Under the name `glass`, with another header."""
    path = registry.folder.parent / "given.safetensors"
    path.write_bytes(data)
    header = read_header(path)
    record = {**json.loads(header.metadata["impasto"]), **changed}
    tensors = {key: (tensor.dtype, read_tensor(header, key)) for key, tensor in header.tensors.items()}
    kept = {key: value for key, value in record.items() if value is not None}
    registry.put("glass", encode(tensors, {"impasto": json.dumps(kept)}))


def test_a_sound_pair_is_checked(folder: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    registry.put("glass", importer.convert(folder, TWO).data)
    assert check.problems(registry, "glass") == []
    assert check.problems(registry, "glass", TWO) == []
    assert check.problems(registry, "glass", ONE) == [
        "it is a pair, but the bundle has one stage; import the base's half alone, under another name"
    ]
    (first, *_) = check.problems(registry, "glass", bundle_of(fine=FINE + 4))
    assert first == "upscaler.layers.0.attn2.A: shape [16, 5], the site has 20 input features"


def test_a_header_that_is_not_of_its_halves_is_told(folder: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    whole, base = (importer.convert(place, TWO).data for place in (folder, folder / WHOLE))
    both = "base and upscale"
    for data, stages, said, held in ((whole, None, "base", both), (base, ["base", "upscale"], both, "base")):
        put(registry, data, stages=stages)
        (problem,) = check.problems(registry, "glass")
        assert problem == (
            f"its header names the stages {said}, but its tensors are of {held}; import it again from its source files"
        )


def test_a_registered_second_half_alone_is_told(folder: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    path = tmp_path / "pair.safetensors"
    path.write_bytes(importer.convert(folder, TWO).data)
    header = read_header(path)
    tensors = {k: (t.dtype, read_tensor(header, k)) for k, t in header.tensors.items() if k.startswith("upscaler.")}
    registry.put("glass", encode(tensors, header.metadata))
    assert check.problems(registry, "glass", TWO) == [
        "it is only the second stage's half of a pair; import it again, with the base's half"
    ]


# merged


def lora_pair(tmp_path: Path) -> bytes:
    lora_halves(tmp_path)
    return importer.convert(tmp_path, TWO).data


def test_a_pair_changes_weights_of_both_stages(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    put(registry, lora_pair(tmp_path))
    (found,) = mixes.gather(registry, [("glass", 0.5)], TWO)
    assert {graph for graph, _ in found.roles} == {"transformer", "upscaler"}
    assert ("upscaler", "layers.1.ff.net.2.weight") in found.roles


def test_what_is_no_pair_is_not_merged(folder: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    data = lora_pair(tmp_path / "lora")
    put(registry, data)
    with pytest.raises(AdapterError, match="--adapter: 'glass': it is a pair, but the bundle has one stage; import"):
        mixes.gather(registry, [("glass", 1.0)], ONE)
    put(registry, data, stages=None)
    with pytest.raises(AdapterError, match="--adapter: 'glass': its header names the stages base, but its"):
        mixes.gather(registry, [("glass", 1.0)], TWO)
    put(registry, importer.convert(folder, TWO).data)
    with pytest.raises(AdapterError, match="--adapter: 'glass' is a bottleneck adapter, which puts a gelu after"):
        mixes.gather(registry, [("glass", 1.0)], TWO)


# commands


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    """A command of `impasto adapters`, with a registry of the test's own; the bundles are `two` and `one`."""
    for name, facts in (("two", TWO), ("one", ONE)):
        (tmp_path / name).mkdir()
        written = json.dumps({**facts, "digest": manifest.digest(facts)})
        (tmp_path / name / "manifest.json").write_text(written)

    def command(*args: object) -> Result:
        return CliRunner().invoke(cli.adapters, [*map(str, args), "--registry", str(tmp_path / "registry")])

    return command


def test_commands_know_pairs(folder: Path, tmp_path: Path, run: Callable[..., Result]) -> None:
    two, one = ("--bundle", tmp_path / "two"), ("--bundle", tmp_path / "one")
    made = run("import", folder, "--name", "glass", *two)
    assert (made.exit_code, "bottleneck, rank 5, 16 sites, both stages" in made.output) == (0, True), made.output
    again = run("import", folder / WHOLE, "--upscaler", folder / HALF, "--name", "other", *two)
    assert again.exit_code == 0, again.output
    assert "both stages" in run("list").output
    assert "stages: base; upscale" in run("show", "glass").output.splitlines()
    assert run("check", "glass", *two).output == "glass: ok\n"
    refused = run("check", "glass", *one)
    assert (refused.exit_code, "it is a pair, but the bundle has one stage" in refused.output) == (1, True)
    assert run("check", folder, *two).exit_code == 0
    assert run("check", folder / WHOLE, "--upscaler", folder / HALF, *two).exit_code == 0
    assert run("check", folder / HALF, *two).exit_code == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("import", "{}/upscaler.safetensors", "--bundle", "{}/two", "--name", "x"), "only the second stage's half"),
        (("import", "{}", "--bundle", "{}/one", "--name", "x"), "the bundle 'muse' has one stage"),
        (("check", "glass", "--upscaler", "{}/upscaler.safetensors"), "--upscaler: 'glass' is registered, with both"),
    ],
)
def test_commands_that_are_refused(
    args: tuple[str, ...], message: str, folder: Path, tmp_path: Path, run: Callable[..., Result]
) -> None:
    assert run("import", folder, "--name", "glass", "--bundle", tmp_path / "two").exit_code == 0
    result = run(*(arg.format(tmp_path) for arg in args))
    assert (result.exit_code, "error: " in result.output, message in result.output) == (1, True, True), result.output
