"""Fits from words: every recipe brings its loss down, equal seeds give equal bytes, a stopped fit goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

from impasto_export.feedforward import decoder, link, style_files
from impasto_export.feedforward.found import NOTHING, Expand
from impasto_export.feedforward.net import Net
from impasto_export.feedforward.network import Network
from impasto_fit.budget import Budget
from impasto_fit.errors import CheckpointError, PictureError, WordsError
from impasto_fit.pictures import Picture
from impasto_fit.progress import Report, Silent, Wish
from impasto_fit.provenance import KEY
from impasto_fit.recipe import Recipe, Words
from impasto_fit.text import amortised, fast
from impasto_fit.text.amortised import Amortised
from impasto_fit.text.clipstyler import ClipStyler
from impasto_fit.text.content import Towers
from impasto_fit.text.fast import ClipStylerFast
from impasto_fit.text.prior import Prior
from impasto_fit.text.styletransferclip import StyleTransferClip
from tests.helpers import stylers
from tests.unit.fit.text.towers import NUMBERS, ghiasi, photo, prior, seeing

CLIP = seeing("blue", "fire", "waves", "a", "photo")
FIRE = Words(style="blue fire")


def narrow_net() -> Net:
    """The fast net's layout, a sixteenth as wide."""
    draw = np.random.default_rng(4)
    tensors = {}
    for part, convs in (("encoder", decoder.ENCODING), ("decoder", decoder.DECODING)):
        for place, (out, into) in convs.items():
            out, into = (n if n == 3 else n // 16 for n in (out, into))
            kernel = 1 if (out, into) == (3, 3) else 3
            scale = (2 / (into * kernel * kernel)) ** 0.5
            weight = draw.standard_normal((out, into, kernel, kernel)) * scale
            tensors[f"{part}.{place}.weight"] = weight.astype(np.float32)
            tensors[f"{part}.{place}.bias"] = np.full(out, 0.1, np.float32)
    return decoder.of(tensors)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "clipstyler": lambda: ClipStyler(CLIP, Towers(CLIP), side=16, crop=8, crops=2, width=2),
    "fast": lambda: ClipStylerFast(narrow_net(), CLIP, Towers(CLIP), side=16, batch=1, perspectives=2, rate=1e-3),
    "styletransferclip": lambda: StyleTransferClip(ghiasi(), CLIP, prior(), side=24, batch=1, perspectives=2),
    "amortised": lambda: Amortised(
        ghiasi(), CLIP, prior(), ("blue fire", "waves"), side=24, batch=4, perspectives=1, rate=1e-2
    ),
}
recipes = pytest.mark.parametrize("made", RECIPES.values(), ids=RECIPES)


@dataclass
class Watcher:
    """Remembers losses; stops the fit behind step `last` and keeps its state."""

    last: int = 10**9
    state: bytes | None = None
    losses: list[float] = field(default_factory=list)
    previews: list[Picture] = field(default_factory=list)

    def kept(self) -> bytes | None:
        return self.state

    def __call__(self, report: Report) -> Wish:
        self.losses.append(report.loss)
        if report.step == 1:
            self.previews.append(report.preview())
        if report.step >= self.last:
            self.state = report.state()
            return Wish.CANCEL
        return Wish.GO_ON


def fitted(made: Callable[[], Recipe], steps: int = 4, watcher: Watcher | None = None) -> bytes:
    return made().fit([photo(1), photo(2)], FIRE, Budget(steps), watcher or Silent())


@recipes
def test_equal_seeds_give_equal_files(made: Callable[[], Recipe]) -> None:
    assert fitted(made) == fitted(made)


@recipes
def test_a_fit_that_was_stopped_goes_on_bit_for_bit(made: Callable[[], Recipe]) -> None:
    first = Watcher(last=2)
    with pytest.raises(Exception, match="cancelled after 2 steps"):
        fitted(made, watcher=first)
    second = Watcher(state=first.state)
    assert fitted(made, watcher=second) == fitted(made)
    assert len(second.losses) == 2


