"""Styles in stages, dual guidance and style transfer equal plain torch: diffusers' modules in a loop after the paper.

In the reference an embedding's vectors are words of the tokenizer and of the text encoder's table, and prompts name the
words of the stage, step by step (arXiv 2309.06933).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetImg2ImgPipeline
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from studio.reading.psnr import psnr_db

from impasto_server.pipeline import Pipeline
from impasto_server.request import CODE_NEGATIVE_PROMPT, Request
from impasto_server.settings import EngineName
from tests.helpers.pictures import png

from .conftest import EMBEDDINGS, Open, Studio, content, diffusers_pipeline, nearness
from .test_image import MIN_PSNR_DB, SCHEDULERS, noise
from .test_lanes import MIN_SOLO_DB, Arrival, Pixels, alone, together

# PEFT's, about the reference: two LoRAs on one model is what the test is about.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")

MATTERS_DB = 30.0
LORA = {"weight_name": "pytorch_lora_weights.safetensors"}
HOUSE = Request("a red house by the sea", seed=5, width=128, height=128, steps=12)
STYLED = replace(HOUSE, style=("oil",), guidance="dreamstyler", guidance_scale=5.0)
CASES: dict[str, Request] = {
    "the paper's constants": STYLED,
    "unipc": replace(STYLED, scheduler="unipc", negative_prompt="blurry"),
    "the code's convention": replace(STYLED, guidance="dreamstyler-code", negative_prompt=CODE_NEGATIVE_PROMPT),
    "strong style": replace(STYLED, style_guidance=3.0, content_guidance=-1.0, scheduler="ddim", width=96),
    "a style for each stage": replace(STYLED, style=("ink", "oil", "oil", "ink", "oil", "ink")),
    "a style for each third": replace(STYLED, style=("oil", "toy", "ink"), guidance="cfg"),
    "object and style": replace(STYLED, prompt="a <toy> by the sea"),
    "triggers alone": replace(HOUSE, prompt="a <toy> in <ink>", guidance_scale=5.0, scheduler="unipc"),
    "a LoRA, too": replace(STYLED, style=("ink",), adapters=(("one", 0.8), ("two", -0.3))),
    "from content": replace(STYLED, image=png(content()), steps=15, scheduler="unipc"),
}
TRANSFER = replace(
    HOUSE,
    style=("oil",),
    image=png(content()),
    depth=png(nearness()),
    steps=30,
    strength=0.8,
    control_scale=0.8,
    guidance_scale=7.5,
    scheduler="unipc",
)


# The reference


@dataclass(frozen=True)
class Painter:
    """diffusers in fp32, with the embeddings' vectors in its vocabulary and both LoRAs loaded, and the ControlNet."""

    pipe: Any
    controlnet: Any

    def prepare(self, request: Request) -> Any:
        """A scheduler of the request's; its LoRAs are switched on."""
        if request.adapters:
            self.pipe.enable_lora()
            self.pipe.set_adapters([name for name, _ in request.adapters], [weight for _, weight in request.adapters])
        else:
            self.pipe.disable_lora()
        scheduler = SCHEDULERS[request.scheduler].from_config(self.pipe.scheduler.config)
        scheduler.set_timesteps(request.steps)
        return scheduler

    def encode(self, text: str, t: int) -> torch.Tensor:
        """Prompt embeds [1, T, D] of the text as it is spoken at the training timestep t."""
        embeds: torch.Tensor = self.pipe.encode_prompt(spoken(text, t), "cpu", 1, False)[0]
        return embeds

    def clean(self, pixels: Pixels) -> torch.Tensor:
        """Latents [1, C, h, w]: the posterior's mean."""
        unit = torch.from_numpy(pixels / 255).permute(2, 0, 1)[None].float()
        mean: torch.Tensor = self.pipe.vae.encode(2 * unit - 1).latent_dist.mean
        return mean.mul(self.pipe.vae.config.scaling_factor)

    def decode(self, latents: torch.Tensor) -> Pixels:
        image = self.pipe.vae.decode(latents / self.pipe.vae.config.scaling_factor).sample
        return np.asarray(self.pipe.image_processor.postprocess(image)[0])


