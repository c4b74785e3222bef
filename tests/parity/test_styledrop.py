"""Masked tokens, StyleDrop's adapters and its rules equal plain torch: diffusers' modules in a loop after the papers.

Whoever else paints a picture is led by ours: at each step it has the tokens and the random numbers that ours had. Its
draws must be the same, but for those that fall between the two programs' sums; benchmarks/common/draws.py says when.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.common.draws import Decoding, Notes, Step, Story, Verdict, compare, drawing, leading, noted
from diffusers import AmusedPipeline, AmusedScheduler
from diffusers.loaders.lora_pipeline import AmusedLoraLoaderMixin
from numpy.typing import NDArray
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from studio.reading.psnr import psnr_db
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTokenizer

from impasto_export.adapters import importer
from impasto_export.adapters.importer import Said
from impasto_export.adapters.registry import Registry
from impasto_server.pipeline import Pipeline
from impasto_server.request import Request
from impasto_server.settings import Settings
from tests.helpers import checkpoints
from tests.helpers.asked import altered, request_of
from tests.helpers.codes import assert_nearest
from tests.helpers.pictures import png

from .conftest import Open, Studio, content, diffusers_pipeline
from .test_dreamstyler import LORA
from .test_image import SCHEDULERS
from .test_lanes import Arrival, alone, together

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")

Codes = NDArray[np.int64]

LORA_SITES = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2"]
TEMPLATE = "{context} in glass style"
MIN_PSNR_DB = 80.0
HOUSE = request_of(
    "a red house at night", seed=3, width=128, height=128, steps=12, guidance_scale=3.0, scheduler="amused"
)
DROPPED = altered(HOUSE, style=("glass",), guidance="styledrop", scheduler="maskgit", temperature=4.5)
COMPOSED = altered(DROPPED, guidance="styledrop-compose", content="toy", gamma=0.4)
CASES: dict[str, Request] = {
    "classifier-free": HOUSE,
    "another size, no guidance": altered(HOUSE, width=96, height=160, guidance_scale=1.0),
    "StyleDrop's annealing": altered(HOUSE, scheduler="maskgit", temperature=4.5),
    "guidance that rises": altered(HOUSE, guidance_ramp=True, negative_prompt="blurry"),
    "from content": altered(HOUSE, image=png(content()), strength=0.6),
    "adapters of either kind": altered(HOUSE, adapters=(("glass", 0.7), ("neon", -0.4), ("toy", 0.8))),
    "Eq. 4": DROPPED,
    "Eq. 4 under a mix": altered(DROPPED, style=(), adapters=(("neon", 1.0), ("toy", 0.5)), text_strength=0.0),
    "two adapters": COMPOSED,
    "two adapters, rising": altered(COMPOSED, guidance_ramp=True, style_strength=1.0, content_prompt="a red cat"),
}


# The reference


@dataclass(frozen=True)
class Bottleneck:
    """A plain adapter of the paper: x + Wu gelu(Wd x) on the outputs of `sites`, down [D, H], up [H, D] each."""

    sites: Mapping[str, tuple[Tensor, Tensor]]
    gelu: str

    def at(self, site: str, y: Tensor) -> Tensor:
        down, up = self.sites[site]
        return F.gelu(y @ down, approximate="tanh" if self.gelu == "tanh" else "none") @ up

    def save(self, folder: Path) -> None:
        tensors = {f"{site}.down": down for site, (down, _) in self.sites.items()}
        tensors |= {f"{site}.up": up for site, (_, up) in self.sites.items()}
        places = {place: [site for site in self.sites if site.endswith(place)] for place in ("attn2", "ff")}
        record = {"gelu": self.gelu, "shared": False, "prompt": TEMPLATE, "sites": places}
        folder.mkdir(parents=True)
        save_file(tensors, folder / "bottleneck.safetensors", metadata={"bottleneck": json.dumps(record)})


@dataclass(frozen=True)
class Muse:
    """The checkpoint's modules, fp32; bottleneck adapters by name, and one LoRA, `toy`, in PEFT's hands."""

    text: Any
    transformer: Any
    vqvae: Any
    tokenizer: CLIPTokenizer
    bottlenecks: Mapping[str, Bottleneck]

    def logits(self, tokens: Tensor, text: str, mix: Mapping[str, float]) -> Tensor:
        """[codes, h, w] for tokens [h, w], under adapters with their weights."""
        ids = self.tokenizer([text], padding="max_length", truncation=True, return_tensors="pt").input_ids
        said = self.text(ids, output_hidden_states=True)
        height, width = (8 * size for size in tokens.shape)
        conditions = torch.tensor([[width, height, 0, 0, 6]]).float()
        with self._adapted(mix):
            answer: Tensor = self.transformer(tokens[None], said.hidden_states[-2], said.text_embeds, conditions)[0]
        return answer

    @contextmanager
    def _adapted(self, mix: Mapping[str, float]) -> Iterator[None]:
        if "toy" in mix:
            self.transformer.enable_adapters()
            self.transformer.set_adapters(["toy"], [mix["toy"]])
        else:
            self.transformer.disable_adapters()
        with ExitStack() as hooks:
            for site in {
                site for name in mix.keys() & self.bottlenecks.keys() for site in self.bottlenecks[name].sites
            }:
                module = self.transformer.get_submodule(site)
                hooks.callback(module.register_forward_hook(self._hook(site, mix)).remove)
            yield

    def _hook(self, site: str, mix: Mapping[str, float]) -> Callable[[Any, Any, Tensor], Tensor]:
        named = [(self.bottlenecks[name], weight) for name, weight in mix.items() if name in self.bottlenecks]
        return lambda module, inputs, y: y + sum(weight * adapter.at(site, y) for adapter, weight in named)


def random_bottleneck(transformer: Any, seed: int, rank: int, gelu: str) -> Bottleneck:
    draw = torch.Generator().manual_seed(seed)
    names = [name for name, _ in transformer.named_modules() if name.split(".")[-1] in ("attn2", "ff")]
    width = transformer.config.hidden_size
    return Bottleneck(
        {
            name: (
                torch.randn(width, rank, generator=draw) / width**0.5,
                torch.randn(rank, width, generator=draw) / rank**0.5,
            )
            for name in names
        },
        gelu,
    )


@pytest.fixture(scope="module")
def muse(masked_checkpoint: Path) -> Muse:
    text, transformer, vqvae = (checkpoints.masked_model(part, 1).eval() for part in checkpoints.MASKED)
    adapters = {
        "glass": random_bottleneck(transformer, 1, 6, "exact"),
        "neon": random_bottleneck(transformer, 2, 3, "tanh"),
    }
    torch.manual_seed(4)
    config = LoraConfig(r=4, lora_alpha=3, target_modules=LORA_SITES, init_lora_weights=False)
    transformer.add_adapter(config, adapter_name="toy")
    return Muse(text, transformer, vqvae, CLIPTokenizer.from_pretrained(masked_checkpoint / "tokenizer"), adapters)


@pytest.fixture(scope="module")
def registry(muse: Muse, masked_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same adapters, imported from the files that are written of such."""
    folder = tmp_path_factory.mktemp("styledrop")
    for name, adapter in muse.bottlenecks.items():
        adapter.save(folder / name)
    layers = get_peft_model_state_dict(muse.transformer, adapter_name="toy")
    AmusedLoraLoaderMixin.save_lora_weights(folder / "toy", transformer_lora_layers=layers)
    manifest = json.loads((masked_bundle / "manifest.json").read_text())
    found = Registry(folder / "registry")
    for name in ("glass", "neon"):
        found.put(name, importer.convert(folder / name, manifest, Said()).data)
    found.put("toy", importer.convert(folder / "toy", manifest, Said(alpha=3.0)).data)
    return found.folder


