"""LoRA files as kohya's trainers and LyCORIS write them, imported: which a lane takes, which only merging can use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from impasto_export import manifest, spellings
from impasto_export.adapters import importer, layers
from impasto_export.adapters.importer import Said
from impasto_export.adapters.layers import Layers
from impasto_export.errors import UnaccountedKeys
from impasto_export.weights import Header, read_header, read_tensor
from tests.helpers import lora_files
from tests.helpers.lora_files import Array, Form, Shape

Named = Mapping[str, Mapping[str, Shape]]
# Of mini-diffusion's layers some of every sort: two with a bank, a Linear without, convolutions of 3x3 and 1x1.
HOT = {
    "unet": ("down_blocks.0.attentions.0.proj_in", "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0"),
    "text_encoder": ("text_model.encoder.layers.1.mlp.fc2",),
}
LINEAR = {"unet": ("down_blocks.1.resnets.0.time_emb_proj",)}
CONVOLUTIONS = {
    "unet": ("down_blocks.1.resnets.0.conv1", "up_blocks.0.upsamplers.0.conv", "down_blocks.1.resnets.0.conv_shortcut")
}
# What a key's ending has around a role's name.
ROLE = re.compile(r"^(lora|hada|lokr)_|\.weight$")
SITE = "unet.down_blocks.0.attentions.0.proj_in"


@pytest.fixture(scope="module")
def known(bundle: Path) -> Layers:
    return layers.of(manifest.load(bundle), bundle)


def chosen(known: Layers, *choices: Mapping[str, tuple[str, ...]]) -> Named:
    found: dict[str, dict[str, Shape]] = {}
    for choice in choices:
        for graph, names in choice.items():
            found.setdefault(graph, {}).update({name: known[graph][name].shape for name in names})
    return found


def imported(file: Path, bundle: Path, folder: Path, **said: Any) -> tuple[Header, dict[str, Any]]:
    made = importer.convert(file, manifest.load(bundle), Said(**said), bundle)
    (folder / "made.safetensors").write_bytes(made.data)
    return read_header(folder / "made.safetensors"), made.record


def parts(header: Header, where: str) -> dict[str, Array]:
    """A layer's tensors by role."""
    keys = [key for key in header.tensors if key.rpartition(".")[0] == where]
    return {key.rpartition(".")[2]: read_tensor(header, key) for key in keys}


def scale(header: Header, where: str) -> float:
    return float(parts(header, where)["scale"])


def test_kohya_alpha_is_not_its_rank(known: Layers, bundle: Path, tmp_path: Path) -> None:
    tensors = lora_files.kohya(chosen(known, HOT), lora_files.lora, rank=4, alpha=1.0)
    header, record = imported(lora_files.write(tmp_path / "x.safetensors", tensors), bundle, tmp_path)
    name = kohya_name(SITE)
    assert (record["kind"], record["sites"], record["rank"]) == ("lora", 3, 4)
    assert (record["source"]["layout"], record["source"]["assumed"]) == ("kohya", [])
    assert scale(header, SITE) == 0.25
    assert np.array_equal(parts(header, SITE)["A"], tensors[f"{name}.lora_down.weight"].T)
    assert np.array_equal(parts(header, SITE)["B"], tensors[f"{name}.lora_up.weight"].T)


def kohya_name(where: str) -> str:
    graph, _, module = where.partition(".")
    return f"{lora_files.SD1[graph]}_{module.replace('.', '_')}"


def test_kohya_without_an_alpha_says_what_it_takes(known: Layers, bundle: Path, tmp_path: Path) -> None:
    file = lora_files.write(
        tmp_path / "x.safetensors", lora_files.kohya(chosen(known, HOT), lora_files.lora, alpha=None)
    )
    header, record = imported(file, bundle, tmp_path)
    assert record["source"]["assumed"] == ["alpha is not stated: alpha = rank (scale 1) taken for all sites"]
    assert scale(header, SITE) == 1.0
    assert scale(imported(file, bundle, tmp_path, alpha=8.0)[0], SITE) == 2.0