@pytest.fixture(scope="module")
def painter(studio: Studio) -> Painter:
    pipe = diffusers_pipeline()
    for name in EMBEDDINGS:
        learn(pipe, studio.embeddings / f"{name}.safetensors")
    for name in ("one", "two"):
        pipe.load_lora_weights(studio.loras / name, **LORA, adapter_name=name)
    return Painter(pipe, ControlNetModel.from_pretrained(studio.controlnet, dtype=torch.float32))


def learn(pipe: Any, file: Path) -> None:
    """Each vector becomes a word."""
    rows = {f"{word}-{i}": row for word, vectors in load_file(file).items() for i, row in enumerate(vectors)}
    pipe.tokenizer.add_tokens(list(rows))
    table = pipe.text_encoder.get_input_embeddings().weight
    ids = pipe.tokenizer.convert_tokens_to_ids(list(rows))
    assert max(ids) < len(table), "this vocabulary has room for words"
    with torch.no_grad():
        table[ids] = torch.stack(list(rows.values()))


def spoken(text: str, t: int) -> str:
    """`<name>` becomes the words of its stage at the training timestep t."""

    def words(trigger: re.Match[str]) -> str:
        stages = EMBEDDINGS[trigger[1]]
        stage = t * len(stages) // 1000
        return " ".join(f"<{trigger[1]}>-T{stage}-{i}" for i in range(len(stages[stage].split())))

    return re.sub(r"<(\w+)>", words, text)


def eq_11(
    null: torch.Tensor, v: torch.Tensor, v_c: torch.Tensor, v_s: torch.Tensor, n: float, s: float, c: float
) -> torch.Tensor:
    """As the paper writes it; λn, λs, λc."""
    return null + n * (v - null) + c * (v_c - null) + s * (v - v_c) + s * (v_s - null) + c * (v - v_s)


def strengths(request: Request) -> tuple[float, float, float]:
    """λn, λs, λc of Eq. 11; with λs = λc = 0 it is classifier-free guidance."""
    half = {"cfg": 0.0, "dreamstyler": 1.0, "dreamstyler-code": 0.5}[request.guidance]
    return request.guidance_scale, half * request.style_guidance, half * request.content_guidance


def hint(request: Request) -> torch.Tensor:
    """[1, 3, H, W]: edges, edges, depth."""
    grey = cv2.GaussianBlur(cv2.cvtColor(content(), cv2.COLOR_RGB2GRAY), (3, 3), 0)
    edges = cv2.Canny(grey, 100, 200) / 255
    depth = np.zeros_like(edges) if request.depth is None else nearness() / 255
    return torch.from_numpy(np.stack([edges, edges, depth]))[None].float()


@torch.no_grad()
def paint(painter: Painter, request: Request, noise: NDArray[np.float32]) -> Pixels:
    """The picture, in a plain loop."""
    scheduler = painter.prepare(request)
    timesteps, x = start(painter, scheduler, request, noise)
    for t in timesteps:
        sample = scheduler.scale_model_input(x, t)
        null, v, v_c, v_s = (predict(painter, request, sample, int(t), text) for text in texts(request, int(t)))
        x = scheduler.step(eq_11(null, v, v_c, v_s, *strengths(request)), t, x).prev_sample
    return painter.decode(x)


