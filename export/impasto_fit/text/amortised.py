"""FastCLIPstyler's way: a small net that takes any text's vector to an embedding, trained on many texts at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

from impasto_fit import pictures as looked
from impasto_fit.budget import Budget
from impasto_fit.draws import Draws
from impasto_fit.errors import WordsError
from impasto_fit.file import dump
from impasto_fit.loop import OneCycle, Session, Task
from impasto_fit.pictures import Picture, picture_of
from impasto_fit.progress import Progress
from impasto_fit.provenance import Provenance
from impasto_fit.recipe import Words
from impasto_fit.text import clip as clips
from impasto_fit.text import photos
from impasto_fit.text.clip import Clip
from impasto_fit.text.ghiasi import Ghiasi
from impasto_fit.text.prior import Prior
from impasto_fit.text.styletransferclip import EMBEDDING, augmented, drawn

HIDDEN = (256, 256, 150, 150)
SLOPE = 0.2
REACH = 3.0  # deviations of the prior that tanh spans


class Embedder(nn.Module):
    """[n, d] text vectors to embeddings [n, D]: 512 → 256 → 256 → 150 → 150 → 100 for ViT-B/32 and magenta's net.

    tanh stands at the end only; its -1..1 are the prior's mean ± 3 deviations.
    """

    def __init__(self, heard: int, prior: Prior) -> None:
        super().__init__()
        sizes = (heard, *HIDDEN, len(prior.mean))
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.mean: Tensor
        self.reach: Tensor
        self.register_buffer("mean", prior.mean.clone())
        self.register_buffer("reach", REACH * prior.deviations)

    def forward(self, heard: Tensor) -> Tensor:
        x = heard
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), SLOPE)
        return self.mean + self.reach * torch.tanh(self.layers[-1](x))


@dataclass(frozen=True)
class Amortised:
    """As StyleTransferClip, but each of a step's `batch` cuts is asked for another of `texts`."""

    net: Ghiasi
    clip: Clip
    prior: Prior
    texts: tuple[str, ...]
    side: int = 224
    batch: int = 4
    perspectives: int = 4
    least: float = 0.5
    distortion: float = 0.3
    sane: float = 0.02
    rate: float = 1e-3
    seed: int = 0

    def fit(self, pictures: Sequence[Picture], words: Words, budget: Budget, progress: Progress) -> bytes:
        """The embedder's safetensors. `words` say nothing; `styled` makes the adapter of a text from the file.

        Raises:
            PictureError, WordsError: before any work; WordsError names the words that the CLIP doesn't know.
        """
        looked.check(pictures)
        if not self.texts:
            raise WordsError("texts: got none; give those that the embedder shall learn from")
        heard = torch.stack([clips.heard(self.clip, clips.checked(self.clip, text)) for text in self.texts])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            embedder = Embedder(heard.shape[1], self.prior)
        photographs = [photos.scaled(picture, self.side) for picture in pictures]
        provenance = Provenance.of(self, f"{self.net.digest} {self.clip.digest}", pictures, words)
        session = Session(provenance.fit, self.seed, progress)
        weights = dict(embedder.named_parameters())
        task = Task(
            weights,
            torch.optim.Adam(weights.values(), self.rate),
            lambda draws: self._loss(embedder, photographs, heard, draws),
            lambda: picture_of(self.net.painted(photographs[0], embedder(heard[:1]))[0]),
            OneCycle(),
        )
        session.run("embedder", task, budget)
        state = {name: value.contiguous() for name, value in embedder.state_dict().items()}
        return dump(state, provenance.header(len(session.losses)) | {"network": self.net.digest})

    def _loss(self, embedder: Embedder, photographs: Sequence[Tensor], heard: Tensor, draws: Draws) -> Tensor:
        which = torch.randint(len(heard), (self.batch,), generator=draws.torch)
        wanted = heard[which]
        embeddings = embedder(wanted)
        painted = self.net.painted(drawn(photographs, self.batch, self.side, draws), embeddings)
        seen = self.clip.see(augmented(painted, self.perspectives, self.least, self.distortion, draws))
        away = 1 - (seen * wanted.repeat(self.perspectives, 1)).sum(1)
        return away.mean() + self.sane * self.prior.distance(embeddings).mean()


@torch.no_grad()
def styled(embedder: bytes, clip: Clip, text: str, network: str) -> bytes:
    """The adapter of a text, at once: a file with `embedding` [D], as StyleTransferClip's.

    Raises:
        WordsError: the text is empty, or has words that the CLIP doesn't know.
    """
    state = load(embedder)
    said = clips.checked(clip, text)
    prior = Prior(state["mean"], torch.diag((state["reach"] / REACH) ** 2))
    net = Embedder(state["layers.0.weight"].shape[1], prior)
    net.load_state_dict(state)
    embedding = net(clips.heard(clip, said)[None])[0]
    return dump({EMBEDDING: embedding.contiguous()}, {"network": network, "title": said})
