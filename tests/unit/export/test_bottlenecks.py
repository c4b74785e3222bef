"""Bottleneck adapters of both layouts become one pair for each site, which does what the paper's formula says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from typer.testing import CliRunner

from impasto_export import cli, manifest
from impasto_export.adapters import check, importer, layers
from impasto_export.adapters.importer import Said
from impasto_export.adapters.loras import nameless
from impasto_export.adapters.registry import Registry
from impasto_export.errors import AdapterError, UnaccountedKeys
from impasto_export.weights import Header, encode, read_header, read_tensor

Arrays = dict[str, tuple[str, np.ndarray[Any, Any]]]
LAYERS, WIDTH = 3, 12
PLACES = {
    "attn2": [f"transformer_layers.{i}.attn2" for i in range(LAYERS)] + ["up_block.attention_blocks.0.attn2"],
    "ff": [f"transformer_layers.{i}.ff" for i in range(LAYERS)],
}
SELF_ATTENTION = [f"transformer_layers.{i}.attn1" for i in range(LAYERS)]
TEMPLATE = "{context} in stained glass style"


def bundle_of(layers: int = LAYERS, width: int = WIDTH) -> dict[str, Any]:
    """A masked bundle's manifest, as far as the importer reads it; sites in no helpful order."""
    sites = [f"transformer_layers.{i}.{place}" for place in ("attn1", "attn2", "ff") for i in reversed(range(layers))]
    size = {"in_features": width, "out_features": width}
    return {
        "family": "masked",
        "architecture": "b" * 64,
        "graphs": {
            "transformer": {
                "sites": [
                    {"name": "transformer_layers.0.attn1.to_q", **size},
                    *({"name": name, "kind": "bottleneck", **size} for name in sites),
                    {"name": "up_block.attention_blocks.0.attn2", "kind": "bottleneck", **size},
                ]
            },
            "text_encoder": {"sites": []},
            "vq_decoder": {"sites": []},
        },
    }


BUNDLE = bundle_of()
DIFFUSION = {"family": "diffusion", "architecture": "a" * 64, "graphs": {"unet": {"sites": []}}}


class Adapter(nn.Module):
    """StyleDrop's App. B from its text: x + Wu·gelu(Wd·x), L layers, shared ones with the layer's dd and du added."""

    def __init__(self, layers: int, rank: int, shared: bool, gelu: str, seed: int = 0) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(seed)
        pairs = 1 if shared else layers
        self.wd = torch.randn(pairs, WIDTH, rank, generator=drawn)
        self.wu = torch.randn(pairs, rank, WIDTH, generator=drawn)
        self.dd = torch.randn(layers, 1, rank, generator=drawn) if shared else None
        self.du = torch.randn(layers, 1, WIDTH, generator=drawn) if shared else None
        self.gelu = nn.GELU(approximate="tanh" if gelu == "tanh" else "none")

    def forward(self, x: Tensor, layer: int) -> Tensor:
        down, up = (self.wd[layer], self.wu[layer]) if self.dd is None else (self.wd[0], self.wu[0])
        if self.dd is not None and self.du is not None:
            down, up = down + self.dd[layer], up + self.du[layer]
        return x + torch.matmul(self.gelu(x @ down), up)

    def place(self, place: str, sites: list[str]) -> dict[str, Tensor]:
        """The studio's tensors of one place."""
        if self.dd is None or self.du is None:
            named = {f"{site}.down": self.wd[i] for i, site in enumerate(sites)}
            return named | {f"{site}.up": self.wu[i] for i, site in enumerate(sites)}
        pair = {f"{place}.down": self.wd[0], f"{place}.up": self.wu[0]}
        return pair | {f"{place}.down_offset": self.dd, f"{place}.up_offset": self.du}

    def tables(self, key: str = "{}.weight") -> dict[str, Tensor]:
        """The rows that StyleDrop-PyTorch saves."""
        found = {"WD": self.wd.flatten(1), "WU": self.wu.flatten(1)}
        if self.dd is not None and self.du is not None:
            found |= {"DD": self.dd[:, 0], "DU": self.du[:, 0]}
        return {key.format(table): tensor for table, tensor in found.items()}


