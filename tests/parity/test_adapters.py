"""Imported adapters in the rows of one batch, each row another page, against PEFT's own forward."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import state_dict_utils
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict

from impasto_export import manifest
from impasto_export.adapters import importer
from impasto_export.weights import read_header, read_tensor
from tests.helpers import checkpoints
from tests.helpers.engines import ENGINES, Array, Engine, banks, fill, picked, relative_error, run

TOLERANCE = 1e-4
RANK = 8
# peft reads an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
UNET_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


@dataclass(frozen=True)
class Case:
    """Three rows' inputs and what PEFT makes of them: page 0 is no adapter, 1 and 2 are the folders' adapters."""

    graph: str
    feeds: dict[str, Array]
    expected: Array
    sources: tuple[Path, Path]


def adapted(base: Any, config: LoraConfig, seed: int) -> PeftModel:
    """`base` with an adapter whose B is not zero."""
    torch.manual_seed(seed)
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def save_peft(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)


def save_diffusers(model: Any, folder: Path, graph: str) -> None:
    """As diffusers' training scripts save, with the config in the header."""
    convert: Any = state_dict_utils.convert_state_dict_to_diffusers
    layers = convert(get_peft_model_state_dict(model))
    config = model.peft_config["default"].to_dict()
    metadata = json.loads(
        json.dumps(config, default=lambda value: sorted(value) if isinstance(value, set) else str(value))
    )
    StableDiffusionPipeline.save_lora_weights(
        folder, **{f"{graph}_lora_layers": layers, f"{graph}_lora_adapter_metadata": metadata}
    )


def rows(graph: str) -> tuple[dict[str, Array], Callable[[Any, int], Array]]:
    """Inputs of three rows, and how an eager model runs one of them."""
    draw = torch.Generator().manual_seed(5)
    if graph == "text_encoder":
        ids = torch.randint(0, 514, (3, 32), generator=draw)
        return {"input_ids": ids.numpy()}, lambda model, row: model(ids[row : row + 1]).last_hidden_state.numpy()
    sample = torch.randn(3, checkpoints.CHANNELS, 8, 12, generator=draw)
    context = torch.randn(3, 32, 128, generator=draw)
    timestep = torch.tensor([3.0, 500.0, 900.5])
    feeds = {"sample": sample.numpy(), "timestep": timestep.numpy(), "encoder_hidden_states": context.numpy()}

    def one(model: Any, row: int) -> Array:
        part = slice(row, row + 1)
        result: Array = model(sample[part], timestep[part], context[part], return_dict=False)[0].numpy()
        return result

    return feeds, one


@pytest.fixture(scope="module", params=["unet", "text_encoder"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    graph: str = request.param
    folder = tmp_path_factory.mktemp(graph)
    targets = UNET_TARGETS if graph == "unet" else TEXT_TARGETS
    plain = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=True)
    patterned = LoraConfig(
        r=8, lora_alpha=3, use_rslora=True, target_modules=targets[:4], rank_pattern={targets[0]: 2},
        alpha_pattern={targets[1]: 5},
    )  # fmt: skip
    feeds, one = rows(graph)
    with torch.no_grad():
        expected = [one(checkpoints.model(graph, 1), 0)]
    for row, (config, save) in enumerate(((plain, None), (patterned, save_peft)), start=1):
        model = adapted(checkpoints.model(graph, 1), config, row)
        if save is None:
            save_diffusers(model, folder / str(row), graph)
        else:
            save(model, folder / str(row))
        with torch.no_grad():
            expected.append(one(model, row))
    return Case(graph, feeds, np.concatenate(expected), (folder / "1", folder / "2"))


def filled(case: Case, bundle: Path, path: Path) -> dict[str, Array]:
    """Page 0 empty, pages 1 and 2 the imported adapters, ranks padded to the larger one."""
    record = manifest.load(bundle)
    tables = banks(record["graphs"][case.graph], {"lora": 3 * RANK})
    for page, source in enumerate(case.sources, start=1):
        file = path / f"{page}.safetensors"
        made = importer.convert(source, record)
        assert made.record["source"]["assumed"] == []
        file.write_bytes(made.data)
        header = read_header(file)
        for key in (name.removesuffix(".A") for name in header.tensors if name.endswith(".A")):
            a, b, scale = (read_tensor(header, f"{key}.{part}") for part in ("A", "B", "scale"))
            site = key.removeprefix(f"{case.graph}.")
            fill(tables[f"{site}.lora_A"], page, RANK, a.T)
            fill(tables[f"{site}.lora_B"], page, RANK, b * scale)
    return tables


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_of_one_batch_use_different_adapters(engine: Engine, case: Case, bundle: Path, tmp_path: Path) -> None:
    tables = filled(case, bundle, tmp_path)
    feeds = {**case.feeds, **picked("lora", np.arange(3), RANK), **tables}
    (found,) = run(engine, bundle, case.graph, feeds)
    (without,) = run(engine, bundle, case.graph, {**case.feeds, **tables})
    for row in range(3):
        assert relative_error(found[row], case.expected[row]) <= TOLERANCE
    for row in (1, 2):
        assert relative_error(without[row], case.expected[row]) > 0.05, "the adapter must matter"
