"""The worked examples of docs/extending.md: each is run as if it stood in the file that it names, and is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from impasto_export.tracing import forms as graph_forms
from impasto_server import guidance
from impasto_server.adapters import form as forms
from impasto_server.errors import InvalidArgument
from impasto_server.families import FAMILIES, open_bundle
from impasto_server.families.diffusion import samplers
from impasto_server.families.diffusion.manifest import DiffusionManifest
from impasto_server.families.diffusion.offer import OFFER
from impasto_server.families.diffusion.schedule import Schedule
from impasto_server.families.masked import maskgit
from impasto_server.offer import Offer
from impasto_server.pipeline import Pipeline
from impasto_server.reference.book import Book
from impasto_server.reference.files import generated
from impasto_server.settings import Settings
from tests.helpers import toy, toy_masked
from tests.helpers.pages import ROOT, page
from tests.helpers.pictures import png
from tests.toy_family import bundle as toy_family
from tests.toy_family.tint import SHADE, TINT

PAGE = page("docs/extending.md")
Open = Callable[[Path], Pipeline]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens a pipeline of a bundle, on this test's registry."""
    with ExitStack() as closing:

        def open_(bundle: Path) -> Pipeline:
            pipeline = Pipeline.load(Settings(bundle, tmp_path / "registry", "onnxruntime", "f32", threads=1))
            closing.callback(pipeline.close)
            return pipeline

        yield open_


def written_into(module: ModuleType, block: str, **names: Any) -> dict[str, Any]:
    """The module's names, had the block stood at its end."""
    found = {**vars(module), **names}
    exec(block, found)
    return found


def enter(patch: pytest.MonkeyPatch, module: ModuleType, table: str, block: str) -> None:
    """What the block enters in a table of the module is there for this test alone."""
    known: dict[str, Any] = getattr(module, table)
    entered = written_into(module, block, **{table: dict(known)})[table]
    for name in entered.keys() - known.keys():
        patch.setitem(known, name, entered[name])