def paint(muse: Muse, request: Request, story: Story) -> list[Step]:
    """A plain loop over what `story`'s steps had."""
    shape = request.size.height // 8, request.size.width // 8
    stage = Decoding(
        request.sampling.steps,
        request.own["TEMPERATURE"],
        request.sampling.scheduler,
        request.sampling.steps - len(story.steps),
    )

    def answer(tokens: Tensor, rise: float) -> Tensor:
        def G(text: str, mix: Mapping[str, float]) -> Tensor:
            return muse.logits(tokens.reshape(shape), text, mix)

        return guided(G, request, request.strengths, rise)

    return led(story, stage, answer, request.sampling.ramp, checkpoints.MASK_ID)


@torch.no_grad()
def led(story: Story, stage: Decoding, answer: Callable[[Tensor, float], Tensor], ramp: bool, mask: int) -> list[Step]:
    """MaskGIT's decoding as StyleDrop's appendix and aMUSEd have it, over what `story`'s steps had.

    `answer` gives guided logits [codes, h, w] for tokens [n], with all strengths times a number.
    """
    total, first, steps = stage.steps, stage.behind, list[Step]()
    for k, (told, chance) in enumerate(zip(story.steps, story.chances, strict=True), first):
        tokens, uniform = torch.from_numpy(told.tokens), torch.from_numpy(chance.uniform)
        ran = (k - first) / max(1, total - first - 1) if total - first > 1 else 1.0
        logits, unknown = answer(tokens, ran if ramp else 1.0).flatten(1), tokens == mask
        p = logits.double().softmax(0)
        drawn = torch.where(unknown, (p.cumsum(0) <= uniform).sum(0).clamp(max=len(p) - 1), tokens)
        r = (k + 1) / total
        tau = stage.temperature * (1 - r if stage.scheduler == "maskgit" else 1 - k / max(1, total - 1))
        # In float32, as diffusers has it: where the count is whole, that decides.
        left = tokens.numel() * torch.cos(torch.tensor((k + 1) / total) * math.pi / 2)
        count = max(1, min(int(unknown.sum()) - 1, int(left.floor()))) if k < total - 1 else 0
        confidence = p.gather(0, drawn[None])[0].log() + tau * torch.from_numpy(chance.gumbel)
        confidence[~unknown] = math.inf
        again = torch.zeros_like(unknown).index_fill(0, confidence.argsort()[:count], True)
        steps.append(Step(told.tokens, *(found.numpy() for found in (unknown, logits, drawn, again))))
    return steps