@pytest.mark.parametrize("names", [HOT, CONVOLUTIONS, LINEAR])
def test_the_original_unets_names_mean_the_same(
    names: Mapping[str, tuple[str, ...]], known: Layers, bundle: Path, tmp_path: Path
) -> None:
    both = [
        lora_files.kohya(chosen(known, names), lora_files.lora, spelled=spelled)
        for spelled in (str, spellings.originals(known["unet"]))
    ]
    assert both[0].keys() != both[1].keys()
    found = [
        imported(lora_files.write(tmp_path / f"{index}.safetensors", tensors), bundle, tmp_path)[0].tensors
        for index, tensors in enumerate(both)
    ]
    assert found[0] == found[1]


def test_sdxls_text_encoders_are_numbered(known: Layers, bundle: Path, tmp_path: Path) -> None:
    """And a checkpoint with one alone has no place for the second's."""
    first = lora_files.kohya(chosen(known, HOT), lora_files.lora, names=lora_files.SDXL)
    header, _ = imported(lora_files.write(tmp_path / "first.safetensors", first), bundle, tmp_path)
    assert "text_encoder.text_model.encoder.layers.1.mlp.fc2.A" in header.tensors
    second = {key.replace("lora_te1_", "lora_te2_"): part for key, part in first.items()}
    with pytest.raises(
        UnaccountedKeys, match="(?s)3 problems.* adapts a text_encoder_2, which this backbone does not have"
    ):
        imported(lora_files.write(tmp_path / "second.safetensors", second), bundle, tmp_path)


def as_convolution(shape: Shape, rank: int, draw: np.random.Generator) -> dict[str, Array]:
    """A Linear's LoRA as one of a 1x1 convolution, which the layer is in older checkpoints."""
    return {ending: part[..., None, None] for ending, part in lora_files.lora(shape, rank, draw).items()}


def test_a_one_by_one_convolutions_lora_fits_a_linear(known: Layers, bundle: Path, tmp_path: Path) -> None:
    flat, boxed = (lora_files.kohya(chosen(known, HOT), form) for form in (lora_files.lora, as_convolution))
    found = [
        imported(lora_files.write(tmp_path / f"{index}.safetensors", tensors), bundle, tmp_path)
        for index, tensors in enumerate((flat, boxed))
    ]
    assert found[1][1]["kind"] == "lora"
    assert found[0][0].tensors == found[1][0].tensors


FORMS = {form.__name__: (form, name) for name, several in lora_files.FORMS.items() for form in several}


def roles(tensors: Mapping[str, Array], where: str) -> dict[str, Array]:
    """A layer's tensors in a kohya file, by the roles that an adapter gives them."""
    name = kohya_name(where)
    endings = {key.removeprefix(f"{name}."): part for key, part in tensors.items() if key.startswith(f"{name}.")}
    return {ROLE.sub("", ending).replace("dora_scale", "magnitude"): part for ending, part in endings.items()}


@pytest.mark.parametrize(("form", "name"), FORMS.values(), ids=FORMS)
def test_what_no_bank_carries_is_kept_as_it_is(
    form: Form, name: str, known: Layers, bundle: Path, tmp_path: Path
) -> None:
    wanted = chosen(known, HOT, CONVOLUTIONS)
    tensors = lora_files.kohya(wanted, form, rank=3, alpha=1.5)
    header, record = imported(lora_files.write(tmp_path / "x.safetensors", tensors), bundle, tmp_path)
    whole = form is lora_files.lokr_whole
    assert (record["kind"], record["sites"], record["rank"]) == ("delta", 6, 0 if whole else 3)
    assert record["forms"] == (["dora", "locon"] if name == "dora" else [name])
    for where in (f"{graph}.{module}" for graph, modules in wanted.items() for module in modules):
        found, stored = parts(header, where), roles(tensors, where)
        assert found.keys() == stored.keys() - {"alpha"} | {"scale"}
        assert scale(header, where) == (1.0 if whole else 0.5)
        assert all(np.array_equal(found[role], stored[role]) for role in found.keys() - {"scale"})


