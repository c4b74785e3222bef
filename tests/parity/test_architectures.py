"""Whole pictures of reduced-width twins of SD 2.x, SDXL, an LCM and Turbo equal diffusers', fp32, the same noise given.

Pictures are compared as decoded PNGs: at 70 dB one 8-bit value in 150 is off by one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file
from studio.reading.psnr import psnr_db

from impasto_export.adapters import importer
from impasto_export.adapters.registry import Registry
from impasto_export.link import link
from impasto_server.families.diffusion.unet import scale_embeddings
from impasto_server.pipeline import Pipeline
from impasto_server.request import Request
from impasto_server.settings import EngineName, Settings
from tests.helpers import twins
from tests.helpers.asked import altered, request_of
from tests.helpers.pictures import png

from .conftest import content
from .test_lanes import Arrival, alone, together
from .test_samplers import THEIRS

MIN_DB, MIN_SOLO_DB, MATTERS_DB = 70.0, 60.0, 50.0
# PEFT's and transformers', about the reference.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")

Pixels = NDArray[np.uint8]
SIDE, NARROW = 64, 32  # pixels
SIZE = {"width": SIDE, "height": SIDE}
BOAT = request_of("a red boat in the night", 7, SIDE, SIDE, steps=4, guidance_scale=5.0, scheduler="euler")
LORA_SITES = {
    "unet": ["to_q", "to_v", "to_out.0", "proj_in"],
    "text_encoder": ["q_proj", "fc1"],
    "text_encoder_2": ["v_proj", "fc2"],
}


@dataclass(frozen=True)
class Twin:
    """A checkpoint, its bundle, and a registry with a LoRA "one" and an embedding "toy", which lie in `files`, too."""

    kind: str
    checkpoint: Path
    bundle: Path
    registry: Path
    files: Path

    @property
    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.bundle / "manifest.json").read_text())
        return found


@pytest.fixture(scope="module")
def twin(twin_skeletons: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Twin]:
    """By kind; each made once."""
    folder = tmp_path_factory.mktemp("twins")

    @cache
    def made(kind: str) -> Twin:
        found = Twin(kind, *(folder / f"{kind}-{part}" for part in ("checkpoint", "bundle", "registry", "files")))
        twins.save(found.checkpoint, kind)
        link(found.checkpoint, found.bundle, [twin_skeletons(twins.ARCHITECTURES[kind])])
        return found

    return made


@pytest.fixture(scope="module")
def styled(twin: Callable[[str], Twin]) -> Twin:
    """The twin of SDXL with its LoRA and its embedding."""
    xl = twin("sdxl")
    write_lora(xl)
    write_embedding(xl)
    registry = Registry(xl.registry)
    registry.put("one", importer.convert(xl.files / "pytorch_lora_weights.safetensors", xl.manifest).data)
    registry.put("toy", importer.convert(xl.files / "toy.safetensors", xl.manifest).data)
    return xl


@pytest.fixture(scope="module")
def opened() -> Iterator[Callable[..., Pipeline]]:
    """Pipelines by twin and engine, each compiled once."""
    found: dict[Settings, Pipeline] = {}

    def open_(twin: Twin, engine: EngineName = "onnxruntime") -> Pipeline:
        settings = Settings(twin.bundle, twin.registry, engine, "f32", threads=1)
        if settings not in found:
            found[settings] = Pipeline.load(settings)
        return found[settings]

    yield open_
    for pipeline in found.values():
        pipeline.close()


def diffusers_pipeline(twin: Twin, scheduler: str, name: str | None = None) -> Any:
    pipe = getattr(diffusers, name or twins.PIPELINES[twin.kind]).from_pretrained(twin.checkpoint, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.register_modules(scheduler=THEIRS[scheduler].from_config(pipe.scheduler.config))
    return pipe


def theirs(pipe: Any, request: Request, **more: Any) -> Pixels:
    """diffusers' picture of `request`, with our noise wherever theirs would be drawn: before the steps and between."""
    draws = np.random.Generator(np.random.Philox(request.seeds.seed))

    def draw(shape: Sequence[int], **options: Any) -> torch.Tensor:
        return torch.from_numpy(draws.standard_normal(tuple(shape), np.float32))

    with ExitStack() as stack:
        for theirs_, ours in {"randn_tensor": draw, "retrieve_latents": mean}.items():
            for module in (sys.modules[type(part).__module__] for part in (pipe, pipe.scheduler)):
                if hasattr(module, theirs_):
                    stack.enter_context(patch.object(module, theirs_, ours))
        made = pipe(
            request.words.prompt,
            num_inference_steps=request.sampling.steps,
            guidance_scale=request.strengths["GUIDANCE_SCALE"],
            **({"negative_prompt": request.words.negative_prompt} if request.words.negative_prompt else {}),
            **more,
        )
    return np.asarray(made.images[0])