def guided(
    logits: Callable[[str, Mapping[str, float]], Tensor], request: Request, strengths: Mapping[str, float], rise: float
) -> Tensor:
    """The rules as the papers write them, over the logits of a text under a mix; all strengths times `rise`."""

    def G(text: str, mix: Mapping[str, float] | None = None) -> Tensor:
        return logits(text, mix or {})

    null, mix = request.words.negative_prompt, dict(request.styles.adapters)
    if request.rule.name == "cfg":
        cond = G(request.words.prompt, mix)
        return cond + rise * (strengths["GUIDANCE_SCALE"] - 1) * (cond - G(null, mix))
    a, b = rise * strengths["STYLE_STRENGTH"], rise * strengths["TEXT_STRENGTH"]

    def eq_4(text: str, mix: Mapping[str, float]) -> Tensor:
        adapted, plain = G(text, mix), G(text)
        return adapted + a * (adapted - plain) + b * (plain - G(null))

    t = TEMPLATE.format(context=request.words.prompt) if request.styles.style else request.words.prompt
    style = eq_4(t, mix | dict.fromkeys(request.styles.style, 1.0))
    if request.styles.content is None:
        return style
    return (1 - request.strengths["GAMMA"]) * style + request.strengths["GAMMA"] * eq_4(
        request.styles.content_prompt or request.words.prompt, {request.styles.content: 1.0}
    )


# Its tokens are ours


@pytest.fixture(scope="module")
def pipeline(masked_bundle: Path, registry: Path) -> Iterator[Pipeline]:
    opened = Pipeline.load(Settings(masked_bundle, registry, "onnxruntime", precision="f32", threads=1))
    yield opened
    opened.close()


