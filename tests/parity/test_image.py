"""A whole picture equals StableDiffusionPipeline's: same checkpoint, initial noise, scheduler and adapters, fp32."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler
from numpy.typing import NDArray
from PIL import Image
from studio.reading.psnr import psnr_db

from impasto_server.families.diffusion.diffusion import Diffusion
from impasto_server.pipeline import Pipeline
from impasto_server.request import Request
from impasto_server.settings import EngineName, Settings

from .conftest import Studio, diffusers_pipeline

SCHEDULERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "unipc": UniPCMultistepScheduler,
}
MIN_PSNR_DB = 40.0

MIXES: dict[str, dict[str, float]] = {"none": {}, "one": {"one": 0.8}, "mix": {"one": 0.6, "two": -0.4}}


def picture(pipeline: Pipeline, request: Request) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(pipeline.generate(request).image)))


def reference(studio: Studio, request: Request, noise: NDArray[np.float32]) -> NDArray[np.uint8]:
    pipe = diffusers_pipeline()
    pipe.scheduler = SCHEDULERS[request.scheduler].from_config(pipe.scheduler.config)
    for name, _ in request.adapters:
        pipe.load_lora_weights(studio.loras / name, weight_name="pytorch_lora_weights.safetensors", adapter_name=name)
    if request.adapters:
        pipe.set_adapters([name for name, _ in request.adapters], [weight for _, weight in request.adapters])
    image = pipe(
        request.prompt,
        negative_prompt=request.negative_prompt,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        latents=torch.from_numpy(noise)[None],
    ).images[0]
    return np.asarray(image)


def noise(pipeline: Pipeline, request: Request) -> NDArray[np.float32]:
    """What the pipeline begins with."""
    assert isinstance(pipeline._family, Diffusion)
    return pipeline._family.noise(request.seed, request.width, request.height)


# PEFT's, about the reference: two LoRAs on one model is what the test is about.
@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")
@pytest.mark.parametrize(
    ("engine", "scheduler", "mix"),
    [
        ("onnxruntime", "ddim", "none"),
        ("onnxruntime", "dpmpp_2m", "mix"),
        ("onnxruntime", "euler", "one"),
        ("openvino", "dpmpp_2m", "mix"),
    ],
)
def test_a_picture_equals_diffusers(engine: EngineName, scheduler: str, mix: str, studio: Studio) -> None:
    pipeline = Pipeline.load(Settings(studio.bundle, studio.registry, engine, "f32"))
    request = Request(
        prompt="a red boat at night in watercolour style",
        negative_prompt="a green cat",
        adapters=tuple(MIXES[mix].items()),
        steps=8,
        scheduler=scheduler,
        seed=11,
        width=128,
        height=128,
    )
    try:
        ours = picture(pipeline, request)
        theirs = reference(studio, request, noise(pipeline, request))
    finally:
        pipeline.close()
    assert psnr_db(ours, theirs) >= MIN_PSNR_DB


def test_the_adapters_change_the_picture(studio: Studio) -> None:
    """Or the test above could pass with adapters ignored on both sides."""
    pipeline = Pipeline.load(Settings(studio.bundle, studio.registry, "onnxruntime", "f32"))
    plain = Request("a red boat", seed=1, steps=4, width=128, height=128)
    styled = Request("a red boat", seed=1, steps=4, width=128, height=128, adapters=(("one", 0.8),))
    try:
        assert psnr_db(picture(pipeline, plain), picture(pipeline, styled)) < MIN_PSNR_DB
    finally:
        pipeline.close()