def mean(encoded: Any, *options: Any, **more: Any) -> torch.Tensor:
    """Of the posterior, where theirs is drawn from it."""
    found: torch.Tensor = encoded.latent_dist.mode()
    return found


def write_lora(twin: Twin) -> None:
    """For the UNet and both text encoders, as diffusers writes it."""
    pipe = diffusers_pipeline(twin, "euler")
    torch.manual_seed(1)
    layers: dict[str, Any] = {}
    for part, sites in LORA_SITES.items():
        config = LoraConfig(r=4, lora_alpha=2, target_modules=sites, init_lora_weights=False)
        getattr(pipe, part).add_adapter(config)
        layers[f"{part}_lora_layers"] = get_peft_model_state_dict(getattr(pipe, part))
        layers[f"{part}_lora_adapter_metadata"] = config.to_dict()
    pipe.save_lora_weights(twin.files, **layers)


def write_embedding(twin: Twin) -> None:
    """Two vectors for each text encoder, under the keys that SDXL's have."""
    torch.manual_seed(2)
    save_file({"clip_l": torch.randn(2, 24), "clip_g": torch.randn(2, 40)}, twin.files / "toy.safetensors")


def house() -> Pixels:
    """The content, as small as all pictures here."""
    return content()[::2, ::2]


# diffusers' pictures


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpmpp_2m"])
def test_sd2_with_v_prediction(scheduler: str, twin: Callable[[str], Twin], opened: Callable[..., Pipeline]) -> None:
    sd2, request = twin("sd2"), altered(BOAT, scheduler=scheduler, negative_prompt="a thing")
    expected = theirs(diffusers_pipeline(sd2, scheduler), request, **SIZE)
    assert psnr_db(alone(opened(sd2), request), expected) >= MIN_DB


@pytest.mark.parametrize(
    ("kind", "scheduler", "steps", "strength"),
    [
        ("sd2", "ddim", 7, 0.5),
        ("sd2", "dpmpp_2m", 8, 0.6),
        ("sd2", "unipc", 8, 0.6),
        ("sd2", "euler", 4, 1.0),
        ("turbo", "euler_a", 2, 0.5),
        ("turbo", "euler_a", 5, 0.79),
    ],
)
def test_from_content_the_first_steps_are_left_out(
    kind: str,
    scheduler: str,
    steps: int,
    strength: float,
    twin: Callable[[str], Twin],
    opened: Callable[..., Pipeline],
) -> None:
    """Under every scheduler but the consistency models'."""
    made = twin(kind)
    request = altered(BOAT, scheduler=scheduler, steps=steps, image=png(house()), strength=strength)
    pipe = diffusers_pipeline(made, scheduler, "StableDiffusionImg2ImgPipeline")
    expected = theirs(pipe, request, image=Image.fromarray(house()), strength=strength)
    assert psnr_db(alone(opened(made), request), expected) >= MIN_DB
    assert request.steps_to_run == int(steps * strength)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("negative", ["", "a thing"])
def test_sdxl(negative: str, engine: EngineName, twin: Callable[[str], Twin], opened: Callable[..., Pipeline]) -> None:
    """Nothing as the negative prompt is their None, for which zeros stand."""
    xl, request = twin("sdxl"), altered(BOAT, negative_prompt=negative, width=NARROW)
    assert xl.manifest["force_zeros_for_empty_prompt"]
    expected = theirs(diffusers_pipeline(xl, "euler"), request, width=NARROW, height=SIDE)
    assert psnr_db(alone(opened(xl, engine), request), expected) >= MIN_DB