def studio(folder: Path, tensors: Mapping[str, Tensor], **entry: Any) -> Path:
    said = {"gelu": "exact", "shared": False, "sites": PLACES, **entry}
    named: Arrays = {key: ("F32", tensor.numpy()) for key, tensor in tensors.items()}
    (folder / "bottleneck.safetensors").write_bytes(encode(named, {"bottleneck": json.dumps(said)}))
    return folder / "bottleneck.safetensors"


def both(shared: bool = False, ranks: tuple[int, int] = (2, 5), gelu: str = "exact") -> dict[str, Adapter]:
    """An adapter for each place, of unlike ranks."""
    return {
        place: Adapter(len(sites), rank, shared, gelu, seed)
        for seed, ((place, sites), rank) in enumerate(zip(PLACES.items(), ranks, strict=True))
    }


def tensors_of(made: Mapping[str, Adapter]) -> dict[str, Tensor]:
    return {key: tensor for place, one in made.items() for key, tensor in one.place(place, PLACES[place]).items()}


def unshared() -> dict[str, Tensor]:
    return tensors_of(both())


def shared() -> dict[str, Tensor]:
    return tensors_of(both(shared=True))


def imported(source: Path, **said: Any) -> tuple[Header, dict[str, Any]]:
    made = importer.convert(source, BUNDLE, Said(**said))
    path = source.parent / "made.safetensors"
    path.write_bytes(made.data)
    header = read_header(path)
    assert json.loads(header.metadata["impasto"]) == nameless(made.record)
    assert len(header.tensors) == 3 * made.record["sites"]
    return header, made.record


def applied(header: Header, record: Mapping[str, Any], site: str, x: Tensor) -> Tensor:
    """What the graph computes at a site of the imported file."""
    a, b, scale = (torch.tensor(read_tensor(header, f"transformer.{site}.{part}")) for part in ("A", "B", "scale"))
    return x + nn.functional.gelu(x @ a, approximate="tanh" if record["gelu"] == "tanh" else "none") @ (scale * b)


@settings(max_examples=25, deadline=None)
@given(st.booleans(), st.tuples(st.integers(1, 40), st.integers(1, 40)), st.sampled_from(["exact", "tanh"]))
def test_the_studios_adapters_do_what_the_paper_says(shared: bool, ranks: tuple[int, int], gelu: str) -> None:
    made = both(shared, ranks, gelu)
    x = torch.randn(2, 7, WIDTH)
    with TemporaryDirectory() as folder:
        header, record = imported(studio(Path(folder), tensors_of(made), gelu=gelu, shared=shared))
        for place, sites in PLACES.items():
            for layer, site in enumerate(sites):
                torch.testing.assert_close(
                    applied(header, record, site, x), made[place](x, layer), atol=1e-6, rtol=1e-6
                )
    assert (record["kind"], record["family"], record["architecture"]) == ("bottleneck", "masked", "b" * 64)
    assert (record["rank"], record["sites"]) == (max(ranks), sum(map(len, PLACES.values())))
    assert (record["gelu"], record["shared"], record["source"]["layout"]) == (gelu, shared, "studio")
    assert record["source"]["assumed"] == []


def saved(folder: Path, content: object) -> Path:
    torch.save(content, folder / "adapter.pth")
    return folder / "adapter.pth"


def nested(tables: dict[str, Tensor]) -> dict[str, object]:
    return {"state_dict": {f"adapter.{key}": value for key, value in tables.items()}, "step": 1000}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("rank", [1, 4, WIDTH])
@pytest.mark.parametrize("form", ["{}.weight", "{}", "adapter.{}.weight", "nested"])
def test_styledrop_pytorchs_adapters_do_what_its_formula_says(
    shared: bool, rank: int, form: str, tmp_path: Path
) -> None:
    adapter = Adapter(LAYERS, rank, shared, "exact")
    content = nested(adapter.tables()) if form == "nested" else adapter.tables(form)
    header, record = imported(saved(tmp_path, content))
    x = torch.randn(2, 7, WIDTH)
    for layer, site in enumerate(SELF_ATTENTION):
        torch.testing.assert_close(applied(header, record, site, x), adapter(x, layer), atol=1e-6, rtol=1e-6)
    assert (record["gelu"], record["shared"], record["rank"], record["sites"]) == ("exact", shared, rank, LAYERS)
    assert record["source"]["layout"] == "styledrop-pytorch"
    assert record["source"]["assumed"] == ["gelu is not stated: exact taken, as in the code of StyleDrop-PyTorch"]


