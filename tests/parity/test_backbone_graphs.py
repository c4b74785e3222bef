"""Graphs of reduced-width twins of SD 2.x, SDXL and an LCM against diffusers and transformers, an adapter per row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from impasto_export import manifest, splice
from impasto_export.link import link
from tests.helpers import twins
from tests.helpers.engines import ENGINES, Array, Engine, banks, fill, picked, relative_error, run, run_plain

TOLERANCE = 1e-4
KINDS = ("sd2", "lcm", "sdxl")
WIDTHS = {"sd2": 24, "lcm": 24, "sdxl": 64}
Twin = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def twin(twin_skeletons: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Twin:
    """The checkpoint of a kind and its bundle."""

    @cache
    def made(kind: str) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp(kind)
        checkpoint = twins.save(folder / "checkpoint", kind)
        return checkpoint, link(checkpoint, folder / "bundle", [twin_skeletons(kind)]).folder

    return made


@dataclass(frozen=True)
class Rows:
    """Inputs of a UNet, a row each; those that its kind has no port for are left out of `feeds`."""

    kind: str
    sample: Tensor
    timestep: Tensor
    context: Tensor

    @staticmethod
    def draw(kind: str, lanes: int, height: int, width: int) -> Rows:
        source = torch.Generator().manual_seed(lanes)
        sample = torch.randn(lanes, 4, height, width, generator=source)
        context = torch.randn(lanes, twins.TOKENS, WIDTHS[kind], generator=source)
        return Rows(kind, sample, torch.linspace(998.5, 1.0, lanes), context)

    @property
    def conditions(self) -> dict[str, Tensor]:
        source, lanes = torch.Generator().manual_seed(9), len(self.sample)
        if self.kind == "lcm":
            return {"timestep_cond": torch.randn(lanes, 12, generator=source)}
        if self.kind == "sdxl":
            sizes = torch.tensor([[64.0, 48.0, 0.0, 4.0 * lane, 64.0, 64.0 - lane] for lane in range(lanes)])
            return {"text_embeds": torch.randn(lanes, 20, generator=source), "time_ids": sizes}
        return {}

    def feeds(self) -> dict[str, Array]:
        given = {"sample": self.sample, "timestep": self.timestep, "encoder_hidden_states": self.context}
        return {name: value.numpy() for name, value in {**given, **self.conditions}.items()}

    def eager(self, model: Any, rows: slice = slice(None)) -> Array:
        conditions = {name: value[rows] for name, value in self.conditions.items()}
        guidance = conditions.pop("timestep_cond", None)
        with torch.no_grad():
            output: Tensor = model(
                self.sample[rows],
                self.timestep[rows],
                self.context[rows],
                timestep_cond=guidance,
                added_cond_kwargs=conditions or None,
                return_dict=False,
            )[0]
        return output.numpy()


def unet(checkpoint: Path) -> Any:
    return UNet2DConditionModel.from_pretrained(checkpoint / "unet").eval()


@pytest.mark.parametrize("kind", KINDS)
def test_unet_at_any_batch_and_size(kind: str, twin: Twin) -> None:
    checkpoint, bundle = twin(kind)
    for lanes, height, width in ((1, 8, 8), (3, 6, 10)):
        rows = Rows.draw(kind, lanes, height, width)
        expected = rows.eager(unet(checkpoint))
        for engine, runs in product(ENGINES, (run, run_plain)):
            (found,) = runs(engine, bundle, "unet", rows.feeds())
            assert relative_error(found, expected) <= TOLERANCE, (engine, runs, lanes, height, width)


@pytest.mark.parametrize(
    ("kind", "condition"), [("lcm", "timestep_cond"), ("sdxl", "text_embeds"), ("sdxl", "time_ids")]
)
def test_every_condition_matters(kind: str, condition: str, twin: Twin) -> None:
    _, bundle = twin(kind)
    feeds = Rows.draw(kind, 2, 8, 8).feeds()
    (found,) = run("onnxruntime", bundle, "unet", feeds)
    (other,) = run("onnxruntime", bundle, "unet", {**feeds, condition: feeds[condition][::-1].copy()})
    assert relative_error(other, found) > 0.01


def test_dims_keep_their_names(twin: Twin) -> None:
    """Also those of a UNet without conditions, whose list of them must not be an empty one."""
    for kind in KINDS:
        inputs = splice.read(twin(kind)[1] / "unet.onnx").graph.input
        assert [size.dim_param for size in inputs[0].type.tensor_type.shape.dim] == ["lanes", "", "2*rows", "2*columns"]


# adapters, a row each; "proj_in" is a 1x1 convolution in the LCM's twin, as in every SD 1 checkpoint
LORAS = ((4, 8, ("to_q", "to_k", "to_v", "to_out.0", "proj_in")), (6, 3, ("ff.net.0.proj", "ff.net.2", "proj_out")))


def with_lora(checkpoint: Path, rank: int, alpha: int, targets: tuple[str, ...]) -> Any:
    """The UNet with PEFT's LoRA."""
    model = unet(checkpoint)
    torch.manual_seed(rank)
    model.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights=False))
    return model.eval()