def test_a_blank_negative_prompt_is_their_empty_one(
    twin: Callable[[str], Twin], opened: Callable[..., Pipeline]
) -> None:
    xl, request = twin("sdxl"), altered(BOAT, negative_prompt=" ")
    pipe = diffusers_pipeline(xl, "euler")
    found = alone(opened(xl), request)
    none = altered(request, negative_prompt="")
    assert psnr_db(found, theirs(pipe, none, negative_prompt="", **SIZE)) >= MIN_DB
    assert psnr_db(found, theirs(pipe, none, **SIZE)) < MATTERS_DB


def test_sdxl_from_content(twin: Callable[[str], Twin], opened: Callable[..., Pipeline]) -> None:
    xl, request = twin("sdxl"), altered(BOAT, image=png(house()), strength=0.5, steps=8)
    pipe = diffusers_pipeline(xl, "euler", "StableDiffusionXLImg2ImgPipeline")
    expected = theirs(pipe, request, image=Image.fromarray(house()), strength=0.5)
    assert psnr_db(alone(opened(xl), request), expected) >= MIN_DB


def test_a_lora_of_sdxl_and_both_its_text_encoders(styled: Twin, opened: Callable[..., Pipeline]) -> None:
    request = altered(BOAT, adapters=(("one", 0.7),), negative_prompt="a thing")
    pipe = diffusers_pipeline(styled, "euler")
    pipe.load_lora_weights(styled.files, weight_name="pytorch_lora_weights.safetensors", adapter_name="one")
    pipe.set_adapters(["one"], [0.7])
    found = alone(opened(styled), request)
    assert psnr_db(found, theirs(pipe, request, **SIZE)) >= MIN_DB
    assert psnr_db(found, alone(opened(styled), altered(request, adapters=()))) < MATTERS_DB


def test_an_embedding_of_both_text_encoders(styled: Twin, opened: Callable[..., Pipeline]) -> None:
    request = altered(BOAT, prompt="a boat in <toy>")
    pipe, vectors = diffusers_pipeline(styled, "euler"), load_file(styled.files / "toy.safetensors")
    for key, number in (("clip_l", ""), ("clip_g", "_2")):
        encoder, tokenizer = getattr(pipe, f"text_encoder{number}"), getattr(pipe, f"tokenizer{number}")
        pipe.load_textual_inversion(vectors[key], token="<toy>", text_encoder=encoder, tokenizer=tokenizer)
    # Of a config that says 2 transformers take the highest id for the text's end, which is now that of the new token.
    pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id
    assert psnr_db(alone(opened(styled), request), theirs(pipe, request, **SIZE)) >= MIN_DB


@pytest.mark.parametrize(("steps", "scale"), [(1, 8.5), (4, 8.5), (4, 1.0), (7, 3.3)])
def test_an_lcm_is_told_its_guidance(
    steps: int, scale: float, twin: Callable[[str], Twin], opened: Callable[..., Pipeline]
) -> None:
    lcm, request = twin("lcm"), altered(BOAT, scheduler="lcm", steps=steps, guidance_scale=scale)
    expected = theirs(diffusers_pipeline(lcm, "lcm"), request, **SIZE)
    assert psnr_db(alone(opened(lcm), request), expected) >= MIN_DB