def test_its_pickle_is_opened_in_a_process_of_its_own(tmp_path: Path) -> None:
    source = saved(tmp_path, nn.Embedding(3, 4))
    with pytest.raises(AdapterError, match="refused: this pickle is more than tensors"):
        importer.convert(source, BUNDLE)
    adapter = Adapter(LAYERS, 4, True, "exact")
    assert imported(saved(tmp_path, adapter.tables()))[1]["source"]["file"] == "adapter.pth"


@pytest.mark.usefixtures("in_process")
def test_layers_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """`transformer_layers.10` comes after `transformer_layers.9`, whatever the manifest's order."""
    tables = {"WD": torch.arange(11.0)[:, None].repeat(1, WIDTH), "WU": torch.ones(11, WIDTH)}
    made = importer.convert(saved(tmp_path, tables), bundle_of(layers=11))
    (tmp_path / "made").write_bytes(made.data)
    header = read_header(tmp_path / "made")
    read = [read_tensor(header, f"transformer.transformer_layers.{i}.attn1.A")[0, 0] for i in range(11)]
    assert read == list(range(11))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("layers", "width"), [(LAYERS + 1, WIDTH), (LAYERS, WIDTH + 1), (28, 1152)])
def test_a_file_of_another_backbone_names_both_shapes(shared: bool, layers: int, width: int, tmp_path: Path) -> None:
    rank = 4
    rows = 1 if shared else layers
    tables = {"WD.weight": torch.ones(rows, width * rank), "WU.weight": torch.ones(rows, width * rank)}
    tables |= {"DD.weight": torch.ones(layers, rank), "DU.weight": torch.ones(layers, width)} if shared else {}
    theirs = f"{layers} layers {width} wide" if shared else f"{layers} layers .*WD .{layers}, {width * rank}"
    with pytest.raises(AdapterError, match=f"adapts {theirs}.*the bundle's backbone has 3 layers 12 wide"):
        importer.convert(saved(tmp_path, tables), BUNDLE)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"WU.weight": None, "WD.weight": torch.ones(1, 4)}, "holds no LoRA, no bottleneck adapter and no embedding"),
        ({"DD.weight": None}, "is incomplete: DD is missing"),
        ({"DU.weight": None, "DD.weight": None}, "adapts 1 layers"),
        ({"out.bias": torch.ones(3)}, "out.bias: not part of the adapter"),
        ({"adapter.WD.weight": torch.ones(1, 48)}, "WD.weight: not part of the adapter"),
        ({"loss": 0.5}, "loss: not part of an adapter"),
        ({"DD.weight": torch.full((LAYERS, 4), torch.nan)}, "DD.weight holds NaN or infinity"),
        ({"DU.weight": torch.full((LAYERS, WIDTH), torch.inf)}, "DU.weight holds NaN or infinity"),
        ({"WD.weight": torch.ones(1, 4 * WIDTH, dtype=torch.float64)}, "WD.weight has dtype F64"),
        ({"WD.weight": torch.ones(4 * WIDTH)}, "tables with a row for each layer are expected"),
        ({"WD.weight": torch.ones(1, 4 * WIDTH + 1)}, "adapts 3 layers 12 wide"),
    ],
)
def test_bad_tables(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    content = {**Adapter(LAYERS, 4, True, "exact").tables(), **change}
    source = saved(tmp_path, {key: value for key, value in content.items() if value is not None})
    with pytest.raises(AdapterError, match=message):
        importer.convert(source, BUNDLE, Said())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    """An unshared file keeps its dtype, the sums of a shared one are as exact as its parts."""
    for is_shared in (False, True):
        halves = {key: tensor.to(dtype) for key, tensor in tensors_of(both(shared=is_shared)).items()}
        name = {torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]
        bits: Arrays = {key: (name, tensor.view(torch.int16).numpy()) for key, tensor in halves.items()}
        entry = {"gelu": "tanh", "shared": is_shared, "sites": PLACES}
        source = tmp_path / "bottleneck.safetensors"
        source.write_bytes(encode(bits, {"bottleneck": json.dumps(entry)}))
        header, _ = imported(source)
        site = PLACES["ff"][1]
        read = read_tensor(header, f"transformer.{site}.A")
        if is_shared:
            wanted = halves["ff.down"].float() + halves["ff.down_offset"][1].float()
            assert header.tensors[f"transformer.{site}.A"].dtype == "F32"
            assert torch.equal(torch.tensor(read), wanted)
        else:
            assert header.tensors[f"transformer.{site}.A"].dtype == name
            assert read.tobytes() == halves[f"{site}.down"].view(torch.int16).numpy().tobytes()


def test_same_source_same_bytes(tmp_path: Path) -> None:
    source = studio(tmp_path, shared(), shared=True)
    assert importer.convert(source, BUNDLE).data == importer.convert(source, BUNDLE).data


def test_an_adapter_may_leave_sites_alone(tmp_path: Path) -> None:
    one = {"ff": PLACES["ff"][1:]}
    tensors = Adapter(len(one["ff"]), 3, False, "exact").place("ff", one["ff"])
    assert imported(studio(tmp_path, tensors, sites=one))[1]["sites"] == LAYERS - 1


def test_the_prompt_is_the_users_or_the_files(tmp_path: Path) -> None:
    source = studio(tmp_path, unshared(), prompt=TEMPLATE)
    assert imported(source)[1]["prompt"] == TEMPLATE
    assert imported(source, prompt="{context} as cut paper")[1]["prompt"] == "{context} as cut paper"
    assert "prompt" not in imported(studio(tmp_path, unshared()))[1]
    for template in ("as cut paper", "{context} {context}"):
        with pytest.raises(AdapterError, match="it must contain {context} once"):
            importer.convert(studio(tmp_path, unshared(), prompt=template), BUNDLE)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"gelu": "quick"}, "gelu must be exact or tanh"),
        ({"shared": 1}, "shared true or false"),
        ({"prompt": 3}, "prompt 3"),
        ({"sites": ["attn2"]}, "the bottleneck entry in its header cannot be used"),
        ({"sites": None}, "the bottleneck entry in its header cannot be used"),
        ({"sites": {**PLACES, "again": PLACES["ff"]}}, "names a site twice"),
        ({"sites": {"ff": PLACES["ff"]}}, "attn2.down: not part of the adapter"),
        ({"sites": {**PLACES, "attn1": SELF_ATTENTION}}, "incomplete: transformer_layers.0.attn1.down"),
        ({"shared": True}, "not part of the adapter"),
    ],
)
def test_headers_that_do_not_tell_what_is_there(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=message):
        importer.convert(studio(tmp_path, unshared(), **entry), BUNDLE)