@recipes
def test_the_header_says_what_was_asked_and_of_what(made: Callable[[], Recipe]) -> None:
    data = fitted(made, steps=1)
    length = int.from_bytes(data[:8], "little")
    told = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][KEY])
    assert told["words"]["style"] == "blue fire"
    assert told["steps"] == 1
    assert CLIP.digest in told["checkpoint"]
    assert len(told["pictures"]) == 2


@recipes
def test_a_preview_is_a_picture(made: Callable[[], Recipe]) -> None:
    watcher = Watcher()
    fitted(made, steps=1, watcher=watcher)
    assert watcher.previews[0].dtype == np.uint8
    assert watcher.previews[0].shape[2] == 3


# All see the same whole square at every step, from the front: without chance in it, the loss itself must fall.
STEADY: dict[str, Callable[[], Recipe]] = {
    "clipstyler": lambda: ClipStyler(CLIP, Towers(CLIP), side=16, crop=16, crops=1, distortion=0, slack=0, width=2),
    "fast": lambda: ClipStylerFast(
        narrow_net(), CLIP, Towers(CLIP), side=16, batch=1, perspectives=1, distortion=0, slack=0, rate=1e-3
    ),
    "styletransferclip": lambda: StyleTransferClip(
        ghiasi(), CLIP, prior(), side=24, batch=1, perspectives=1, least=1, distortion=0
    ),
    "amortised": lambda: Amortised(
        ghiasi(), CLIP, prior(), ("fire",), side=24, batch=1, perspectives=1, least=1, distortion=0, sane=0, rate=3e-3
    ),
}


@pytest.mark.parametrize("made", STEADY.values(), ids=STEADY)
def test_the_loss_falls(made: Callable[[], Recipe]) -> None:
    watcher = Watcher()
    made().fit([photo(1)[:, :40]], FIRE, Budget(8), watcher)
    assert watcher.losses[-1] < watcher.losses[0]


@recipes
def test_a_picture_of_one_colour_is_refused(made: Callable[[], Recipe]) -> None:
    with pytest.raises(PictureError, match="picture 2: has one colour"):
        made().fit([photo(), np.full((40, 40, 3), 90, np.uint8)], FIRE, Budget(1), Silent())


@pytest.mark.parametrize("text", ["", "синий огонь", "sparkling fire"])
@pytest.mark.parametrize("name", ["clipstyler", "fast", "styletransferclip"])
def test_words_that_mean_nothing_are_refused_before_any_work(name: str, text: str) -> None:
    watcher = Watcher()
    with pytest.raises(WordsError, match=r"style: (got no words|the CLIP doesn't know)"):
        RECIPES[name]().fit([photo()], Words(style=text), Budget(1), watcher)
    assert not watcher.losses


def test_clipstylers_net_is_linked_as_one(tmp_path: Path) -> None:
    path = tmp_path / "blue-fire.safetensors"
    path.write_bytes(fitted(RECIPES["clipstyler"], steps=1))
    found = link.read(path)
    assert found.net.name == "clipstyler"
    assert found.net.tensors["conv_init.weight"].shape == (2, 3, 1, 1)


def test_a_decoder_keeps_its_sequentials_names() -> None:
    tensors = load(fitted(RECIPES["fast"], steps=1))
    assert set(tensors) == {f"{place}.{part}" for place in decoder.DECODING for part in ("weight", "bias")}


def test_a_true_decoder_and_encoder_are_opened(tmp_path: Path) -> None:
    start, encoder = tmp_path / "decoder.pth", tmp_path / "vgg_normalised.pth"
    torch.save(stylers.decoder().state_dict(), start)
    torch.save(stylers.vgg_normalised().state_dict(), encoder)
    assert fast.opened(start, encoder).name == decoder.NAME
    with pytest.raises(CheckpointError, match="checkpoint: "):
        fast.opened(tmp_path / "missing.pth", encoder)