def hidden(request: Request, draws: np.random.Generator) -> NDArray[np.bool_]:
    """The places that are unknown at first, [h, w]."""
    shape = request.size.height // 8, request.size.width // 8
    if request.content.image is None:
        return np.ones(shape, np.bool_)
    first = request.sampling.steps - int(request.sampling.steps * request.content.strength)
    return draws.random(shape) < math.cos(math.pi * first / request.sampling.steps / 2)


def told(notes: Notes, request: Request) -> Story:
    draws = np.random.Generator(np.random.Philox(request.seeds.seed))
    return notes.story(request, draws, hidden(request, draws).size)


def painted(pipeline: Pipeline, request: Request) -> Story:
    with noted() as notes:
        pipeline.generate(request)
    return told(notes, request)


def assert_right(verdict: Verdict) -> None:
    assert not verdict.wrong, "\n".join(verdict.wrong)
    assert verdict.between <= verdict.drawn / 100, "so many can't fall between two sums"


@pytest.mark.parametrize("case", CASES)
def test_tokens_equal_a_plain_torch_loop(case: str, muse: Muse, pipeline: Pipeline) -> None:
    request = CASES[case]
    story = painted(pipeline, request)
    assert len(story.steps) == request.steps_to_run
    assert_right(compare(story, paint(muse, request, story)))


@pytest.mark.parametrize("case", CASES)
def test_what_is_known_at_first_are_the_contents_tokens(case: str, muse: Muse, pipeline: Pipeline) -> None:
    request = CASES[case]
    first = painted(pipeline, request).steps[0]
    unknown = hidden(request, np.random.Generator(np.random.Philox(request.seeds.seed)))
    np.testing.assert_array_equal(first.unknown, unknown.reshape(-1))
    if request.content.image is not None:
        image = torch.from_numpy(content()).permute(2, 0, 1)[None] / 255
        assert_nearest(first.tokens.reshape(1, *unknown.shape), muse.vqvae, image, ~unknown[None])


def test_every_case_paints_another_picture(pipeline: Pipeline) -> None:
    same_size = [request for request in CASES.values() if request.size.width == request.size.height]
    pictures = [painted(pipeline, request).tokens for request in same_size]
    for i, one in enumerate(pictures):
        assert all((one != other).mean() > 0.3 for other in pictures[:i])


@pytest.mark.parametrize("steps", [1, 2, 12])
def test_tokens_equal_diffusers_pipeline(steps: int, muse: Muse, pipeline: Pipeline) -> None:
    request = altered(HOUSE, steps=steps, negative_prompt="blurry")
    with noted() as notes:
        picture = alone(pipeline, request)
    story = told(notes, request)
    pipe = AmusedPipeline(
        muse.vqvae, muse.tokenizer, muse.text, muse.transformer, AmusedScheduler(mask_token_id=checkpoints.MASK_ID)
    )
    pipe.set_progress_bar_config(disable=True)
    muse.transformer.disable_adapters()
    with drawing(np.random.Generator(np.random.Philox(request.seeds.seed))), leading(story) as theirs:
        image = pipe(
            request.words.prompt,
            negative_prompt=request.words.negative_prompt,
            num_inference_steps=steps,
            guidance_scale=request.strengths["GUIDANCE_SCALE"],
            width=128,
            height=128,
        ).images[0]
    assert_right(compare(story, theirs))
    assert psnr_db(picture, np.asarray(image)) >= MIN_PSNR_DB


def test_sixteen_together_equal_each_alone(pipeline: Pipeline) -> None:
    """Mixed in a batch: rules, adapters, sizes of guidance, samplers."""
    square = [request for request in CASES.values() if request.size.width == request.size.height]
    requests = [altered(square[i % len(square)], seed=100 + i) for i in range(16)]
    with noted() as notes:
        pictures = together(pipeline, [Arrival(request, 3 * i) for i, request in enumerate(requests)])
    for request, picture in zip(requests, pictures, strict=True):
        assert_follows(pipeline, request, told(notes, request), picture)


