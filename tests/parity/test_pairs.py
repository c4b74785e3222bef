"""Adapters in pairs against torch: rows of both stages' graphs, and merged weights, are hooks on the modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from impasto_export import manifest, parameters
from impasto_export.adapters import importer
from impasto_export.adapters.importer import Said
from impasto_export.adapters.layers import site_sizes
from impasto_export.adapters.registry import Registry
from impasto_export.architecture import BOTTLENECK
from impasto_export.link import link
from impasto_export.merging.merge import merge
from impasto_server.adapters.adapted import AdaptedEngine
from impasto_server.adapters.adapter import Adapter
from impasto_server.adapters.bank import Bank
from impasto_server.adapters.layout import Layout
from impasto_server.adapters.registry import Registry as Shelf
from impasto_server.adapters.seat import Seat
from impasto_server.bundle import Bundle
from impasto_server.engines.runtime import Runtime
from impasto_server.families import open_bundle
from impasto_server.guidance import Mix
from impasto_server.stats import Stats
from tests.helpers import cascades, checkpoints, pairs
from tests.helpers.engines import ENGINES, Array, Engine, relative_error, run, run_plain

TOLERANCE = 1e-4
TOKENS, TEXT = 32, 128
GRAPHS = ("transformer", "upscaler")
# A lane each: nobody's, a base's half alone, a pair, half of it against another pair.
LANES: tuple[Mapping[str, float], ...] = ({}, {"base": 1.0}, {"pair": 1.0}, {"pair": 0.5, "other": -0.7})
LORA_SITES = (".to_q", ".to_k", ".to_v", ".to_out.0", ".ff.net.0.proj", ".ff.net.2")


@dataclass(frozen=True)
class Style:
    """What adapters add to the modules of each graph, and the registry that has them under the same names."""

    registry: Path
    adds: Mapping[str, Mapping[str, Mapping[str, Callable[[Tensor, Tensor], Tensor]]]]  # by name, graph and module

    def digest(self, name: str) -> str:
        return Shelf(self.registry).look_up(name).digest


def bottleneck(down: Array, up: Array, gelu: pairs.Gelu) -> Callable[[Tensor, Tensor], Tensor]:
    """StyleDrop's, from its text: what is added to a block's output y."""
    first, second = torch.from_numpy(down), torch.from_numpy(up)
    return lambda x, y: functional.gelu(y @ first, approximate="tanh" if gelu == "tanh" else "none") @ second


def low_rank(down: Array, up: Array) -> Callable[[Tensor, Tensor], Tensor]:
    """LoRA's: what is added to the output of a Linear of x."""
    first, second = torch.from_numpy(down), torch.from_numpy(up)
    return lambda x, y: (x @ first.T) @ second.T


def style(kind: str, bundle: Path, folder: Path) -> Style:
    """`pair` and `other`, and `base`, which is the first half of `pair`; as the studio or PEFT would write them."""
    described, registry = manifest.load(bundle), Registry(folder / "registry")
    adds: dict[str, dict[str, Any]] = {}
    for seed, (name, rank) in enumerate({"pair": 5, "other": 2}.items()):
        write = low_ranks if kind == "lora" else bottlenecks
        base, second = (write(kind, described, graph, folder / name / graph, rank, seed) for graph in GRAPHS)
        adds[name] = {graph: half for graph, (_, half) in zip(GRAPHS, (base, second), strict=True)}
        registry.put(name, importer.convert(base[0], described, Said(upscaler=second[0])).data)
        if name == "pair":
            adds["base"] = {"transformer": base[1], "upscaler": {}}
            registry.put("base", importer.convert(base[0], described).data)
    return Style(registry.folder, adds)