def test_a_header_that_is_not_json(tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    source.write_bytes(encode({}, {"bottleneck": "{"}))
    with pytest.raises(AdapterError, match="the bottleneck entry in its header cannot be used"):
        importer.convert(source, BUNDLE)
    with pytest.raises(AdapterError, match="holds no tensors"):
        importer.convert(studio(tmp_path, {}, sites={}), BUNDLE)


@pytest.mark.parametrize(
    ("tensors", "is_shared", "message"),
    [
        ({"transformer_layers.0.ff.down": torch.full((WIDTH, 5), torch.nan)}, False, "ff.down holds NaN"),
        ({"transformer_layers.0.ff.down": torch.ones(WIDTH + 1, 5)}, False, "do not fit a width of 12"),
        ({"transformer_layers.0.ff.down": torch.ones(WIDTH, 4)}, False, "do not fit a width of 12"),
        ({"transformer_layers.0.ff.down": torch.ones(WIDTH)}, False, "do not fit a width of 12"),
        ({f"transformer_layers.0.ff.{role}": torch.ones(0, 0) for role in ("up", "down")}, False, "do not fit"),
        ({"ff.down_offset": torch.ones(LAYERS + 1, 1, 5)}, True, r"offsets \[3, 1, H\], \[3, 1, D\] are expected"),
        ({"ff.down_offset": torch.ones(LAYERS, 5)}, True, "are expected"),
        ({"ff.up": torch.ones(1, 1, WIDTH)}, True, "are expected"),
        (
            {"ff.down": torch.full((WIDTH, 5), 3e38), "ff.down_offset": torch.full((LAYERS, 1, 5), 3e38)},
            True,
            "infinite",
        ),
    ],
)
def test_bad_tensors(tensors: dict[str, Tensor], is_shared: bool, message: str, tmp_path: Path) -> None:
    source = studio(tmp_path, {**(shared() if is_shared else unshared()), **tensors}, shared=is_shared)
    with pytest.raises(AdapterError, match=message):
        importer.convert(source, BUNDLE)


def test_sites_that_the_backbone_lacks_are_named(tmp_path: Path) -> None:
    source = studio(tmp_path, unshared())
    with pytest.raises(UnaccountedKeys) as raised:
        importer.convert(source, bundle_of(layers=2))
    assert [key.split(":")[0] for key in raised.value.keys] == ["transformer_layers.2.attn2", "transformer_layers.2.ff"]


@pytest.mark.usefixtures("in_process")
def test_a_diffusion_bundle_takes_none(tmp_path: Path) -> None:
    for source in (studio(tmp_path, unshared()), saved(tmp_path, Adapter(LAYERS, 4, False, "exact").tables())):
        with pytest.raises(AdapterError, match="for bundles of the family masked, this one's is diffusion"):
            importer.convert(source, DIFFUSION, Said())


def test_a_backbone_without_such_sites(tmp_path: Path) -> None:
    none = {**BUNDLE, "graphs": {"transformer": {"sites": []}}}
    with pytest.raises(UnaccountedKeys, match="names no place of this backbone that takes bottleneck adapters"):
        importer.convert(studio(tmp_path, unshared()), none)
    tables: Arrays = {key: ("F32", value.numpy()) for key, value in Adapter(LAYERS, 4, False, "exact").tables().items()}
    (tmp_path / "converted.safetensors").write_bytes(encode(tables, {}))
    with pytest.raises(AdapterError, match="takes no adapters after self-attention"):
        importer.convert(tmp_path / "converted.safetensors", none)


def test_check_knows_which_sites_are_its(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    registry.put("glass", importer.convert(studio(tmp_path, unshared()), BUNDLE).data)
    assert check.problems(registry, "glass", BUNDLE) == []
    assert "it is for bundles of the family masked, this one's is diffusion" in check.problems(
        registry, "glass", DIFFUSION
    )
    narrow = bundle_of(width=WIDTH - 1)
    problem = "transformer.transformer_layers.0.ff.A: shape [12, 5], the site has 11 input features"
    assert problem in check.problems(registry, "glass", narrow)


def test_commands_from_import_to_rm(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    facts = {"format": 1, "name": "muse", **BUNDLE}
    (bundle / "manifest.json").write_text(json.dumps({**facts, "digest": manifest.digest(facts)}))
    studio(tmp_path, shared(), shared=True, gelu="tanh")
    run, store = CliRunner(), ["--registry", str(tmp_path / "registry")]
    command = ["import", str(tmp_path), "--name", "glass", "--bundle", str(bundle), *store, "--trigger", "lead"]
    made = run.invoke(cli.adapters, [*command, "--prompt", TEMPLATE])
    assert made.exit_code == 0, made.output
    assert "bottleneck, rank 5, 7 sites" in run.invoke(cli.adapters, ["list", *store]).output
    shown = run.invoke(cli.adapters, ["show", "glass", *store]).output.splitlines()
    lines = ["kind: bottleneck", "gelu: tanh", "shared: True", f"prompt: {TEMPLATE}", "trigger: lead"]
    assert {*lines, "source.assumed: -", "source.file: bottleneck.safetensors"} <= set(shown)
    assert run.invoke(cli.adapters, ["check", "glass", "--bundle", str(bundle), *store]).output == "glass: ok\n"
    assert run.invoke(cli.adapters, ["rm", "glass", *store]).exit_code == 0
    for option, value in (("--alpha", "32"), ("--style-prompt", "{style}")):
        refused = run.invoke(cli.adapters, [*command, option, value])
        assert (refused.exit_code, f"error: {option}: " in refused.output) == (1, True)


def test_what_is_none_of_the_kinds_is_one_error(tmp_path: Path) -> None:
    source = tmp_path / "vae.safetensors"
    source.write_bytes(encode({"decoder.conv_in.bias": ("F32", np.ones(3, "<f4"))}, {}))
    with pytest.raises(AdapterError, match="no bottleneck adapter and no embedding; its tensors: decoder.conv_in.bias"):
        importer.convert(source, BUNDLE, Said())
    assert layers.site_sizes(BUNDLE)["transformer"] == {"transformer_layers.0.attn1.to_q": (WIDTH, WIDTH)}
