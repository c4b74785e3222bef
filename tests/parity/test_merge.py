"""Merged weights against PEFT's own merge, diffusers' fuse_lora, PEFT's forward, and the same mix by lanes.

The UNet's and the text encoder's outputs, in ONNX Runtime against torch in float32; `TOLERANCE` is the largest
difference over the largest value.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from PIL import Image

from impasto_export import manifest, parameters
from impasto_export.adapters import importer
from impasto_export.adapters.registry import Registry
from impasto_export.link import link
from impasto_export.merging.merge import merge
from impasto_export.weights import read_header, read_tensor
from impasto_server.pipeline import Pipeline
from impasto_server.settings import Settings
from tests.helpers import checkpoints
from tests.helpers.asked import altered, request_of
from tests.helpers.engines import Array, banks, fill, picked, relative_error, run, run_plain
from tests.helpers.likeness import range_db

from .conftest import Studio, diffusers_pipeline

TOLERANCE = 1e-5
# Of weights that two sums round to fp16: where these lie between two values, the last bit of a sum decides which.
ROUNDED_TOLERANCE = 1e-4
LANES_DB, PICTURE_DB = 60, 55
pytestmark = [
    # peft reads an attribute that transformers has renamed, and warns of the second adapter of a model.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
]
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
TARGETS = {
    "unet": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in"],
    "text_encoder": ["q_proj", "v_proj", "fc1"],
}
# Linears, and convolutions with taps.
MODULES = ["to_q", "to_out.0", "proj_in", "conv1", "conv_shortcut"]
Bundles = Mapping[str, Path]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """The checkpoint of `checkpoints.model(part, 1)` in each dtype."""
    folder = tmp_path_factory.mktemp("bundles")
    return {
        name: link(checkpoints.save(folder / f"checkpoint-{name}", 1, dtype), folder / name).folder
        for name, dtype in DTYPES.items()
    }


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def feeds(graph: str) -> dict[str, Array]:
    draw = torch.Generator().manual_seed(5)
    if graph == "text_encoder":
        return {"input_ids": torch.randint(0, 514, (2, 32), generator=draw).numpy()}
    return {
        "sample": torch.randn(2, checkpoints.CHANNELS, 8, 12, generator=draw).numpy(),
        "timestep": np.array([3.0, 900.5], np.float32),
        "encoder_hidden_states": torch.randn(2, 32, 128, generator=draw).numpy(),
    }


def eager(graph: str, model: Any) -> Array:
    inputs = [torch.from_numpy(value) for value in feeds(graph).values()]
    with torch.no_grad():
        found: Array = model(*inputs, return_dict=False)[0].numpy()
    return found


def merged(bundle: Path, graph: str) -> Array:
    return run("onnxruntime", bundle, graph, feeds(graph))[0]


def noisy(model: Any, seed: int, size: float = 0.05) -> Any:
    """Every number of the adapters drawn at random, so small that the network does not blow up its roundings."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=draw))
            elif any(mark in name for mark in ("lora_", "hada_", "lokr_")):
                parameter.copy_(size * torch.randn(parameter.shape, generator=draw))
    return model.eval()


def adapted(graph: str, config: Any, seed: int = 3) -> PeftModel:
    model: PeftModel = noisy(get_peft_model(checkpoints.model(graph, 1), config), seed)
    return model


