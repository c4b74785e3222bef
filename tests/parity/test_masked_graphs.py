"""The masked family's graphs against diffusers and transformers: at several sizes, and with an adapter per row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from diffusers import VQModel
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from impasto_export import manifest, splice
from impasto_export.checkpoints.checkpoint import Stored
from impasto_export.tracing import graphs, texts
from impasto_export.weights import read_header
from tests.helpers import checkpoints
from tests.helpers.codes import assert_nearest
from tests.helpers.engines import ENGINES, Array, Engine, banks, fill, picked, relative_error, run, run_plain, zeros

TOLERANCE = 1e-4
TOKENS, END = 32, 513
WIDTH = 128


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def captions(lanes: int, end: int = END, size: int = 512) -> Tensor:
    """Texts of different lengths, padded with their end."""
    ids = torch.randint(3, size, (lanes, TOKENS), generator=draw(lanes))
    for lane in range(lanes):
        ids[lane, 4 + 9 * lane :] = end
    return ids


def text_feeds(ids: Tensor) -> dict[str, Array]:
    return {"input_ids": ids.numpy()}


def eager_text(model: Any, ids: Tensor) -> tuple[Array, Array]:
    """What AmusedPipeline takes of the text encoder."""
    with torch.no_grad():
        found = model(ids, output_hidden_states=True)
    return found.hidden_states[-2].numpy(), found.text_embeds.numpy()


@pytest.mark.parametrize("engine", ENGINES)
def test_text_encoder(engine: Engine, masked_bundle: Path) -> None:
    ids = captions(3)
    hidden, pooled = eager_text(checkpoints.masked_model("text_encoder", 1), ids)
    found = run(engine, masked_bundle, "text_encoder", text_feeds(ids))
    assert relative_error(found[0], hidden) <= TOLERANCE
    assert relative_error(found[1], pooled) <= TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_a_learned_token_is_read_like_a_word_and_never_as_the_end(engine: Engine, masked_bundle: Path) -> None:
    """transformers' own encoder, its vocabulary enlarged by the word; beyond the text's end it would not be read."""
    ids, model = captions(2), checkpoints.masked_model("text_encoder", 1)
    vectors = torch.randn(2, TOKENS, WIDTH, generator=draw(7))
    learned, extended = ids.clone(), ids.clone()
    learned[1, 2], extended[1, 2] = -1, model.config.vocab_size
    model.resize_token_embeddings(model.config.vocab_size + 1, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[-1] = vectors[1, 2]
    hidden, pooled = eager_text(model, extended)
    feeds = {**text_feeds(learned), "learned_embeds": vectors.numpy()}
    found = run(engine, masked_bundle, "text_encoder", feeds)
    assert relative_error(found[0], hidden) <= TOLERANCE
    assert relative_error(found[1], pooled) <= TOLERANCE
    (_, without) = run(engine, masked_bundle, "text_encoder", {**feeds, "learned_embeds": np.zeros_like(vectors)})
    assert relative_error(without[1], pooled[1]) > 0.05, "the vector must matter"


@pytest.mark.parametrize("end", [2, 30])
def test_texts_end_at_the_highest_id_where_the_config_says_2(end: int, tmp_path: Path) -> None:
    """As all configs did before transformers corrected them; elsewhere the config names the id."""
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes = {"vocab_size": 40, "projection_dim": 12, "eos_token_id": end, "bos_token_id": 1, "pad_token_id": 0}
    torch.manual_seed(0)
    model = graphs.build("text_encoder", {**checkpoints.masked_config("text_encoder"), **small, **sizes})
    ids = captions(3, 39 if end == 2 else end, 30)
    # Before the recipe, which leaves its hooks in the model.
    hidden, pooled = eager_text(model, ids)
    recipe = texts.projected_text_encoder(model)
    save_file(model.state_dict(), tmp_path / "text_encoder.safetensors")
    (tmp_path / "skeleton.onnx").write_bytes(graphs.trace(recipe))
    file = tmp_path / "text_encoder.safetensors"
    tensors = {name: Stored(file.name, tensor) for name, tensor in read_header(file).tensors.items()}
    linked = tmp_path / "linked.onnx"
    linked.write_bytes(splice.point(splice.read(tmp_path / "skeleton.onnx"), tensors))
    facts = {"inputs": [asdict(port) for port in recipe.inputs], "sites": [site.record for site in recipe.sites]}
    feeds = {**zeros(facts, text_feeds(ids)), **text_feeds(ids)}
    found = onnxruntime.InferenceSession(str(linked), providers=["CPUExecutionProvider"]).run(None, feeds)
    assert relative_error(found[0], hidden) <= TOLERANCE
    assert relative_error(found[1], pooled) <= TOLERANCE


@dataclass(frozen=True)
class Rows:
    """Inputs of the transformer, a row each."""

    ids: Tensor
    context: Tensor
    pooled: Tensor
    micro: Tensor

    @staticmethod
    def draw(lanes: int, height: int, width: int) -> Rows:
        source = draw(lanes)
        ids = torch.randint(0, checkpoints.CODES, (lanes, height, width), generator=source)
        ids[:, ::2, ::3] = checkpoints.MASK_ID
        context, pooled = (torch.randn(lanes, *shape, generator=source) for shape in ((TOKENS, WIDTH), (WIDTH,)))
        micro = torch.tensor([[8.0 * width, 8.0 * height, 0.0, 3.0 * lane, 6.0 - lane] for lane in range(lanes)])
        return Rows(ids, context, pooled, micro)

    def feeds(self) -> dict[str, Array]:
        return {
            "input_ids": self.ids.numpy(),
            "encoder_hidden_states": self.context.numpy(),
            "pooled_text_emb": self.pooled.numpy(),
            "micro_conds": self.micro.numpy(),
        }

    def eager(self, model: Any, rows: slice = slice(None)) -> Array:
        with torch.no_grad():
            logits: Array = model(self.ids[rows], self.context[rows], self.pooled[rows], self.micro[rows]).numpy()
        return logits


@pytest.mark.parametrize("engine", ENGINES)
def test_transformer_at_any_batch_and_size(engine: Engine, masked_bundle: Path) -> None:
    model = checkpoints.masked_model("transformer", 1)
    for lanes, height, width in ((1, 16, 16), (3, 10, 14)):
        rows = Rows.draw(lanes, height, width)
        for runs in (run, run_plain):
            (found,) = runs(engine, masked_bundle, "transformer", rows.feeds())
            assert found.shape == (lanes, checkpoints.CODES, height, width)
            assert relative_error(found, rows.eager(model)) <= TOLERANCE, (runs, lanes, height, width)


@pytest.fixture(scope="module")
def vqvae() -> VQModel:
    model: VQModel = checkpoints.masked_model("vqvae", 1)
    return model


@pytest.mark.parametrize("engine", ENGINES)
def test_vq_decoder(engine: Engine, masked_bundle: Path, vqvae: VQModel) -> None:
    tokens = torch.randint(0, checkpoints.CODES, (2, 5, 7), generator=draw(0))
    shape = (*tokens.shape, vqvae.config["latent_channels"])
    with torch.no_grad():
        expected = vqvae.decode(tokens, force_not_quantize=True, return_dict=False, shape=shape)[0]
    (found,) = run(engine, masked_bundle, "vq_decoder", {"tokens": tokens.numpy()})
    assert found.shape == (2, 3, 40, 56)
    assert relative_error(found, expected.numpy()) <= TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_vq_encoder(engine: Engine, masked_bundle: Path, vqvae: VQModel) -> None:
    image = torch.rand(2, 3, 40, 56, generator=draw(1)) * 2 - 1
    (found,) = run(engine, masked_bundle, "vq_encoder", {"image": image.numpy()})
    assert found.dtype == np.int64
    assert len(np.unique(found)) > 10, "the picture must matter"
    assert_nearest(found, vqvae, image)


# adapters, a row each


@dataclass(frozen=True)
class Bottleneck:
    """A random one at all sites that `place` ends; `weight` scales what it adds."""

    seed: int
    hidden: int
    tanh: bool
    places: tuple[str, ...]
    weight: float = 1.0

    def tensors(self, site: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
        """down [D, H] and up [H, D], or None where it does not adapt the site."""
        if not site["name"].endswith(self.places):
            return None
        width, source = site["in_features"], draw(self.seed + sum(site["name"].encode()))
        down, up = (torch.randn(shape, generator=source) for shape in ((width, self.hidden), (self.hidden, width)))
        return down * width**-0.5, up * 0.3

    def added(self, site: Mapping[str, Any], y: Tensor) -> Tensor | float:
        tensors = self.tensors(site)
        if tensors is None:
            return 0.0
        hidden = functional.gelu(y @ tensors[0], approximate="tanh" if self.tanh else "none")
        return self.weight * (hidden @ tensors[1])


EXACT = Bottleneck(1, 4, False, ("attn2", "ff"))
TANH = Bottleneck(2, 6, True, ("attn1", "attn2", "ff"))
LIGHT = Bottleneck(2, 6, True, ("attn1", "attn2", "ff"), 0.5)
# A row each: the plain backbone, one, the other, both with a weight.
MIXES: tuple[tuple[Bottleneck, ...], ...] = ((), (EXACT,), (TANH,), (EXACT, LIGHT))
PARTS, HIDDEN, RANK = (EXACT, TANH), 7, 8


def hooked(model: nn.Module, sites: list[dict[str, Any]], mix: tuple[Bottleneck, ...]) -> nn.Module:
    """`model` with the mix added to the outputs of the sites' modules."""

    def hook(site: Mapping[str, Any]) -> Any:
        return lambda _, inputs, y: y + sum(part.added(site, y) for part in mix)

    for site in sites:
        model.get_submodule(site["name"]).register_forward_hook(hook(site))
    return model