def test_lcms_lora_adapts_convolutions_and_time(known: Layers, bundle: Path, tmp_path: Path) -> None:
    """Which is why the whole of it can only be merged, with what a bank could carry."""
    tensors = lora_files.kohya(chosen(known, HOT, LINEAR, CONVOLUTIONS), lora_files.lora, rank=4, alpha=4.0)
    header, record = imported(lora_files.write(tmp_path / "lcm.safetensors", tensors), bundle, tmp_path)
    assert (record["kind"], record["forms"]) == ("delta", ["locon", "lora"])
    assert parts(header, SITE).keys() == {"down", "up", "scale"}


def test_peft_measures_a_convolutions_outputs(known: Layers, bundle: Path, tmp_path: Path) -> None:
    """Its magnitude [1, out, 1, 1] is the same as kohya's [out, 1, 1, 1]; kohya's [1, in, 1, 1] is another."""
    where = CONVOLUTIONS["unet"][0]
    out, into, *taps = known["unet"][where].shape
    draw = np.random.default_rng(1)
    low = lora_files.lora((out, into, *taps), 2, draw)
    tensors = {
        f"unet.{where}.lora_A.weight": low["lora_down.weight"],
        f"unet.{where}.lora_B.weight": low["lora_up.weight"],
        f"unet.{where}.lora_magnitude_vector": draw.uniform(1, 2, (1, out, 1, 1)).astype(np.float32),
    }
    header, record = imported(lora_files.write(tmp_path / "x.safetensors", tensors), bundle, tmp_path)
    assert record["forms"] == ["dora", "locon"]
    assert parts(header, f"unet.{where}")["magnitude"].shape == (out, 1, 1, 1)


@pytest.mark.parametrize(
    ("ending", "shape", "problem"),
    [
        ("lora_up.weight", (3, 3), r"down \[3, 64\], up \[3, 3\] do not fit its weight \[64, 64\]; is the adapter"),
        ("dora_scale", (63, 1), r"dora_scale \[63, 1\], down .* do not fit"),
        ("lora_mid.weight", (3, 3, 3, 3), r"down .*, mid \[3, 3, 3, 3\], up .* do not fit"),
        ("hada_w1_a", (64, 3), "has alpha and down and hada_w1_a and up, which are incomplete"),
        ("lora_down.weight", (3,), r"down \[3\], up \[64, 3\] do not fit"),
    ],
)
def test_tensors_that_are_no_change_of_the_weight(
    ending: str, shape: Shape, problem: str, known: Layers, bundle: Path, tmp_path: Path
) -> None:
    tensors = lora_files.kohya(chosen(known, HOT), lora_files.lora, rank=3)
    tensors[f"{kohya_name(SITE)}.{ending}"] = np.ones(shape, np.float32)
    with pytest.raises(UnaccountedKeys, match=f"{SITE}: {problem}"):
        imported(lora_files.write(tmp_path / "x.safetensors", tensors), bundle, tmp_path)


def test_everything_wrong_is_said_at_once(known: Layers, bundle: Path, tmp_path: Path) -> None:
    tensors = lora_files.kohya(chosen(known, HOT), lora_files.lora)
    one = np.ones(1, np.float32)
    strange = {"lora_unet_no_such_layer.alpha": one, f"{kohya_name(SITE)}.diff_b": one, "note": one}
    with pytest.raises(UnaccountedKeys) as raised:
        imported(lora_files.write(tmp_path / "x.safetensors", {**tensors, **strange}), bundle, tmp_path)
    assert [key.partition(":")[0] for key in raised.value.keys] == sorted(strange)


def test_without_the_bundles_graphs_layers_without_a_bank_are_unknown(
    known: Layers, bundle: Path, tmp_path: Path
) -> None:
    file = lora_files.write(tmp_path / "x.safetensors", lora_files.kohya(chosen(known, CONVOLUTIONS), lora_files.lora))
    with pytest.raises(UnaccountedKeys, match="names no layer of this backbone"):
        importer.convert(file, manifest.load(bundle))
