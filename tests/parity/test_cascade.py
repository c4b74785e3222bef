"""Pictures in two stages equal plain torch: Muse's loop after the papers, over the modules of both stages.

As in test_styledrop.py whoever else paints a picture is led by ours, at every step of both stages, and draws the same
tokens but for those that fall between two programs' sums (benchmarks/common/draws.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.common.draws import Decoding, Notes, Step, Story, compare, noted
from numpy.typing import NDArray
from studio.reading.psnr import psnr_db
from torch import Tensor
from transformers import CLIPTokenizer

from impasto_export import manifest
from impasto_export.adapters import importer
from impasto_export.adapters.importer import Said
from impasto_export.adapters.layers import site_sizes
from impasto_export.adapters.registry import Registry
from impasto_export.architecture import BOTTLENECK
from impasto_server.families.masked.masked import Masked
from impasto_server.pipeline import Pipeline
from impasto_server.request import Request
from impasto_server.settings import Settings
from tests.helpers import cascades, checkpoints, pairs
from tests.helpers.asked import altered, request_of, whole
from tests.helpers.codes import assert_nearest
from tests.helpers.pictures import png

from .conftest import content
from .test_lanes import Arrival, alone, together
from .test_pairs import bottleneck, low_rank
from .test_styledrop import MIN_PSNR_DB, TEMPLATE, assert_right, guided, hidden, led

Codes = NDArray[np.int64]
Halves = Mapping[str, Callable[[Tensor, Tensor], Tensor]]  # what is added to a module's output, by module

GRAPHS = ("transformer", "upscaler")
BOTTLENECKS: tuple[tuple[str, pairs.Gelu, tuple[str, ...]], ...] = (
    ("glass", "exact", GRAPHS),
    ("neon", "tanh", GRAPHS[:1]),
)
HOUSE = request_of(
    "a red house at night",
    seed=3,
    width=128,
    height=128,
    steps=5,
    guidance_scale=3.0,
    scheduler="amused",
    upscale_steps=4,
    upscale_guidance_scale=2.5,
)
DROPPED = altered(HOUSE, style=("glass",), guidance="styledrop", scheduler="maskgit", temperature=4.5)
COMPOSED = altered(DROPPED, guidance="styledrop-compose", content="toy", gamma=0.4)
CASES: dict[str, Request] = {
    "classifier-free": HOUSE,
    "another size, no guidance": altered(
        HOUSE, width=96, height=160, guidance_scale=1.0, upscale_guidance_scale=1.0, seed=4
    ),
    "the usual size": altered(HOUSE, width=256, height=256, steps=2, upscale_steps=2),
    "guidance that rises in each stage": altered(HOUSE, guidance_ramp=True, negative_prompt="blurry"),
    "from content": altered(HOUSE, image=png(content()), strength=0.6),
    "adapters of either kind, one of the base alone": altered(
        HOUSE, adapters=(("glass", 0.7), ("neon", -0.4), ("toy", 0.8))
    ),
    "Eq. 4": DROPPED,
    "Eq. 4, both strengths": altered(DROPPED, upscale_style_strength=2.0, upscale_text_strength=3.0),
    "Eq. 4, an adapter of the base alone": altered(DROPPED, style=("neon",)),
    "two adapters": COMPOSED,
    "two adapters, rising": altered(COMPOSED, guidance_ramp=True, upscale_text_strength=1.0, content_prompt="a cat"),
    "a base's picture": altered(DROPPED, base_image=png(content()[:64, :64])),
    "the base alone": altered(HOUSE, upscale_steps=0),
}


# The reference


@dataclass(frozen=True)
class Modules:
    """The checkpoint's modules, fp32, and what adapters add to those of either stage, by name and graph."""

    parts: Mapping[str, Any]
    tokenizer: CLIPTokenizer
    adds: Mapping[str, Mapping[str, Halves]]

    def said(self, text: str) -> tuple[Tensor, Tensor]:
        """Hidden states before the last layer, and pooled."""
        ids = self.tokenizer([text], padding="max_length", truncation=True, return_tensors="pt").input_ids
        found = self.parts["text_encoder"](ids, output_hidden_states=True)
        return found.hidden_states[-2], found.text_embeds

    def base(self, tokens: Tensor, text: str, mix: Mapping[str, float]) -> Tensor:
        """[codes, h, w] for tokens [h, w]."""
        states, pooled = self.said(text)
        height, width = (8 * size for size in tokens.shape)
        conditions = torch.tensor([[width, height, 0, 0, 6]]).float()
        return self._run("transformer", mix, tokens[None], states, pooled, conditions)

    def second(self, tokens: Tensor, below: Tensor, text: str, mix: Mapping[str, float]) -> Tensor:
        """[codes, H, W] for tokens [H, W] over [h, w]."""
        return self._run("upscaler", mix, tokens[None], below[None], self.said(text)[0])

    def _run(self, graph: str, mix: Mapping[str, float], *inputs: Tensor) -> Tensor:
        """Of several adapters at a module each sees its own output, and none what another adds."""
        adds: dict[str, list[tuple[float, Callable[[Tensor, Tensor], Tensor]]]] = {}
        for name, weight in mix.items():
            for module, add in self.adds[name].get(graph, {}).items():
                adds.setdefault(module, []).append((weight, add))
        with ExitStack() as hooks:
            for module, parts in adds.items():
                found = (
                    self.parts[graph]
                    .get_submodule(module)
                    .register_forward_hook(
                        lambda _, x, y, parts=parts: y + sum(weight * add(x[0], y) for weight, add in parts)
                    )
                )
                hooks.callback(found.remove)
            answer: Tensor = self.parts[graph](*inputs)[0]
        return answer

    def pixels(self, tokens: Codes) -> NDArray[np.uint8]:
        """What the second VQ model paints of tokens [H, W]."""
        height, width = tokens.shape
        model = self.parts["upscaler_vqvae"]
        shape = (1, height, width, model.config.latent_channels)
        image = model.decode(torch.from_numpy(tokens)[None], force_not_quantize=True, shape=shape).sample[0]
        found: NDArray[np.uint8] = (255 * image.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
        return found


@pytest.fixture(scope="module")
def adapted(cascade_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, Any]]:
    """A registry with two pairs, `glass` and the LoRA `toy`, and with `neon` of the base alone; what they add."""
    folder, described = tmp_path_factory.mktemp("cascade"), manifest.load(cascade_bundle)
    registry, adds = Registry(folder / "registry"), dict[str, dict[str, Halves]]()
    for seed, (name, gelu, graphs) in enumerate(BOTTLENECKS):
        files, adds[name] = list[Path](), {}
        for graph in graphs:
            sizes = site_sizes(described, BOTTLENECK)[graph]
            widths = {module: size for module, (size, _) in sizes.items() if pairs.ADAPTED.fullmatch(module)}
            files.append(folder / f"{name}-{graph}.safetensors")
            made = pairs.bottleneck(files[-1], widths, 5 - seed, gelu, seed, prompt=TEMPLATE)
            adds[name][graph] = {one: bottleneck(*halves, gelu) for one, halves in made.items()}
        said = Said(upscaler=files[1]) if len(files) > 1 else Said()
        registry.put(name, importer.convert(files[0], described, said).data)
    files, adds["toy"] = [], {}
    for graph in GRAPHS:
        files.append(folder / f"toy-{graph}.safetensors")
        made = pairs.lora(files[-1], site_sizes(described)[graph], 4, f"{graph}.", 7)
        adds["toy"][graph] = {one: low_rank(*halves) for one, halves in made.items()}
    registry.put("toy", importer.convert(files[0], described, Said(upscaler=files[1])).data)
    return registry.folder, adds