def rounded(model: Any, dtype: torch.dtype) -> Any:
    """Its weights as the dtype holds them, in float32."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype).float())
    return model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("graph", TARGETS)
def test_a_lora_equals_merge_and_unload(
    graph: str, dtype: str, bundles: Bundles, registry: Registry, tmp_path: Path
) -> None:
    """One rounding of each changed weight, to the dtype of the base: so the reference is rounded once, too."""
    config = LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=TARGETS[graph])
    base = rounded(checkpoints.model(graph, 1), DTYPES[dtype])
    plain, model = eager(graph, base), noisy(get_peft_model(base, config), 3)
    model.save_pretrained(str(tmp_path / "peft"))
    put(registry, "style", bundles[dtype], tmp_path / "peft")
    made = merge(bundles[dtype], [("style", 1.0)], tmp_path / "merged", registry).folder
    expected = eager(graph, rounded(model.merge_and_unload(), DTYPES[dtype]))
    assert relative_error(merged(made, graph), expected) <= TOLERANCE
    assert relative_error(plain, expected) > 0.05, "the adapter must matter"


@pytest.mark.parametrize("mix", [{"one": 0.8}, {"one": 0.8, "two": -0.5}])
def test_loras_equal_fuse_lora(mix: dict[str, float], studio: Studio, tmp_path: Path) -> None:
    """Of diffusers' files, with its scales, in the whole pipeline's UNet and text encoder."""
    pipe = diffusers_pipeline()
    for name in mix:
        pipe.load_lora_weights(studio.loras / name, adapter_name=name)
    pipe.set_adapters(list(mix), list(mix.values()))
    pipe.fuse_lora(adapter_names=list(mix))
    made = merge(studio.bundle, list(mix.items()), tmp_path / "merged", Registry(studio.registry)).folder
    for graph in ("unet", "text_encoder"):
        fused = rounded(getattr(pipe, graph), torch.float16)  # as the checkpoint is
        assert relative_error(merged(made, graph), eager(graph, fused)) <= ROUNDED_TOLERANCE


# Each on Linears and convolutions: with and without Tucker's cores, LoKr's factors whole and as products.
FORMS: Mapping[str, Any] = {
    "locon": LoraConfig(r=4, lora_alpha=6, target_modules=MODULES),
    "dora": LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=MODULES),
    "loha": LoHaConfig(r=4, alpha=200, target_modules=MODULES),
    "loha with cores": LoHaConfig(r=4, alpha=600, target_modules=MODULES, use_effective_conv2d=True),
    "lokr": LoKrConfig(r=4, alpha=8, target_modules=MODULES, decompose_both=True),
    "lokr with cores": LoKrConfig(r=4, alpha=20, target_modules=MODULES, use_effective_conv2d=True),
}


def put(registry: Registry, name: str, bundle: Path, folder: Path) -> None:
    """Import what PEFT saved, whatever its form."""
    registry.put(name, importer.convert(folder, manifest.load(bundle), bundle=bundle).data)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_equals_pefts_own_forward(form: str, bundles: Bundles, registry: Registry, tmp_path: Path) -> None:
    """Not its merge: the layers' outputs as it computes them beside the base."""
    model = adapted("unet", FORMS[form])
    model.save_pretrained(str(tmp_path / "peft"))
    put(registry, "style", bundles["F32"], tmp_path / "peft")
    made = merge(bundles["F32"], [("style", 1.0)], tmp_path / "merged", registry).folder
    expected = eager("unet", model)
    assert relative_error(merged(made, "unet"), expected) <= TOLERANCE
    assert relative_error(merged(bundles["F32"], "unet"), expected) > 0.05, "the adapter must matter"


def test_a_weight_is_pefts_scale_also_for_dora(bundles: Bundles, registry: Registry, tmp_path: Path) -> None:
    """DoRA's norms stay as they are, whatever the weight."""
    model = adapted("unet", FORMS["dora"])
    model.save_pretrained(str(tmp_path / "peft"))
    put(registry, "style", bundles["F32"], tmp_path / "peft")
    made = merge(bundles["F32"], [("style", 0.4)], tmp_path / "merged", registry).folder
    whole = eager("unet", model)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.set_scale("default", 0.4)
    assert relative_error(merged(made, "unet"), eager("unet", model)) <= TOLERANCE
    assert relative_error(merged(made, "unet"), whole) > 100 * TOLERANCE, "the weight must matter"


