"""The scorer: how well pictures fit a text or another picture, as cosines between a CLIP's embeddings.

scorer = Scorer.open(Path("scorer"), runtime)
best_first = sorted(zip(scorer.text(candidates, "a red boat"), candidates), reverse=True)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from impasto_server.bundle import MAX_MANIFEST, Graph, TokenizerFacts
from impasto_server.engines.engine import compile_graph
from impasto_server.engines.profiles import UNSIDED
from impasto_server.engines.runtime import Runtime
from impasto_server.errors import SetupError
from impasto_server.strangers import Unfit, read_file
from impasto_server.words.tokens import ClipTokenizer

BATCH = 16  # pictures or texts in a pass; this bounds a large scorer's memory

STRIP = 8  # the most that a picture's long side may be of its short side; longer ends are cut off before resizing

Pixels = NDArray[np.uint8]
Array = NDArray[np.float32]


class Fitting(BaseModel):
    """How a picture is prepared: resized to the shortest side `size`, centre cropped to `crop` x `crop`, normalised."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    size: int = Field(gt=0)
    crop: int = Field(gt=0)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Literal["bicubic"]


class ScorerManifest(BaseModel):
    """manifest.json of a scorer; `digest` identifies everything that the bundle consists of.

    `logit_scale` is the trained scale: cosine times `logit_scale` is the logit, for probabilities.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1]
    family: Literal["clip"]
    name: str
    architecture: str
    digest: str
    logit_scale: float
    image: Fitting
    tokenizer: TokenizerFacts
    graphs: dict[Literal["image_encoder", "text_encoder"], Graph] = Field(min_length=2)


@dataclass(frozen=True)
class ScorerBundle:
    folder: Path
    manifest: ScorerManifest

    @classmethod
    def open(cls, folder: Path) -> ScorerBundle:
        """Read and check `folder`. Raises SetupError naming what is missing or malformed."""
        path, fix = folder / "manifest.json", f"make one with `impasto link CLIP --out {folder}`"
        if not path.is_file():
            raise SetupError(f"scorer: {folder} has no manifest.json; {fix}")
        try:
            manifest = ScorerManifest.model_validate_json(read_file(path, MAX_MANIFEST))
        except Unfit as error:
            raise SetupError(f"scorer: {path} {error}; {fix}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SetupError(f"scorer: {path}: {where}: {first['msg']}; {fix}") from None
        for file in [*(graph.file for graph in manifest.graphs.values()), manifest.tokenizer.file]:
            if not (folder / file).is_file():
                raise SetupError(f"scorer: {folder} lacks {file}; link it again")
        return cls(folder, manifest)


class Scorer:
    """Scores pictures by the cosine between CLIP embeddings, -1 to 1. Safe to use from several threads.

    It always computes in f32. On a CLIP of mini-clip's size bf16 saved 2 ms of the 5 that a picture takes, but moved
    cosines by up to 0.014, enough to change the order of candidates.
    """

    def __init__(self, bundle: ScorerBundle, runtime: Runtime) -> None:
        """Compile the bundle's graphs. Raises SetupError."""
        exact = replace(runtime, precision="f32", sides=UNSIDED, stepping=())
        self.manifest = bundle.manifest
        graphs = bundle.manifest.graphs
        self._image_encoder = compile_graph(bundle.folder / graphs["image_encoder"].file, exact)
        self._text_encoder = compile_graph(bundle.folder / graphs["text_encoder"].file, exact)
        self._tokenizer = ClipTokenizer(bundle.folder, bundle.manifest.tokenizer)
        self._lock = Lock()  # an engine is used by one thread at a time

    @classmethod
    def open(cls, folder: Path, runtime: Runtime) -> Scorer:
        """Compile the scorer bundle in `folder`. Raises SetupError."""
        return cls(ScorerBundle.open(folder), runtime)

    def text(self, pixels: Iterable[Pixels], text: str) -> list[float]:
        """How well each picture, RGB uint8 [H, W, 3], fits `text`, without the part that `unread` returns."""
        return _floats(cosines(self.images(pixels), self.texts([text])))

    def picture(self, pixels: Iterable[Pixels], reference: Pixels) -> list[float]:
        """How near each picture is to `reference`, all RGB uint8 [H, W, 3] of any sizes."""
        return _floats(cosines(self.images(pixels), self.images([reference])))

    def unread(self, text: str) -> str:
        """The end of a text that the text encoder doesn't read; "" if it reads all of it."""
        return self._tokenizer.plain(text).dropped

    def images(self, pixels: Iterable[Pixels]) -> Array:
        """RGB uint8 [H, W, 3] each → unit embeddings [n, E]; holds one of `pixels` at a time."""
        return self.embeds(map(self.fitted, pixels))

    def fitted(self, pixels: Pixels) -> Array:
        """RGB uint8 [H, W, 3] → float32 [3, crop, crop], as the image encoder reads it."""
        return fitted(pixels, self.manifest.image)

    def embeds(self, pictures: Iterable[Array]) -> Array:
        """Pictures from `fitted` → unit embeddings [n, E]."""
        rows, found = iter(pictures), []
        while batch := list(islice(rows, BATCH)):
            with self._lock:
                found += self._image_encoder.run({"pixel_values": np.stack(batch)})
        return np.concatenate(found)

    def texts(self, texts: Sequence[str]) -> Array:
        """Texts → unit embeddings [n, E]."""
        ids, found = np.stack([self._tokenizer.plain(text).ids for text in texts]), []
        for start in range(0, len(ids), BATCH):
            with self._lock:
                found += self._text_encoder.run({"input_ids": ids[start : start + BATCH]})
        return np.concatenate(found)


def cosines(pictures: Array, others: Array) -> Array:
    """Unit embeddings [n, E], and n others or one → cosines [n]."""
    products: Array = (pictures * others).sum(axis=1)
    return products.clip(-1, 1)  # rounding may exceed 1


def _floats(values: Array) -> list[float]:
    return [float(value) for value in values]


def fitted(pixels: Pixels, facts: Fitting) -> Array:
    """RGB uint8 [H, W, 3] → float32 [3, crop, crop], as transformers' CLIPImageProcessor makes it.

    Of a narrow strip only the middle is resized: the whole of one that is a pixel wide would become enormous.
    """
    pixels = _middle(pixels, STRIP * min(pixels.shape[:2]))
    height, width = pixels.shape[:2]
    size = facts.size * width // min(height, width), facts.size * height // min(height, width)
    resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), np.float32)
    mean, std = (np.array(values, np.float32) for values in (facts.mean, facts.std))
    values = (_middle(resized, facts.crop) / 255 - mean) / std
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _middle(pixels: NDArray[Any], most: int) -> NDArray[Any]:
    """The middle of the picture: at most `most` rows and columns."""
    top, left = (max(0, (side - most) // 2) for side in pixels.shape[:2])
    return pixels[top : top + most, left : left + most]