@pytest.fixture(scope="module")
def modules(cascade_checkpoint: Path, adapted: tuple[Path, Mapping[str, Any]]) -> Modules:
    parts = {part: cascades.model(part, 1).eval() for part in (*checkpoints.MASKED, *cascades.STAGE)}
    return Modules(parts, CLIPTokenizer.from_pretrained(cascade_checkpoint / "tokenizer"), adapted[1])


@pytest.fixture(scope="module")
def pipeline(cascade_bundle: Path, adapted: tuple[Path, Mapping[str, Any]]) -> Iterator[Pipeline]:
    opened = Pipeline.load(Settings(cascade_bundle, adapted[0], "onnxruntime", precision="f32", threads=1))
    yield opened
    opened.close()


# Both stages of a picture


@dataclass(frozen=True)
class Tale:
    """What a picture's stages did; None for one that it didn't have."""

    first: Story | None
    second: Story | None

    @property
    def stories(self) -> list[Story]:
        return [story for story in (self.first, self.second) if story is not None]


def stages(request: Request) -> tuple[Decoding | None, Decoding | None]:
    sampling, own = request.sampling, request.own
    behind = sampling.steps - request.steps_to_run
    first = Decoding(sampling.steps, own["TEMPERATURE"], sampling.scheduler, behind)
    second = Decoding(own["UPSCALE_STEPS"], own["UPSCALE_TEMPERATURE"], sampling.scheduler)
    return None if own["BASE_IMAGE"] else first, second if own["UPSCALE_STEPS"] else None


def told(notes: Notes, request: Request) -> Tale:
    """One generator's numbers go through both stages."""
    draws = np.random.Generator(np.random.Philox(request.seeds.seed))
    first, second = stages(request)
    small, large = shapes(request)
    if request.content.image is not None:
        hidden(altered(request, width=8 * small[1], height=8 * small[0]), draws)
    before = None if first is None else notes.told(first, draws, small[0] * small[1])
    return Tale(before, None if second is None else notes.told(second, draws, large[0] * large[1]))