@pytest.mark.parametrize("order", [["plain", "dora"], ["dora", "plain"], ["dora", "other"]])
def test_adapters_go_in_one_after_the_other_as_in_peft(
    order: list[str], bundles: Bundles, registry: Registry, tmp_path: Path
) -> None:
    """DoRA's factor is of the base alone, and multiplies what was merged before it: so its place counts."""
    model = get_peft_model(checkpoints.model("unet", 1), FORMS["locon"], adapter_name="plain")
    model.add_adapter("dora", FORMS["dora"])
    model.add_adapter("other", FORMS["dora"])
    noisy(model, 3)
    model.save_pretrained(str(tmp_path / "peft"))
    for name in order:
        put(registry, name, bundles["F32"], tmp_path / "peft" / name)
    made = merge(bundles["F32"], [(name, 1.0) for name in order], tmp_path / "merged", registry).folder
    stored = parameters.of(made, manifest.load(made))["unet"]
    for name, expected in model.merge_and_unload(adapter_names=order).named_parameters():
        found = parameters.values(made, name, stored[name])
        assert relative_error(found, expected.detach().numpy()) <= TOLERANCE


def test_a_mix_by_lanes_is_the_merged_one(bundles: Bundles, studio: Studio, tmp_path: Path) -> None:
    """The same numbers summed in another order; a merged bundle's own lanes stay open to other adapters."""
    registry, mix = Registry(studio.registry), {"one": 0.8, "two": -0.5}
    made = merge(bundles["F32"], list(mix.items()), tmp_path / "merged", registry).folder
    for graph in ("unet", "text_encoder"):
        adapted = {**feeds(graph), **bank(registry, bundles["F32"], graph, mix)}
        by_lane, plain = (run("onnxruntime", bundles["F32"], graph, lane)[0] for lane in (adapted, feeds(graph)))
        assert range_db(merged(made, graph), by_lane) >= LANES_DB
        assert range_db(run_plain("onnxruntime", made, graph, feeds(graph))[0], by_lane) >= LANES_DB
        assert range_db(merged(made, graph), plain) < LANES_DB / 2, "the mix must matter"


def test_pictures_are_the_same_pinned_merged_and_by_lanes(studio: Studio, tmp_path: Path) -> None:
    """Of a bundle in fp16, so a merged weight is rounded; what is merged and what a lane brings add up."""
    registry, one, two = Registry(studio.registry), ("one", 0.8), ("two", -0.5)
    pinned = merge(studio.bundle, [one, two], tmp_path / "pinned", registry, pin=True).folder
    half = merge(studio.bundle, [one], tmp_path / "half", registry).folder
    expected, plain = pictures(studio, studio.bundle, (one, two), ())
    for found in (*pictures(studio, pinned, (one, two)), *pictures(studio, half, (two,))):
        assert range_db(found, expected) >= PICTURE_DB
    assert range_db(plain, expected) < PICTURE_DB / 2, "the mix must matter"


def pictures(studio: Studio, bundle: Path, *mixes: tuple[tuple[str, float], ...]) -> list[Array]:
    """One with each mix."""
    pipeline = Pipeline.load(Settings(bundle, studio.registry, "onnxruntime", "f32", threads=1))
    request = request_of("a red boat", seed=3, width=128, height=128, steps=4, scheduler="euler")
    try:
        painted = [pipeline.generate(altered(request, adapters=mix)).image for mix in mixes]
    finally:
        pipeline.close()
    return [np.asarray(Image.open(BytesIO(image)), np.float32) for image in painted]


def bank(registry: Registry, bundle: Path, graph: str, mix: Mapping[str, float]) -> dict[str, Array]:
    """The mix: ranks side by side, and one lane's pick of them."""
    sides: dict[str, list[tuple[Array, Array]]] = {}
    for name, weight in mix.items():
        header = read_header(registry.file(registry.show(name).digest))
        for key in (key.removesuffix(".A") for key in header.tensors if key.startswith(graph) and key.endswith(".A")):
            a, b, scale = (read_tensor(header, f"{key}.{role}") for role in ("A", "B", "scale"))
            sides.setdefault(key.removeprefix(f"{graph}."), []).append((a, np.float32(weight) * scale * b))
    rank = max(sum(a.shape[1] for a, _ in parts) for parts in sides.values())
    tables = banks(manifest.load(bundle)["graphs"][graph], {"lora": rank})
    for name, parts in sides.items():
        fill(tables[f"{name}.lora_A"], 0, rank, np.concatenate([a.T for a, _ in parts]))
        fill(tables[f"{name}.lora_B"], 0, rank, np.concatenate([b for _, b in parts]))
    return {**tables, **picked("lora", np.zeros(2, np.int64), rank)}