def bottleneck_sites(bundle: Path) -> list[dict[str, Any]]:
    return [site for site in manifest.load(bundle)["graphs"]["transformer"]["sites"] if site.get("kind")]


def bottleneck_banks(bundle: Path) -> dict[str, Array]:
    """A page for each bottleneck, its weight left out."""
    facts = manifest.load(bundle)["graphs"]["transformer"]
    tables = banks(facts, {"bottleneck": (1 + len(PARTS)) * HIDDEN})
    for page, part in enumerate(PARTS, 1):
        for site in bottleneck_sites(bundle):
            tensors = part.tensors(site)
            if tensors is not None:
                values = {"down": tensors[0].T, "up": tensors[1], "tanh": np.full((part.hidden, 1), part.tanh)}
                for role, value in values.items():
                    fill(tables[f"{site['name']}.{role}"], page, HIDDEN, np.asarray(value))
    return tables


def mixed(mixes: tuple[tuple[Bottleneck, ...], ...] = MIXES) -> dict[str, Array]:
    """What lanes of these mixes say, filled up with page 0, which is empty."""
    pages, weights = np.zeros((len(mixes), 2), np.int64), np.ones((len(mixes), 2), np.float32)
    for lane, mix in enumerate(mixes):
        for place, part in enumerate(mix):
            pages[lane, place], weights[lane, place] = 1 + PARTS.index(replace(part, weight=1.0)), part.weight
    return picked("bottleneck", pages, HIDDEN, weights)


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_of_one_batch_use_different_bottlenecks(engine: Engine, masked_bundle: Path) -> None:
    rows, sites, tables = Rows.draw(4, 8, 12), bottleneck_sites(masked_bundle), bottleneck_banks(masked_bundle)
    assert {site["name"].rpartition(".")[2] for site in sites} == {"attn1", "attn2", "ff"}
    (found,) = run(engine, masked_bundle, "transformer", {**rows.feeds(), **mixed(), **tables})
    (plain,) = run(engine, masked_bundle, "transformer", {**rows.feeds(), **mixed(((),) * 4), **tables})
    np.testing.assert_array_equal(found[0], plain[0])
    for row, mix in enumerate(MIXES):
        expected = rows.eager(hooked(checkpoints.masked_model("transformer", 1), sites, mix), slice(row, row + 1))[0]
        assert relative_error(found[row], expected) <= TOLERANCE, row
        assert not mix or relative_error(plain[row], expected) > 0.05, "the adapter must matter"