def bottlenecks(kind: str, described: Any, graph: str, folder: Path, rank: int, seed: int) -> tuple[Path, Any]:
    sizes = site_sizes(described, BOTTLENECK)[graph]
    widths = {name: size for name, (size, _) in sizes.items() if pairs.ADAPTED.fullmatch(name)}
    gelu: pairs.Gelu = "tanh" if kind == "tanh" else "exact"
    path = folder / "half.safetensors"
    made = pairs.bottleneck(path, widths, rank, gelu, seed=seed)
    return path, {name: bottleneck(down, up, gelu) for name, (down, up) in made.items()}


def low_ranks(kind: str, described: Any, graph: str, folder: Path, rank: int, seed: int) -> tuple[Path, Any]:
    path = folder / "half.safetensors"
    made = pairs.lora(path, site_sizes(described)[graph], rank, f"{graph}.", seed)
    return path, {name: low_rank(down, up) for name, (down, up) in made.items()}


@pytest.fixture(scope="module", params=["exact", "tanh", "lora"])
def styled(request: pytest.FixtureRequest, cascade_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Style:
    return style(request.param, cascade_bundle, tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def models() -> Mapping[str, nn.Module]:
    return {graph: cascades.model(graph, 1).eval() for graph in GRAPHS}


def feeds(graph: str, lanes: int) -> dict[str, Array]:
    """Tokens, some of them masked; every lane's are others."""
    draw = np.random.default_rng(lanes)
    context = draw.standard_normal((lanes, TOKENS, TEXT)).astype(np.float32)
    low = draw.integers(0, checkpoints.CODES, (lanes, 6, 8))
    low[:, ::2, ::3] = checkpoints.MASK_ID
    if graph == "transformer":
        pooled = draw.standard_normal((lanes, TEXT)).astype(np.float32)
        micro = np.tile(np.array([[128.0, 96.0, 0.0, 0.0, 6.0]], np.float32), (lanes, 1))
        return {"input_ids": low, "encoder_hidden_states": context, "pooled_text_emb": pooled, "micro_conds": micro}
    fine = draw.integers(0, cascades.CODES, (lanes, cascades.SCALE * 6, cascades.SCALE * 8))
    fine[:, 1::2, ::2] = cascades.MASK_ID
    return {"input_ids": fine, "low_ids": low, "encoder_hidden_states": context}


@torch.no_grad()
def eager(model: nn.Module, graph: str, found: Style, mix: Mapping[str, float], fed: Mapping[str, Array]) -> Array:
    """The module as it is, a mix's halves hooked behind it, each of which sees what is there without the others."""
    modules = {module for name in mix for module in found.adds[name][graph]}
    with ExitStack() as hooks:
        for module in modules:
            adds = [(found.adds[name][graph].get(module), weight) for name, weight in mix.items()]
            hooked = model.get_submodule(module).register_forward_hook(
                lambda _, x, y, adds=adds: y + sum(weight * add(x[0], y) for add, weight in adds if add)
            )
            hooks.callback(hooked.remove)
        answer: Array = model(*(torch.from_numpy(value) for value in fed.values())).numpy()
    return answer


def seats(bank: Bank, bundle: Bundle, found: Style, mixes: Sequence[Mapping[str, float]]) -> list[Seat]:
    """As the server has them: read from the registry, put into pages."""
    shelf, names = Shelf(found.registry), {name for mix in mixes for name in mix}
    adapters = {found.digest(name): shelf.load(found.digest(name), name, bundle.manifest) for name in names}
    carried = {digest: one for digest, one in adapters.items() if isinstance(one, Adapter)}
    asked = [Mix.of([(found.digest(name), weight) for name, weight in mix.items()]) for mix in mixes]
    pages = bank.take(asked, carried, pytest.fail)
    assert pages is not None
    return [Seat(pages[mix]) for mix in asked]


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("engine", ENGINES)
def test_rows_of_a_pair_are_hooks_on_both_stages(
    engine: Engine, graph: str, cascade_bundle: Path, styled: Style, models: Mapping[str, nn.Module]
) -> None:
    """Lanes of one batch; of a base's half alone the second stage is the plain one."""
    opened = open_bundle(cascade_bundle)
    layout = Layout.of(opened.manifest, 4, "f32")
    bank = Bank(layout, layout.bytes_for(dict.fromkeys(layout.kinds, 8)), Stats())
    compiled = AdaptedEngine(opened, graph, Runtime(engine, "f32", 1), bank)
    fed = feeds(graph, len(LANES))
    (found,) = compiled.run(fed, seats(bank, opened, styled, LANES))
    for lane, mix in enumerate(LANES):
        own = {name: value[lane : lane + 1] for name, value in fed.items()}
        expected, plain = (eager(models[graph], graph, styled, worn, own) for worn in (mix, {}))
        assert relative_error(found[lane : lane + 1], expected) <= TOLERANCE, mix
        if mix.keys() - ({"base"} if graph == "upscaler" else set()):
            assert relative_error(plain, expected) > 0.05, "the half must matter"


# merged


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In float32, so that merged weights are not rounded."""
    folder = tmp_path_factory.mktemp("exact")
    return link(cascades.save(folder / "checkpoint", 1, torch.float32), folder / "bundle").folder


@pytest.fixture(scope="module")
def inks(exact: Path, tmp_path_factory: pytest.TempPathFactory) -> Style:
    return style("lora", exact, tmp_path_factory.mktemp("inks"))


MIX = {"pair": 0.8, "other": -0.5}


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_merged_pair_is_the_pair_in_rows(
    graph: str, exact: Path, inks: Style, models: Mapping[str, nn.Module], tmp_path: Path
) -> None:
    made = merge(exact, list(MIX.items()), tmp_path / "merged", Registry(inks.registry)).folder
    fed = feeds(graph, 2)
    expected = eager(models[graph], graph, inks, MIX, fed)
    for found in (run("onnxruntime", made, graph, fed), run_plain("onnxruntime", made, graph, fed)):
        assert relative_error(found[0], expected) <= TOLERANCE
    assert relative_error(eager(models[graph], graph, inks, {}, fed), expected) > 0.05, "the mix must matter"


def test_a_pinned_pair_has_graphs_of_both_stages(
    exact: Path, inks: Style, models: Mapping[str, nn.Module], tmp_path: Path
) -> None:
    """The bundle's own graphs stay plain; a server finds the pinned ones by stage."""
    made = merge(exact, list(MIX.items()), tmp_path / "pinned", Registry(inks.registry), pin=True).folder
    opened = open_bundle(made)
    (pinned,) = opened.manifest.pinned
    assert pinned.graphs.keys() == set(GRAPHS)
    layout = Layout.of(opened.manifest, 4, "f32")
    bank = Bank(layout, layout.bytes_for(dict.fromkeys(layout.kinds, 2)), Stats())
    for graph in GRAPHS:
        fed = feeds(graph, 2)
        for weights, mix in ((0, {}), (1, MIX)):
            compiled = AdaptedEngine(opened, graph, Runtime("onnxruntime", "f32", 1), bank, weights)
            (found,) = compiled.run(fed, [Seat(merged=weights)] * 2)
            assert relative_error(found, eager(models[graph], graph, inks, mix, fed)) <= TOLERANCE


@pytest.mark.parametrize("pin", [False, True])
def test_a_merged_base_leaves_the_second_stage_as_it_is(exact: Path, inks: Style, pin: bool, tmp_path: Path) -> None:
    made = merge(exact, [("base", 1.0)], tmp_path / "merged", Registry(inks.registry), pin=pin).folder
    before, after = (manifest.load(folder) for folder in (exact, made))
    assert after["graphs"]["upscaler"] == before["graphs"]["upscaler"]
    assert after["files"]["upscaler.onnx"] == before["files"]["upscaler.onnx"]
    assert parameters.of(made, after)["upscaler"] == parameters.of(exact, before)["upscaler"]
    if pin:
        assert after["pinned"][0]["graphs"].keys() == {"transformer"}