@pytest.mark.parametrize(("steps", "strength"), [(4, 0.5), (1, 0.8), (8, 0.3)])
def test_an_lcm_from_content(
    steps: int, strength: float, twin: Callable[[str], Twin], opened: Callable[..., Pipeline]
) -> None:
    """All steps are run, over the lower part of what was taught."""
    lcm = twin("lcm")
    request = altered(BOAT, scheduler="lcm", steps=steps, image=png(house()), strength=strength)
    pipe = diffusers_pipeline(lcm, "lcm", "LatentConsistencyModelImg2ImgPipeline")
    expected = theirs(pipe, request, image=Image.fromarray(house()), strength=strength)
    assert psnr_db(alone(opened(lcm), request), expected) >= MIN_DB
    assert request.steps_to_run == len(pipe.scheduler.timesteps) == steps


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_lcm_scheduler_under_classifier_free_guidance(
    scale: float, twin: Callable[[str], Twin], opened: Callable[..., Pipeline]
) -> None:
    """As with an LCM-LoRA, which no UNet is told of; at a scale of 1 it is one lane."""
    turbo, request = twin("turbo"), altered(BOAT, scheduler="lcm", guidance_scale=scale)
    expected = theirs(diffusers_pipeline(turbo, "lcm"), request, **SIZE)
    assert psnr_db(alone(opened(turbo), request), expected) >= MIN_DB


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_turbo(scale: float, steps: int, twin: Callable[[str], Twin], opened: Callable[..., Pipeline]) -> None:
    """Trailing timesteps; a scale of 0 is what its users pass, and means no guidance."""
    turbo = twin("turbo")
    assert turbo.manifest["scheduler"]["timestep_spacing"] == "trailing"
    request = altered(BOAT, scheduler="euler_a", steps=steps, guidance_scale=scale)
    expected = theirs(diffusers_pipeline(turbo, "euler_a"), request, **SIZE)
    assert psnr_db(alone(opened(turbo), request), expected) >= MIN_DB


# Together = alone


@pytest.mark.parametrize("kind", ["sd2", "sdxl", "lcm"])
def test_a_mixed_batch_equals_each_alone(
    kind: str, twin: Callable[[str], Twin], styled: Twin, opened: Callable[..., Pipeline]
) -> None:
    """Unlike schedulers, scales, sizes and, of SDXL, adapters."""
    pipeline = opened(styled if kind == "sdxl" else twin(kind))
    schedulers = ("lcm", "euler_a", "dpmpp_2m", "lcm")
    requests = [
        altered(
            BOAT,
            seed=seed,
            scheduler=schedulers[seed % 4],
            guidance_scale=1.5 + seed % 3,
            steps=3 + seed % 4,
            width=(SIDE, NARROW)[seed % 5 == 0],
            negative_prompt="a thing" if kind != "lcm" and seed % 2 else "",
            adapters=(("one", 0.2 * seed),) if kind == "sdxl" and seed % 3 else (),
        )
        for seed in range(8)
    ]
    expected = [alone(pipeline, one) for one in requests]
    before = pipeline.stats.read()
    found = together(pipeline, [Arrival(one, after=index) for index, one in enumerate(requests)])
    after = pipeline.stats.read()
    assert (after["lanes"] - before["lanes"]) / (after["steps"] - before["steps"]) > 2, "nobody shared a batch"
    assert min(psnr_db(ours, solo) for ours, solo in zip(found, expected, strict=True)) >= MIN_SOLO_DB


# What is compared matters


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("sd2", {"prompt": "the thing in a boat by night"}),
        ("sdxl", {"prompt": "the thing in a boat by night"}),
        ("sdxl", {"width": NARROW}),
        ("lcm", {"guidance_scale": 2.0}),
        ("lcm", {"prompt": "the thing in a boat by night"}),
        ("lcm", {"seed": 8}),
    ],
)
def test_what_is_compared_matters(
    kind: str, changed: Any, twin: Callable[[str], Twin], opened: Callable[..., Pipeline]
) -> None:
    pipeline = opened(twin(kind))
    one, other = (alone(pipeline, request)[:, :NARROW] for request in (BOAT, altered(BOAT, **changed)))
    assert psnr_db(one, other) < MATTERS_DB


@pytest.mark.parametrize("width", [256, 13])
def test_the_guidance_embedding_is_diffusers(width: int) -> None:
    """But for what float32 leaves of their angles, which reach 49,000."""
    scales = [0.0, 0.5, 1.0, 1.7, 4.0, 7.5, 8.5, 13.37, 50.0]
    w = torch.cat([torch.tensor(scale - 1).reshape(1) for scale in scales])
    pipeline: Any = diffusers.LatentConsistencyModelPipeline
    expected = pipeline.get_guidance_scale_embedding(None, w, embedding_dim=width).numpy()
    wrong = np.abs(scale_embeddings(scales, width) - expected).max(axis=1)
    assert (wrong <= 1e-4 * (1 + np.abs(w.numpy()))).all()