def test_the_gelu_that_is_asked_for_is_taken(masked_bundle: Path) -> None:
    rows, tables = Rows.draw(4, 8, 12), bottleneck_banks(masked_bundle)
    exact = {name: np.zeros_like(value) if name.endswith(".tanh") else value for name, value in tables.items()}
    feeds = {**rows.feeds(), **mixed(((TANH,),) * 4)}
    (found,) = run("onnxruntime", masked_bundle, "transformer", {**feeds, **tables})
    (other,) = run("onnxruntime", masked_bundle, "transformer", {**feeds, **exact})
    assert relative_error(other, found) > TOLERANCE, "the two must differ by more than what parity allows"


def with_lora(rank: int, alpha: float, targets: list[str]) -> Any:
    """The transformer with PEFT's LoRA."""
    model = checkpoints.masked_model("transformer", 1)
    torch.manual_seed(rank)
    model.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights=False))  # type: ignore[arg-type]
    return model.eval()


def write_lora(tables: dict[str, Array], page: int, model: Any, scale: float) -> None:
    for name, value in model.named_parameters():
        site, letter, _ = name.partition(".lora_A" if ".lora_A" in name else ".lora_B")
        if letter:
            matrix = value.detach().numpy()
            fill(tables[site + letter], page, RANK, scale * matrix.T if letter.endswith("B") else matrix)


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_of_one_batch_use_different_loras_and_a_bottleneck_beside_one(engine: Engine, masked_bundle: Path) -> None:
    rows, sites = Rows.draw(4, 8, 12), bottleneck_sites(masked_bundle)
    facts = manifest.load(masked_bundle)["graphs"]["transformer"]
    tables = banks(facts, {"lora": 3 * RANK})
    tables |= {name: value for name, value in bottleneck_banks(masked_bundle).items() if ".lora_" not in name}
    first = with_lora(4, 8, ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"])
    second = with_lora(8, 3, ["to_q", "to_v"])
    expected = [rows.eager(checkpoints.masked_model("transformer", 1), slice(0, 1))]
    for page, model, scale in ((1, first, 2.0), (2, second, 3 / 8)):
        write_lora(tables, page, model, scale)
    told = {**picked("lora", np.array([0, 1, 2, 2]), RANK), **mixed(((), (), (), MIXES[3]))}
    expected += [rows.eager(first, slice(1, 2)), rows.eager(second, slice(2, 3))]
    expected += [rows.eager(hooked(second, sites, MIXES[3]), slice(3, 4))]
    (found,) = run(engine, masked_bundle, "transformer", {**rows.feeds(), **told, **tables})
    (plain,) = run(engine, masked_bundle, "transformer", rows.feeds())
    np.testing.assert_array_equal(found[0], plain[0])
    for row, wanted in enumerate(expected):
        assert relative_error(found[row], wanted[0]) <= TOLERANCE, row
        assert row == 0 or relative_error(plain[row], wanted[0]) > 0.02, "the adapter must matter"
