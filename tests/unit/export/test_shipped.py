"""The skeletons of the public backbones that ship: whole, small, and with the ports that the server reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from impasto_export import architecture, matching, splice
from impasto_export.architecture import SHIPPED, Graph, read_json
from impasto_export.tracing import sites, skeleton
from shipped import PUBLIC, SOURCES

NAMES = sorted(path.name for path in PUBLIC.iterdir())
GRAPHS = sorted(path for name in NAMES for path in (SHIPPED / name).glob("*.onnx"))
LORA = ("lora_rows", "lora_weights")
TEXT = ("input_ids", "learned_embeds", *LORA)
UNET = ("sample", "timestep", "encoder_hidden_states")
# As the recipes call them; torch's own names, s12, mean that it lost those.
DIMS = {"lanes", "rows", "columns", "lora_K", "bottleneck_K", "H", "R", "W", "tokens", "h", "w", "n"}
CONDITIONS = {"sd1": (), "sd2": (), "sdxl": ("text_embeds", "time_ids"), "lcm-sd1": ("timestep_cond",)}
# Sites of the UNet: 10 of each transformer block, and what brings a picture in and out of each stack of them.
SITES = {"sd1": 16 * 12, "sd2": 16 * 12, "sdxl": 70 * 10 + 11 * 2, "lcm-sd1": 16 * 12}
# Sizes of SDXL's text encoders side by side, of what they pool, and of the guidance scale's embedding.
SHAPES = {
    "encoder_hidden_states": {"sd1": 768, "sd2": 1024, "sdxl": 2048, "lcm-sd1": 768},
    "text_embeds": {"sdxl": 1280},
    "time_ids": {"sdxl": 6},
    "timestep_cond": {"lcm-sd1": 256},
}


def graph(name: str, which: str) -> Graph:
    return architecture.load(SHIPPED / name).graphs[which]


def names(found: Graph) -> tuple[str, ...]:
    return tuple(port.name for port in found.inputs)


def test_every_source_is_shipped() -> None:
    assert {path.name for path in SHIPPED.iterdir()} == SOURCES.keys()


@pytest.mark.parametrize("name", NAMES)
def test_it_was_made_of_these_configs(name: str) -> None:
    folder, found = PUBLIC / name, architecture.load(SHIPPED / name)
    parts = {part: folder if part == "controlnet" else folder / part for part in found.components}
    configs = {part: read_json(path / "config.json") for part, path in parts.items()}
    assert matching.differences(found, configs) == []
    assert found.name == name


@pytest.mark.parametrize("path", GRAPHS, ids=[f"{path.parent.name}-{path.stem}" for path in GRAPHS])
def test_graphs_are_small_and_have_the_stated_ports(path: Path) -> None:
    found = graph(path.parent.name, path.stem)
    model = splice.read(path).graph
    assert path.stat().st_size < skeleton.MAX_BYTES
    assert [value.name for value in model.input] == [*names(found), *(port.name for port in sites.banks(found.sites))]
    assert [value.name for value in model.output] == [port.name for port in found.outputs]
    dims = {size.dim_param for value in model.input for size in value.type.tensor_type.shape.dim} - {""}
    assert {re.sub(r"^\d+\*", "", name) for name in dims if "residual" not in name} <= DIMS


@pytest.mark.parametrize("name", CONDITIONS)
def test_inputs_of_a_unet(name: str) -> None:
    found = graph(name, "unet")
    residuals = sum("residual" in port for port in names(found))
    assert residuals == (10 if name == "sdxl" else 13)
    assert names(found)[: -residuals - 2] == (*UNET, *CONDITIONS[name])
    assert names(found)[-2:] == LORA
    assert len(found.sites) == SITES[name]
    widths = {port.name: port.shape[-1] for port in found.inputs if port.name in SHAPES}
    assert widths == {port: sizes[name] for port, sizes in SHAPES.items() if name in sizes}


def test_text_encoders() -> None:
    for name in NAMES:
        for which, found in architecture.load(SHIPPED / name).graphs.items():
            if which.startswith("text_encoder"):
                pooled = ("pooled",) if name.startswith(("amused", "muse")) or which == "text_encoder_2" else ()
                assert names(found) == TEXT
                assert tuple(port.name for port in found.outputs) == ("prompt_embeds", *pooled)
                assert found.inputs[0].shape == ("lanes", 77)


def test_sdxl_has_a_place_for_every_tensor_of_its_text_encoders() -> None:
    """The first is read before its last layer; a checkpoint has that all the same."""
    for which, layers in (("text_encoder", 12), ("text_encoder_2", 32)):
        placeholders = splice.placeholders(splice.read(SHIPPED / "sdxl" / f"{which}.onnx"))
        numbers = {int(found[1]) for name in placeholders if (found := re.search(r"layers\.(\d+)\.", name))}
        assert numbers == set(range(layers))
        assert "text_model.final_layer_norm.weight" in placeholders
        assert len(graph("sdxl", which).sites) == layers * 6


def test_a_controlnet_speaks_to_the_unets_of_sd_1() -> None:
    given = [port.name for port in graph("controlnet-sd1", "controlnet").outputs]
    for name in ("sd1", "lcm-sd1"):
        assert [port for port in names(graph(name, "unet")) if "residual" in port] == given


@pytest.mark.parametrize(("name", "multiple"), [("amused-256", 16), ("amused-512", 32)])
def test_amused(name: str, multiple: int) -> None:
    """The larger halves the tokens' grid on its way in."""
    found = architecture.load(SHIPPED / name)
    assert found.sizes == {"tokens": {"factor": 16, "codes": 8192}, "image": {"multiple_of": multiple}}
    kinds = [site.kind for site in found.graphs["transformer"].sites]
    assert (kinds.count("lora"), kinds.count("bottleneck")) == (22 * 10 + 6 * 8, 22 * 3 + 6)
