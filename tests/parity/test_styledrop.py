"""Masked tokens, StyleDrop's adapters and its rules equal plain torch: diffusers' modules in a loop after the papers.

The loop reads its random numbers from the seed in the server's order, uniform before Gumbel, so tokens must be equal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AmusedPipeline, AmusedScheduler
from diffusers.loaders.lora_pipeline import AmusedLoraLoaderMixin
from diffusers.schedulers import scheduling_amused
from numpy.typing import NDArray
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTokenizer

import checkpoints
from impasto_export.adapters import importer
from impasto_export.adapters.importer import Said
from impasto_export.adapters.registry import Registry
from impasto_server.pipeline import Pipeline
from impasto_server.request import Request
from impasto_server.settings import Settings

from .conftest import Open, Studio, content, diffusers_pipeline, png
from .test_dreamstyler import LORA
from .test_image import SCHEDULERS
from .test_lanes import Arrival, alone, psnr_db, together

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")

Codes = NDArray[np.int64]

LORA_SITES = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2"]
TEMPLATE = "{context} in glass style"
MIN_PSNR_DB = 80.0
HOUSE = Request("a red house at night", seed=3, width=128, height=128, steps=12, guidance_scale=3.0, scheduler="amused")
DROPPED = replace(HOUSE, style=("glass",), guidance="styledrop", scheduler="maskgit", temperature=4.5)
COMPOSED = replace(DROPPED, guidance="styledrop-compose", content="toy", gamma=0.4)
CASES: dict[str, Request] = {
    "classifier-free": HOUSE,
    "another size, no guidance": replace(HOUSE, width=96, height=160, guidance_scale=1.0),
    "StyleDrop's annealing": replace(HOUSE, scheduler="maskgit", temperature=4.5),
    "guidance that rises": replace(HOUSE, guidance_ramp=True, negative_prompt="blurry"),
    "from content": replace(HOUSE, image=png(content()), strength=0.6),
    "adapters of either kind": replace(HOUSE, adapters=(("glass", 0.7), ("neon", -0.4), ("toy", 0.8))),
    "Eq. 4": DROPPED,
    "Eq. 4 under a mix": replace(DROPPED, style=(), adapters=(("neon", 1.0), ("toy", 0.5)), text_strength=0.0),
    "two adapters": COMPOSED,
    "two adapters, rising": replace(COMPOSED, guidance_ramp=True, style_strength=1.0, content_prompt="a red cat"),
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


@torch.no_grad()
def paint(muse: Muse, request: Request) -> Codes:
    """The picture's tokens, in a plain loop (arXiv 2306.00983, appendix; methods of MaskGIT and aMUSEd)."""
    draws = np.random.Generator(np.random.Philox(request.seed))
    total, mask = request.steps, checkpoints.MASK_ID
    tokens, first = start(muse, request, draws)
    everything = tokens.numel()
    for k in range(first, total):
        ran = (k - first) / max(1, total - first - 1)
        logits = guided(muse, request, tokens, ran if request.guidance_ramp else 1.0).double()
        uniform, noise = (torch.from_numpy(draw(size=tokens.shape)) for draw in (draws.random, draws.gumbel))
        unknown = tokens == mask
        p = logits.softmax(0)
        drawn = torch.where(unknown, (p.cumsum(0) <= uniform).sum(0).clamp(max=len(p) - 1), tokens)
        if k == total - 1:
            return drawn.numpy()
        r = (k + 1) / total
        tau = request.temperature * (1 - r if request.scheduler == "maskgit" else 1 - k / (total - 1))
        # In float32, as diffusers has it: where the count is whole, that decides.
        left = everything * torch.cos(torch.tensor((k + 1) / total) * math.pi / 2)
        count = max(1, min(int(unknown.sum()) - 1, int(left.floor())))
        confidence = p.gather(0, drawn[None])[0].log() + tau * noise
        confidence[~unknown] = math.inf
        tokens = drawn.clone()
        tokens.view(-1)[confidence.view(-1).argsort()[:count]] = mask
    raise AssertionError("there is a last step")