def photo() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def test_a_sampler(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = PAGE.python("A sampler")
    enter(monkeypatch, samplers, "SAMPLERS", block)
    pipeline = opened(toy.write_bundle(tmp_path / "bundle"))
    one, same, other = (
        pipeline.generate(pipeline.offer.request("a boat", scheduler="renoise", steps=10, seed=seed))
        for seed in (1, 1, 2)
    )
    assert (one.meta["scheduler"], one.meta["steps"]) == ("renoise", 10)
    assert one.image == same.image != other.image

    content = png(np.full((64, 64, 3), 128, np.uint8))
    near, far = (
        pipeline.generate(
            pipeline.offer.request("a boat", scheduler="renoise", steps=10, seed=1, image=content, strength=strength)
        )
        for strength in (0.4, 1.0)
    )
    assert near.image != far.image


def test_a_samplers_noise_is_its_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the clean sample is 0, the next one is noise alone, as strong as its timestep says."""
    (block,) = PAGE.python("A sampler")
    enter(monkeypatch, samplers, "SAMPLERS", block)
    manifest = open_bundle(toy.write_bundle(tmp_path / "bundle")).manifest
    assert isinstance(manifest, DiffusionManifest)
    schedule, noise = Schedule.of(manifest.scheduler), np.ones((4, 8, 8), np.float32)
    steps = samplers.SAMPLERS["renoise"](samplers.Start(noise, np.random.default_rng(3)), 3, schedule)
    ask, draws = next(steps), np.random.default_rng(3)
    for _ in range(2):
        alpha, sigma = schedule.levels(ask.timestep)
        ask = steps.send(alpha * ask.sample / np.float32(sigma))  # the backbone predicts v
        expected = schedule.levels(ask.timestep)[1] * draws.standard_normal(noise.shape, np.float32)
        np.testing.assert_allclose(ask.sample, expected, atol=1e-3)


def test_a_sampler_of_tokens(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = PAGE.python("A sampler of tokens")
    enter(monkeypatch, maskgit, "ANNEALS", block)
    pipeline = opened(toy_masked.write_bundle(tmp_path / "bundle"))
    result = pipeline.generate(pipeline.offer.request("a boat", scheduler="halving", seed=1))
    assert result.meta["scheduler"] == "halving"
    assert maskgit.ANNEALS["halving"](2, 12) == 0.25


def test_a_rule(opened: Open, tmp_path: Path) -> None:
    (block,) = PAGE.python("A rule")
    rules: tuple[type[guidance.Rule], ...] = written_into(guidance, block)["RULES"]
    toy.register(tmp_path / "registry", "sks03", toy.embedding_bytes(4))
    pipeline = opened(toy.write_bundle(tmp_path / "bundle"))
    pipeline.offer = replace(Offer.of(OFFER, pipeline.manifest, rules), model=pipeline.name)

    def painted(**said: Any) -> bytes:
        return pipeline.generate(pipeline.offer.request("a boat", style=("sks03",), steps=4, seed=1, **said)).image

    plain = painted(guidance="cfg", guidance_scale=1.0)
    assert painted(guidance="emphasis", emphasis=0.0) == plain, "a lane that never counts is not run"
    assert painted(guidance="emphasis") == painted(guidance="emphasis", emphasis=1.0) != plain
    with pytest.raises(InvalidArgument, match="^STYLE: is missing, and GUIDANCE emphasis needs it; name an embedding"):
        pipeline.offer.request("a boat", guidance="emphasis")
    with pytest.raises(InvalidArgument, match="^EMPHASIS: 9.5 is out of range; pass a finite number from 0 to 9"):
        pipeline.offer.request("a boat", guidance="emphasis", style=("sks03",), emphasis=9.5)


def test_a_rules_field_is_everywhere_else_by_itself() -> None:
    (block,) = PAGE.python("A rule")
    texts = generated(ROOT, Book(written_into(guidance, block)["RULES"]))
    assert '{ name: "EMPHASIS" data_type: TYPE_FP32' in texts["model_repository/stylize/config.pbtxt"]
    assert "| `EMPHASIS`, optional | FP32 |" in texts["docs/wire.md"]
    assert '"--emphasis"' in texts["clients/impasto_client/fields.py"]


def test_a_form_in_the_server(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block, _ = PAGE.python("A form")
    enter(monkeypatch, forms, "FORMS", block)
    monkeypatch.setitem(FAMILIES, "tint", TINT)
    warm, dark = (0.5, 0.1, -0.5), (-0.2, -0.2, -0.2)
    toy.register(tmp_path / "registry", "warm", toy_family.adapter_bytes(*warm, form="bias"))
    toy.register(tmp_path / "registry", "dark", toy_family.adapter_bytes(*dark, form="bias"))
    pipeline = opened(toy_family.write_bundle(tmp_path / "bundle", form="bias"))
    answer = pipeline.generate(pipeline.offer.request(adapters={"warm": 0.5, "dark": 2.0}, image=png(photo())))
    found = np.asarray(Image.open(BytesIO(answer.image)), np.float64)
    expected = photo() + 127.5 * (0.5 * np.array(warm) + 2.0 * np.array(dark))
    assert np.abs(found - np.clip(expected, 0, 255)).max() <= 1


def test_a_form_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    _, block = PAGE.python("A form")
    enter(monkeypatch, graph_forms, "FORMS", block)
    draws = np.random.default_rng(0)
    shapes = ((2, 7, 3), (2, 7, 5), (2, 4), (2, 4, 5))  # x, y, weights and rows of two lanes that picked four rows
    x, y, weights, rows = (draws.standard_normal(shape).astype(np.float32) for shape in shapes)
    found = graph_forms.FORMS["bias"].adapted(*map(torch.from_numpy, (x, y, weights, rows)))
    expected = y + (weights[:, :, None] * rows).sum(axis=1)[:, None, :]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_familys_excerpts_are_of_its_file() -> None:
    source = (ROOT / "tests/toy_family/tint.py").read_text()
    blocks = PAGE.python("A family")
    assert len(blocks) > 4
    assert not [block for block in blocks if block not in source]


def test_a_family(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "tint", TINT)
    monkeypatch.setitem(forms.FORMS, "shade", SHADE)
    pipeline = opened(toy_family.write_bundle(tmp_path / "bundle"))
    answer = pipeline.generate(pipeline.offer.request(image=png(photo())))
    assert np.abs(np.asarray(Image.open(BytesIO(answer.image)), np.int64) - photo()).max() <= 1
    with pytest.raises(InvalidArgument, match="^PROMPT: means nothing to a tint backbone; leave it out"):
        pipeline.offer.request("a red boat", image=png(photo()))