def test_an_embedding_is_read_as_a_style_of_its_network(tmp_path: Path) -> None:
    net = ghiasi()
    path = tmp_path / "blue-fire.safetensors"
    path.write_bytes(fitted(RECIPES["styletransferclip"], steps=1))
    known = Network(
        name="cin",
        architecture=net.net.digest,
        size=net.net.vector_size,
        convs=tuple(conv.name for conv in net.net.conditioned),
        fitted="",
        said=NOTHING,
        expand=Expand(net.weight.numpy(), net.bias.numpy()),
    )
    found = style_files.read(path, known)
    assert found.layout == f"embedding of {NUMBERS}"
    assert not found.assumed


def test_an_embedder_gives_any_text_a_style_at_once() -> None:
    net, data = ghiasi(), fitted(RECIPES["amortised"], steps=2)
    one, other = (load(amortised.styled(data, CLIP, text, net.digest))["embedding"] for text in ("fire", "waves"))
    assert one.shape == (NUMBERS,)
    assert not torch.equal(one, other)
    with pytest.raises(WordsError, match="doesn't know 'lava'"):
        amortised.styled(data, CLIP, "lava", net.digest)


def test_the_embedder_has_the_papers_layers() -> None:
    """512 → 256 → 256 → 150 → 150 → 100 for ViT-B/32 and magenta's net; tanh at the end alone."""
    embedder = amortised.Embedder(512, prior_of(100))
    shapes = [tuple(layer.weight.shape) for layer in embedder.layers if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(256, 512), (256, 256), (150, 256), (150, 150), (100, 150)]
    far = embedder(torch.full((1, 512), 1e4))
    assert ((far - embedder.mean).abs() <= embedder.reach * 1.0001).all()


def prior_of(numbers: int) -> Prior:
    return Prior.of(torch.randn((2 * numbers, numbers), generator=torch.Generator().manual_seed(0)))


def test_mahalanobis_distances() -> None:
    """Against the inverse of the shrunk covariance, number by number, in float64."""
    rows = np.random.default_rng(8).standard_normal((12, 4)) * (1, 2, 3, 4)
    found = Prior.of(torch.from_numpy(rows).float())
    away = rows - rows.mean(0)
    plain = sum(np.outer(row, row) for row in away) / (len(rows) - 1)
    whole = 0.9 * plain + 0.1 * np.eye(4) * np.trace(plain) / 4
    point = np.array([1.0, -2.0, 0.5, 3.0])
    gap = point - rows.mean(0)
    wanted = sum(gap[i] * np.linalg.inv(whole)[i, j] * gap[j] for i in range(4) for j in range(4)) / 4
    assert found.distance(torch.from_numpy(point[None]).float()).item() == pytest.approx(wanted, rel=1e-4)


def test_the_papers_constants_are_the_defaults() -> None:
    made = ClipStyler(CLIP, Towers(CLIP))
    assert (made.direction, made.patches, made.content, made.variation) == (500, 9000, 150, 2e-3)
    assert (made.side, made.crop, made.crops, made.distortion, made.slack) == (512, 128, 64, 0.5, 0.7)
    assert (made.rate, made.halved) == (5e-4, 100)
    quick = ClipStylerFast(narrow_net(), CLIP, Towers(CLIP))
    assert (quick.direction, quick.patches, quick.content, quick.variation) == (1, 10, 1, 1e-4)
    assert (quick.side, quick.batch, quick.perspectives, quick.rate, quick.decay) == (224, 4, 16, 1e-4, 5e-5)
    assert StyleTransferClip(ghiasi(), CLIP, prior()).sane == 0.02


@pytest.mark.parametrize(("side", "crop"), [(30, 8), (32, 40)])
def test_sizes_that_do_not_fit_are_named(side: int, crop: int) -> None:
    with pytest.raises(ValueError, match="side and crop: got"):
        ClipStyler(CLIP, Towers(CLIP), side=side, crop=crop)