def start(muse: Muse, request: Request, draws: np.random.Generator) -> tuple[Tensor, int]:
    """Tokens, and the steps that count as done."""
    blank = torch.full((request.height // 8, request.width // 8), checkpoints.MASK_ID)
    if request.image is None:
        return blank, 0
    image = torch.from_numpy(content()).permute(2, 0, 1)[None] / 255
    codes = muse.vqvae.quantize(muse.vqvae.encode(image).latents)[2][2].reshape(blank.shape)
    first = request.steps - int(request.steps * request.strength)
    hidden = torch.from_numpy(draws.random(blank.shape)) < math.cos(math.pi * first / request.steps / 2)
    return torch.where(hidden, blank, codes), first


def guided(muse: Muse, request: Request, tokens: Tensor, rise: float) -> Tensor:
    """The rules as the papers write them; all strengths times `rise`."""

    def G(text: str, mix: Mapping[str, float] | None = None) -> Tensor:
        return muse.logits(tokens, text, mix or {})

    null, mix = request.negative_prompt, dict(request.adapters)
    if request.guidance == "cfg":
        cond = G(request.prompt, mix)
        return cond + rise * (request.guidance_scale - 1) * (cond - G(null, mix))
    a, b = rise * request.style_strength, rise * request.text_strength

    def eq_4(text: str, mix: Mapping[str, float]) -> Tensor:
        adapted, plain = G(text, mix), G(text)
        return adapted + a * (adapted - plain) + b * (plain - G(null))

    t = TEMPLATE.format(context=request.prompt) if request.style else request.prompt
    style = eq_4(t, mix | dict.fromkeys(request.style, 1.0))
    if request.content is None:
        return style
    return (1 - request.gamma) * style + request.gamma * eq_4(
        request.content_prompt or request.prompt, {request.content: 1.0}
    )


# Its tokens are ours


@pytest.fixture(scope="module")
def pipeline(masked_bundle: Path, registry: Path) -> Iterator[Pipeline]:
    opened = Pipeline.load(Settings(masked_bundle, registry, "onnxruntime", precision="f32", threads=1))
    yield opened
    opened.close()


@pytest.fixture
def tokens_of(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Callable[[Request], list[Codes]]:
    """A request's finished tokens, best taken before they are pixels."""
    seen: list[Codes] = []
    decode = pipeline._family.decode

    def note(sample: Codes) -> NDArray[np.uint8]:
        seen.append(sample)
        return decode(sample)

    monkeypatch.setattr(pipeline._family, "decode", note)

    def painted(request: Request) -> list[Codes]:
        seen.clear()
        pipeline.generate(request)
        return list(seen)

    return painted


@pytest.mark.parametrize("case", CASES)
def test_tokens_equal_a_plain_torch_loop(case: str, muse: Muse, tokens_of: Callable[[Request], list[Codes]]) -> None:
    (found,) = tokens_of(CASES[case])
    np.testing.assert_array_equal(found, paint(muse, CASES[case]))


def test_every_case_paints_another_picture(tokens_of: Callable[[Request], list[Codes]]) -> None:
    same_size = [request for request in CASES.values() if request.width == request.height]
    painted = [tokens_of(request)[0] for request in same_size]
    for i, one in enumerate(painted):
        assert all((one != other).mean() > 0.3 for other in painted[:i])


@pytest.mark.parametrize("steps", [1, 2, 12])
def test_tokens_equal_diffusers_pipeline(
    steps: int,
    muse: Muse,
    pipeline: Pipeline,
    tokens_of: Callable[[Request], list[Codes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = replace(HOUSE, steps=steps, negative_prompt="blurry")
    draws = np.random.Generator(np.random.Philox(request.seed))

    def multinomial(probs: Tensor, count: int, generator: None = None) -> Tensor:
        uniform = torch.from_numpy(draws.random(len(probs)))[:, None]
        return (probs.double().cumsum(1) <= uniform).sum(1, keepdim=True).clamp(max=probs.shape[1] - 1)

    def gumbel(like: Tensor, generator: None = None) -> Tensor:
        return torch.from_numpy(draws.gumbel(size=like.shape))

    monkeypatch.setattr(torch, "multinomial", multinomial)
    monkeypatch.setattr(scheduling_amused, "gumbel_noise", gumbel)
    pipe = AmusedPipeline(
        muse.vqvae, muse.tokenizer, muse.text, muse.transformer, AmusedScheduler(mask_token_id=checkpoints.MASK_ID)
    )
    pipe.set_progress_bar_config(disable=True)
    muse.transformer.disable_adapters()
    theirs = pipe(
        request.prompt,
        negative_prompt=request.negative_prompt,
        num_inference_steps=steps,
        guidance_scale=request.guidance_scale,
        width=128,
        height=128,
        output_type="latent",
    ).images
    np.testing.assert_array_equal(tokens_of(request)[0], theirs[0])
    with torch.no_grad():
        image = pipe.vqvae.decode(theirs, force_not_quantize=True, shape=(1, 16, 16, muse.vqvae.config.latent_channels))
    picture = np.asarray(pipe.image_processor.postprocess(image.sample.clip(0, 1), "pil")[0])
    assert psnr_db(alone(pipeline, request), picture) >= MIN_PSNR_DB


def test_sixteen_together_equal_each_alone(pipeline: Pipeline) -> None:
    """Mixed in a batch: rules, adapters, sizes of guidance, samplers; pixel for pixel, so token for token."""
    square = [request for request in CASES.values() if request.width == request.height]
    requests = [replace(square[i % len(square)], seed=100 + i) for i in range(16)]
    found = together(pipeline, [Arrival(request, 3 * i) for i, request in enumerate(requests)])
    for request, picture in zip(requests, found, strict=True):
        np.testing.assert_array_equal(picture, alone(pipeline, request))


def test_the_engines_paint_the_same_tokens(pipeline: Pipeline, masked_bundle: Path, registry: Path) -> None:
    other = Pipeline.load(Settings(masked_bundle, registry, "openvino", precision="f32", threads=1))
    try:
        for case in ("classifier-free", "two adapters"):
            assert psnr_db(alone(other, CASES[case]), alone(pipeline, CASES[case])) >= MIN_PSNR_DB
    finally:
        other.close()


# The same rules over noise predictions


@torch.no_grad()
def denoise(pipe: Any, request: Request, noise: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Section 3.4 on latents, with LoRAs: `style` and `content` name them."""
    scheduler = SCHEDULERS[request.scheduler].from_config(pipe.scheduler.config)
    scheduler.set_timesteps(request.steps)
    x = torch.from_numpy(noise)[None] * scheduler.init_noise_sigma

    def under(adapter: str | None, text: str) -> tuple[str | None, Tensor]:
        switch(pipe, adapter)
        return adapter, pipe.encode_prompt(text, "cpu", 1, False)[0]

    def predict(lane: tuple[str | None, Tensor], sample: Tensor, t: Tensor) -> Tensor:
        switch(pipe, lane[0])
        found: Tensor = pipe.unet(sample, t, lane[1]).sample
        return found

    c = request.content_prompt or request.prompt
    lanes = [
        under(request.style[0], request.prompt),
        under(None, request.prompt),
        under(request.content, c),
        under(None, c),
        under(None, request.negative_prompt),
    ]
    a, b, gamma = request.style_strength, request.text_strength, request.gamma
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
    request = Request(
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
    noise = ours._family.noise(request.seed, 128, 128)  # type: ignore[attr-defined]
    assert psnr_db(alone(ours, request), denoise(pipe, request, noise)) >= MIN_PSNR_DB