def shapes(request: Request) -> tuple[tuple[int, int], tuple[int, int]]:
    height, width = request.size.height, request.size.width
    return (height // 16, width // 16), (height // 8, width // 8)


def paint(modules: Modules, request: Request, tale: Tale, given: Codes | None) -> list[list[Step]]:
    """The plain loop through both stages; `given` is a picture in the place of the base's."""
    first, second = stages(request)
    small, large = shapes(request)
    found = []
    if tale.first is not None and first is not None:

        def base(tokens: Tensor, rise: float) -> Tensor:
            def G(text: str, mix: Mapping[str, float]) -> Tensor:
                return modules.base(tokens.reshape(small), text, mix)

            return guided(G, request, request.strengths, rise)

        found.append(led(tale.first, first, base, request.sampling.ramp, checkpoints.MASK_ID))
    if tale.second is not None and second is not None:
        below = torch.from_numpy(given if tale.first is None else tale.first.tokens).reshape(small)
        strengths = {name.removeprefix("UPSCALE_"): value for name, value in request.own.items() if "UPSCALE" in name}

        def finer(tokens: Tensor, rise: float) -> Tensor:
            def G(text: str, mix: Mapping[str, float]) -> Tensor:
                return modules.second(tokens.reshape(large), below, text, mix)

            return guided(G, request, strengths, rise)

        found.append(led(tale.second, second, finer, request.sampling.ramp, cascades.MASK_ID))
    return found


@pytest.mark.parametrize("case", CASES)
def test_tokens_of_both_stages_equal_a_plain_torch_loop(case: str, modules: Modules, pipeline: Pipeline) -> None:
    request = CASES[case]
    with noted() as notes:
        pipeline.generate(request)
    tale = told(notes, request)
    assert len(notes.calls) == sum(len(story.steps) for story in tale.stories)
    theirs = paint(modules, request, tale, brought(modules, pipeline, request))
    for story, steps in zip(tale.stories, theirs, strict=True):
        assert_right(compare(story, steps))


def brought(modules: Modules, pipeline: Pipeline, request: Request) -> Codes | None:
    """The tokens of the base's picture that a request brings: the nearest of its VQ model."""
    if request.own["BASE_IMAGE"] is None:
        return None
    assert isinstance(pipeline.family, Masked)
    tokens = whole(pipeline.family.read(request))
    assert tokens is not None
    image = torch.from_numpy(content()[:64, :64].copy()).permute(2, 0, 1)[None] / 255
    assert_nearest(tokens[None], modules.parts["vqvae"], image, np.ones_like(tokens, np.bool_)[None])
    return tokens


def test_every_case_paints_another_picture(pipeline: Pipeline) -> None:
    """And every one of them another one in its second stage."""
    finer = [one for one in CASES.values() if (one.size.width, one.own["UPSCALE_STEPS"]) == (128, 4)]
    pictures = []
    for request in finer:
        with noted() as notes:
            pipeline.generate(request)
        second = told(notes, request).second
        assert second is not None
        pictures.append(second.tokens)
    for i, one in enumerate(pictures):
        assert all((one != other).mean() > 0.3 for other in pictures[:i])


def test_pixels_are_the_second_vq_models(modules: Modules, pipeline: Pipeline) -> None:
    with noted() as notes:
        picture = alone(pipeline, DROPPED)
    second = told(notes, DROPPED).second
    assert second is not None
    with torch.no_grad():
        assert psnr_db(picture, modules.pixels(second.tokens.reshape(16, 16))) >= MIN_PSNR_DB


def test_sixteen_together_equal_each_alone(pipeline: Pipeline) -> None:
    """At either stage, of either, with mixes, rules and lengths of their own."""
    small = [request for request in CASES.values() if request.size.width < 256]
    requests = [
        altered(small[i % len(small)], seed=100 + i, upscale_steps=_steps(small[i % len(small)], i)) for i in range(16)
    ]
    with noted() as notes:
        pictures = together(pipeline, [Arrival(request, 2 * i) for i, request in enumerate(requests)])
    for request, picture in zip(requests, pictures, strict=True):
        assert_follows(pipeline, request, told(notes, request), picture)


def _steps(request: Request, place: int) -> int:
    """A length of its own, of what has a second stage."""
    return 2 + place % 4 if request.own["UPSCALE_STEPS"] else 0


def test_the_engines_paint_the_same_tokens(
    pipeline: Pipeline, cascade_bundle: Path, adapted: tuple[Path, Mapping[str, Any]]
) -> None:
    other = Pipeline.load(Settings(cascade_bundle, adapted[0], "openvino", precision="f32", threads=1))
    try:
        for case in ("Eq. 4", "two adapters"):
            with noted() as notes:
                picture = alone(pipeline, CASES[case])
            assert_follows(other, CASES[case], told(notes, CASES[case]), picture)
    finally:
        other.close()


def assert_follows(pipeline: Pipeline, request: Request, tale: Tale, picture: NDArray[np.uint8]) -> None:
    """Led by `tale`, `pipeline` draws the same tokens and paints `picture`."""
    with noted(*tale.stories) as notes:
        other = alone(pipeline, request)
    for story in tale.stories:
        assert_right(compare(story, notes.led(story)))
    assert psnr_db(other, picture) >= MIN_PSNR_DB