def start(
    painter: Painter, scheduler: Any, request: Request, noise: NDArray[np.float32]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The timesteps to run, and the sample at the first of them."""
    drawn = torch.from_numpy(noise)[None]
    if request.image is None:
        return scheduler.timesteps, drawn * scheduler.init_noise_sigma
    first = request.steps - int(request.steps * request.strength)
    scheduler.set_begin_index(first)
    timesteps = scheduler.timesteps[first:]
    return timesteps, scheduler.add_noise(painter.clean(content()), drawn, timesteps[:1])


def texts(request: Request, t: int) -> tuple[str, str, str, str]:
    """∅, v, v_c and v_s at the training timestep t."""
    context = request.prompt
    if not request.style:
        return request.negative_prompt, context, context, context
    style = f"<{request.style[t * len(request.style) // 1000]}>"
    return (
        request.negative_prompt,
        f"{context}, in the style of {style}",
        context,
        f"A painting in the style of {style}",
    )


def predict(painter: Painter, request: Request, sample: torch.Tensor, t: int, text: str) -> torch.Tensor:
    context, control = painter.encode(text, t), {}
    if request.image is not None:
        *down, mid = flat(
            painter.controlnet(sample, t, context, hint(request), request.control_scale, return_dict=False)
        )
        control = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    output: torch.Tensor = painter.pipe.unet(sample, t, context, **control).sample
    return output


def flat(residuals: tuple[tuple[torch.Tensor, ...], torch.Tensor]) -> tuple[torch.Tensor, ...]:
    down, mid = residuals
    return *down, mid


# Its pictures are ours


def open_f32(open_pipeline: Open, engine: EngineName = "onnxruntime") -> Pipeline:
    return open_pipeline(engine, precision="f32", threads=1)


@pytest.mark.parametrize("case", CASES)
def test_a_picture_equals_the_plain_loop(case: str, open_pipeline: Open, painter: Painter) -> None:
    pipeline, request = open_f32(open_pipeline), CASES[case]
    assert psnr_db(alone(pipeline, request), paint(painter, request, noise(pipeline, request))) >= MIN_PSNR_DB


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_style_transfer_equals_diffusers(engine: EngineName, open_pipeline: Open, painter: Painter) -> None:
    pipeline = open_f32(open_pipeline, engine)
    assert TRANSFER.steps_to_run == 24
    found = alone(pipeline, TRANSFER)
    assert psnr_db(found, transfer(painter, TRANSFER, noise(pipeline, TRANSFER))) >= MIN_PSNR_DB


@torch.no_grad()
def transfer(painter: Painter, request: Request, noise: NDArray[np.float32]) -> Pixels:
    """diffusers' own pipeline; the prompt changes between its steps, and the content is the posterior's mean."""
    scheduler = painter.prepare(request)
    timesteps, latents = start(painter, scheduler, request, noise)

    def embeds(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        null, v, *_ = texts(request, int(t))
        return painter.encode(null, int(t)), painter.encode(v, int(t))

    def turn(pipe: Any, step: int, t: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        following = timesteps[min(step + 1, len(timesteps) - 1)]
        return {"prompt_embeds": torch.cat(embeds(following))}

    parts = {**painter.pipe.components, "scheduler": scheduler, "controlnet": painter.controlnet}
    pipe: Any = StableDiffusionControlNetImg2ImgPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    null, v = embeds(timesteps[0])
    made = pipe(
        prompt_embeds=v,
        negative_prompt_embeds=null,
        image=Image.fromarray(content()),
        control_image=hint(request),
        strength=request.strength,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        controlnet_conditioning_scale=request.control_scale,
        latents=latents,
        callback_on_step_end=turn,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    )
    return np.asarray(made.images[0])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_all_of_them_in_flight_together_equal_their_solo_runs(engine: EngineName, open_pipeline: Open) -> None:
    pipeline = open_f32(open_pipeline, engine)
    others = [HOUSE, replace(HOUSE, adapters=(("two", 0.7),), guidance_scale=7.5, scheduler="euler")]
    requests = [*CASES.values(), TRANSFER, *others]
    expected = [alone(pipeline, request) for request in requests]
    before = pipeline.stats.read()
    found = together(pipeline, [Arrival(request, after=index) for index, request in enumerate(requests)])
    after = pipeline.stats.read()
    assert (after["lanes"] - before["lanes"]) / (after["steps"] - before["steps"]) > 4, "nobody shared a batch"
    worst = min(psnr_db(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert worst >= MIN_SOLO_DB["f32"]


# Each of these turns something into another thing that the tests above would have to notice.
CHANGES: dict[str, tuple[Request, Request]] = {
    "style": (STYLED, replace(STYLED, style=("ink",))),
    "its stages": (replace(STYLED, style=("oil", "ink")), replace(STYLED, style=("ink", "oil"))),
    "rule": (STYLED, replace(STYLED, guidance="cfg")),
    "convention": (STYLED, replace(STYLED, guidance="dreamstyler-code")),
    "object": (CASES["object and style"], replace(STYLED, prompt="a <ink> by the sea")),
    "content": (TRANSFER, replace(TRANSFER, image=png(content()[::-1]))),
    "control": (TRANSFER, replace(TRANSFER, control_scale=0.0, depth=None)),
    "depth": (TRANSFER, replace(TRANSFER, depth=None)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_compared_matters(change: str, open_pipeline: Open) -> None:
    one, other = (alone(open_f32(open_pipeline), request) for request in CHANGES[change])
    assert psnr_db(one, other) < MATTERS_DB