def test_the_engines_paint_the_same_tokens(pipeline: Pipeline, masked_bundle: Path, registry: Path) -> None:
    other = Pipeline.load(Settings(masked_bundle, registry, "openvino", precision="f32", threads=1))
    try:
        for case in ("classifier-free", "two adapters"):
            with noted() as notes:
                picture = alone(pipeline, CASES[case])
            assert_follows(other, CASES[case], told(notes, CASES[case]), picture)
    finally:
        other.close()


def assert_follows(pipeline: Pipeline, request: Request, story: Story, picture: NDArray[np.uint8]) -> None:
    """Led by `story`, `pipeline` draws the same tokens and paints `picture`."""
    with noted(story) as notes:
        other = alone(pipeline, request)
    assert_right(compare(story, notes.led(story)))
    assert psnr_db(other, picture) >= MIN_PSNR_DB


# The same rules over noise predictions


@torch.no_grad()
def denoise(pipe: Any, request: Request, noise: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Section 3.4 on latents, with LoRAs: `style` and `content` name them."""
    scheduler = SCHEDULERS[request.sampling.scheduler].from_config(pipe.scheduler.config)
    scheduler.set_timesteps(request.sampling.steps)
    x = torch.from_numpy(noise)[None] * scheduler.init_noise_sigma

    def under(adapter: str | None, text: str) -> tuple[str | None, Tensor]:
        switch(pipe, adapter)
        return adapter, pipe.encode_prompt(text, "cpu", 1, False)[0]

    def predict(lane: tuple[str | None, Tensor], sample: Tensor, t: Tensor) -> Tensor:
        switch(pipe, lane[0])
        found: Tensor = pipe.unet(sample, t, lane[1]).sample
        return found

    c = request.styles.content_prompt or request.words.prompt
    lanes = [
        under(request.styles.style[0], request.words.prompt),
        under(None, request.words.prompt),
        under(request.styles.content, c),
        under(None, c),
        under(None, request.words.negative_prompt),
    ]
    a, b, gamma = request.strengths["STYLE_STRENGTH"], request.strengths["TEXT_STRENGTH"], request.strengths["GAMMA"]
    for t in scheduler.timesteps:
        sample = scheduler.scale_model_input(x, t)
        adapted_s, plain_s, adapted_c, plain_c, null = (predict(lane, sample, t) for lane in lanes)
        style = adapted_s + a * (adapted_s - plain_s) + b * (plain_s - null)
        content = adapted_c + a * (adapted_c - plain_c) + b * (plain_c - null)
        x = scheduler.step((1 - gamma) * style + gamma * content, t, x).prev_sample
    image = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
    return np.asarray(pipe.image_processor.postprocess(image)[0])


def switch(pipe: Any, adapter: str | None) -> None:
    if adapter is None:
        pipe.disable_lora()
    else:
        pipe.enable_lora()
        pipe.set_adapters([adapter], [1.0])


@pytest.mark.parametrize("gamma", [0.0, 0.6])
def test_loras_of_a_diffusion_model_compose(gamma: float, studio: Studio, open_pipeline: Open) -> None:
    request = request_of(
        "a red house by the sea in oil style",
        seed=5,
        width=128,
        height=128,
        steps=8,
        style=("one",),
        content="two",
        content_prompt="a red house by the sea",
        guidance="styledrop-compose",
        style_strength=0.5,
        text_strength=2.0,
        gamma=gamma,
    )
    pipe = diffusers_pipeline()
    for name in ("one", "two"):
        pipe.load_lora_weights(studio.loras / name, **LORA, adapter_name=name)
    ours = open_pipeline("onnxruntime", precision="f32", threads=1)
    noise = ours.family.noise(request.seeds.seed, 128, 128)  # type: ignore[attr-defined]
    assert psnr_db(alone(ours, request), denoise(pipe, request, noise)) >= MIN_PSNR_DB