RANK = 6


def write_lora(tables: dict[str, Array], page: int, model: Any, scale: float) -> int:
    """How many sites it was written to."""
    sites = set()
    for name, value in model.named_parameters():
        site, letter, _ = name.partition(".lora_A" if ".lora_A" in name else ".lora_B")
        if letter:
            matrix = value.detach().flatten(1).numpy()
            fill(tables[site + letter], page, RANK, scale * matrix.T if letter.endswith("B") else matrix)
            sites.add(site)
    return len(sites)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("kind", "written"), [("lcm", (9, 3)), ("sdxl", (68, 20))])
def test_rows_of_one_batch_use_different_loras(kind: str, written: tuple[int, int], engine: Engine, twin: Twin) -> None:
    checkpoint, bundle = twin(kind)
    rows, facts = Rows.draw(kind, 3, 8, 6), manifest.load(bundle)["graphs"]["unet"]
    tables = banks(facts, {"lora": 3 * RANK})
    expected = [rows.eager(unet(checkpoint), slice(0, 1))]
    for page, (rank, alpha, targets) in enumerate(LORAS, 1):
        model = with_lora(checkpoint, rank, alpha, targets)
        assert write_lora(tables, page, model, alpha / rank) == written[page - 1]
        expected.append(rows.eager(model, slice(page, page + 1)))
    (found,) = run(engine, bundle, "unet", {**rows.feeds(), **picked("lora", np.arange(3), RANK), **tables})
    (plain,) = run(engine, bundle, "unet", rows.feeds())
    np.testing.assert_array_equal(found[0], plain[0])
    for row, wanted in enumerate(expected):
        assert relative_error(found[row], wanted[0]) <= TOLERANCE, row
        assert row == 0 or relative_error(plain[row], wanted[0]) > 0.02, "the adapter must matter"


# text encoders


def captions() -> Tensor:
    """Texts of different lengths, padded with their end."""
    ids = torch.randint(3, twins.VOCABULARY - 2, (3, twins.TOKENS), generator=torch.Generator().manual_seed(0))
    for lane in range(3):
        ids[lane, 4 + 9 * lane :] = twins.VOCABULARY - 1
    return ids


def text_feeds(ids: Tensor) -> dict[str, Array]:
    return {"input_ids": ids.numpy()}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_text_encoder_of_sd_2_ends_with_its_last_norm(engine: Engine, twin: Twin) -> None:
    checkpoint, bundle = twin("sd2")
    with torch.no_grad():
        wanted = CLIPTextModel.from_pretrained(checkpoint / "text_encoder")(captions()).last_hidden_state
    (found,) = run(engine, bundle, "text_encoder", text_feeds(captions()))
    assert relative_error(found, wanted.numpy()) <= TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_both_text_encoders_of_sdxl(engine: Engine, twin: Twin) -> None:
    """What StableDiffusionXLPipeline takes of them."""
    checkpoint, bundle = twin("sdxl")
    first = CLIPTextModel.from_pretrained(checkpoint / "text_encoder")
    second = CLIPTextModelWithProjection.from_pretrained(checkpoint / "text_encoder_2")
    with torch.no_grad():
        one, two = (model(captions(), output_hidden_states=True) for model in (first, second))
    (found,) = run(engine, bundle, "text_encoder", text_feeds(captions()))
    assert relative_error(found, one.hidden_states[-2].numpy()) <= TOLERANCE
    hidden, pooled = run(engine, bundle, "text_encoder_2", text_feeds(captions()))
    assert relative_error(hidden, two.hidden_states[-2].numpy()) <= TOLERANCE
    assert relative_error(pooled, two.text_embeds.numpy()) <= TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_adapters_of_a_layer_that_is_not_read_change_nothing(engine: Engine, twin: Twin) -> None:
    """SDXL reads its first text encoder before the last layer, for which kohya's LoRAs have keys all the same."""
    _, bundle = twin("sdxl")
    facts = manifest.load(bundle)["graphs"]["text_encoder"]
    tables = banks(facts, {"lora": 2})
    feeds = {**text_feeds(captions()), **picked("lora", np.zeros(3, np.int64), 2), **tables}
    numbers = {int(name.split(".layers.")[1].split(".")[0]) for name in tables}
    last, read = (
        {name: np.ones_like(value) for name, value in tables.items() if f".layers.{number}." in name}
        for number in (max(numbers), min(numbers))
    )
    assert len(last) == 2 * 6
    (plain,) = run(engine, bundle, "text_encoder", feeds)
    np.testing.assert_array_equal(run(engine, bundle, "text_encoder", {**feeds, **last})[0], plain)
    assert relative_error(run(engine, bundle, "text_encoder", {**feeds, **read})[0], plain) > 0.01
