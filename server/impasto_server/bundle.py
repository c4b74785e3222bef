"""A bundle as the server sees it: the checked manifest, and paths to the graphs.

`impasto link` writes bundles; this module knows their format, not how they are made. It has what every bundle has; each
family's folder has the rest.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from impasto_server.errors import SetupError
from impasto_server.strangers import Unfit, read_file

MAX_MANIFEST = 64 << 20
SCORER = "clip"  # the family of scorers
Range = tuple[int, int, int]  # least, usual, most
Sides = Mapping[str, Range]  # by the graphs' names of their dynamic dimensions

LEARNED = "learned_embeds"  # a text encoder's input: vectors that replace some tokens' embeddings


class Frozen(BaseModel):
    """A part of a manifest; unknown keys, e.g. of a newer exporter, are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Site(Frozen):
    """A place where a graph reads adapters of one `kind`; each row of the batch reads its own.

    The adapters' tensors lie in tables. The graph has the inputs `<kind>_rows` int64 [lanes, K], the table rows r of
    each lane, and `<kind>_weights` float32 [lanes, K], the weight w of each. The first table rows belong to no adapter.

    lora        a Linear: `y = base(x) + ((x @ lora_A[r]ᵀ) · w) @ lora_B[r]`; lora_A [R, in], lora_B [R, out].
    bottleneck  the output y of a block: `y + (gelu(y @ down[r]ᵀ) · w) @ up[r]`; down and up [R, D]. A hidden unit's
                gelu is the tanh approximation where tanh [R, 1] is 1, and exact where it is 0.
    vector      no tables: the graph input with the site's name, float32 [lanes, N], holds each lane's vector.
    """

    name: str
    in_features: int = Field(gt=0)
    out_features: int = Field(gt=0)
    kind: str = "lora"


class Port(Frozen):
    """One graph input or output; a dimension is a number or the name of a dynamic one."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Graph(Frozen):
    """A graph's file, ports and sites. `plain` is a file of the same graph over the same weights, without its sites."""

    file: str
    plain: str | None = None
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    sites: tuple[Site, ...] = ()

    @model_validator(mode="after")
    def _lets_lanes_pick_rows(self) -> Graph:
        if any(port.name == "slot" for port in self.inputs):
            raise ValueError("it has the input `slot`, as graphs of an older impasto did")
        return self


class ImageSize(Frozen):
    """The default size in pixels, and what other sizes must satisfy."""

    width: int
    height: int
    multiple_of: int
    max_pixels: int

    def allows(self, width: int, height: int) -> bool:
        """Whether a request may have this size."""
        return not (width % self.multiple_of or height % self.multiple_of) and width * height <= self.max_pixels


class TokenizerFacts(Frozen):
    file: str
    max_length: int
    bos_id: int
    eos_id: int
    pad_id: int


class Usual(Frozen):
    """The checkpoint's defaults for omitted fields; None where it has none."""

    scheduler: str | None = None
    steps: int | None = Field(default=None, ge=1, le=200)
    guidance_scale: float | None = Field(default=None, ge=0, le=50)


class Weighted(Frozen):
    """An adapter with its weight in a mix."""

    name: str
    digest: str
    weight: float


class File(Frozen):
    file: str


class Stored(Frozen):
    """A file of weights, as large as it was when the checkpoint was linked."""

    nbytes: int = Field(alias="bytes")


class Pinned(Frozen):
    """A mix that is merged into weights of its own, and the graphs that it changes, with the same ports."""

    adapters: tuple[Weighted, ...] = Field(min_length=1)
    graphs: dict[str, File] = Field(min_length=1)


class Manifest(Frozen):
    """manifest.json, as far as all families share it. `digest` identifies everything that the bundle consists of.

    Where a bundle has no `defaults`, its family says them (FamilyOffer).
    """

    schedulers: ClassVar[Collection[str]]

    format: Literal[1]
    family: str
    name: str
    architecture: str
    digest: str
    image: ImageSize
    graphs: dict[str, Graph]
    weights: dict[str, Stored] = {}
    defaults: Usual = Usual()
    pinned: tuple[Pinned, ...] = ()

    @property
    def backbones(self) -> Mapping[str, str]:
        """The graphs that run at every step, by stage, the first of a cascade first."""
        raise NotImplementedError

    @property
    def backbone(self) -> str:
        """The graph of the first stage."""
        return next(iter(self.backbones.values()))

    @property
    def stepping(self) -> tuple[str, ...]:
        """The graphs that run at every step."""
        return tuple(self.backbones.values())

    def dimensions(self, width: int, height: int) -> Mapping[str, int]:
        """The graphs' dynamic dimensions for a picture of this size, by name, without the lanes."""
        return {"W": width, "H": height}

    @property
    def sides(self) -> tuple[Sides, Sides]:
        """The range of those dimensions (least, usual, most): for the default size only, and for every size up to a
        square of the most pixels.
        """
        image, step = self.image, self.image.multiple_of
        longest = isqrt(image.max_pixels) // step * step
        usual, least = self.dimensions(image.width, image.height), self.dimensions(step, step)
        most = self.dimensions(max(longest, image.width), max(longest, image.height))
        return (
            {name: (size, size, size) for name, size in usual.items()},
            {name: (least[name], size, most[name]) for name, size in usual.items()},
        )

    @property
    def text_encoders(self) -> Mapping[str, TokenizerFacts]:
        """The text encoders, in the order in which the backbone takes their outputs; may be empty."""
        return {}

    @property
    def channels(self) -> tuple[str, ...]:
        """What each channel of the ControlNet's hint carries; empty without a ControlNet."""
        return ()

    @property
    def told_of_guidance(self) -> bool:
        """Whether the backbone has built-in guidance and takes the scale as an input; then other rules don't apply."""
        return False

    @property
    def lacking(self) -> Mapping[str, str]:
        """The fields that its family knows but this bundle doesn't, each with the reason."""
        return {}

    @property
    def told(self) -> Mapping[str, Any]:
        """The family's own facts for the catalogue, JSON-ready."""
        return {}

    @property
    def steered(self) -> bool:
        """Whether there is a ControlNet."""
        return bool(self.channels)

    @property
    def embedding_widths(self) -> dict[str, int]:
        """The width of a token embedding, by text encoder."""
        ports = {name: port for name, graph in self.graphs.items() for port in graph.inputs if port.name == LEARNED}
        return {name: int(port.shape[-1]) for name, port in ports.items()}

    @property
    def files(self) -> list[str]:
        """The files of all graphs and tokenizers, without the weights that graphs point into."""
        own: list[Graph | TokenizerFacts] = [*self.graphs.values(), *self.text_encoders.values()]
        plain = [graph.plain for graph in self.graphs.values() if graph.plain is not None]
        pinned = [graph.file for mix in self.pinned for graph in mix.graphs.values()]
        return [one.file for one in own] + plain + pinned

    def port(self, graph: str, name: str) -> Port | None:
        """The input `name` of `graph`; None if there is none."""
        return next((port for port in self.graphs[graph].inputs if port.name == name), None)

    @model_validator(mode="after")
    def _defaults_to_a_scheduler_that_it_has(self) -> Manifest:
        if self.defaults.scheduler not in (None, *self.schedulers):
            known = ", ".join(self.schedulers)
            raise ValueError(f"defaults.scheduler is {self.defaults.scheduler!r}, not one of {known}")
        return self

    @model_validator(mode="after")
    def _pins_graphs_that_mixes_change(self) -> Manifest:
        known = (*self.text_encoders, *self.backbones.values())
        strange = sorted({name for mix in self.pinned for name in mix.graphs} - {*known})
        if strange:
            raise ValueError(f"pinned has {strange[0]}, but mixes change only {', '.join(known)}")
        return self


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; `name` is what requests call it."""

    folder: Path
    manifest: Manifest
    name: str = ""

    @classmethod
    def open(cls, folder: Path, kinds: Mapping[str, type[Manifest]], name: str | None = None) -> Bundle:
        """Read and check the bundle in `folder`. `kinds` are the manifest types by family. Without a `name`, it has its
        manifest's.

        Raises SetupError that says what is wrong.
        """
        path = folder / "manifest.json"
        if not path.is_file():
            problem = "has no manifest.json" if folder.is_dir() else "is not a folder"
            raise SetupError(f"bundle: {folder} {problem}; make one with `impasto link CHECKPOINT --out {folder}`")
        manifest = _manifest(path, kinds)
        bundle = cls(folder, manifest, name or _spelled(manifest.name))
        bundle._check_files()
        return bundle

    def _check_files(self) -> None:
        weights = self.manifest.weights
        for path in (self.folder / file for file in (*self.manifest.files, *weights)):
            if not path.is_file():
                raise SetupError(f"bundle: {self.folder} lacks {path.name}; link the checkpoint again")
        for file, stored in weights.items():
            path = self.folder / file
            if (found := path.stat().st_size) != stored.nbytes:
                problem = f"{path} has {found} bytes, not {stored.nbytes}"
                raise SetupError(f"bundle: {problem}; link the checkpoint again")

    @property
    def nbytes(self) -> int:
        """The size of all its files, most of it weights."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    def plain_path(self, name: str) -> Path | None:
        """The file of a graph without its sites; None if the bundle has none."""
        file = self.manifest.graphs[name].plain
        return None if file is None else self.folder / file

    def graph_path(self, name: str, weights: int = 0) -> Path:
        """The file of a graph: with the bundle's own weights (0), or with those of its i-th pinned mix."""
        graphs = self.manifest.pinned[weights - 1].graphs if weights else self.manifest.graphs
        return self.folder / graphs[name].file


def _spelled(name: str) -> str:
    """A manifest's name, changed to what a bundle's name may be."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).lstrip("._-") or "bundle"


class _Head(Frozen):
    """The part of a manifest that is read first."""

    family: str


def _manifest(path: Path, kinds: Mapping[str, type[Manifest]]) -> Manifest:
    try:
        data = read_file(path, MAX_MANIFEST)
        family = _Head.model_validate_json(data).family
        if family == SCORER:
            folder = path.parent
            raise SetupError(f"bundle: {folder} is a scorer and can't paint; pass it as --scorer {folder}")
        if family not in kinds:
            known = ", ".join(kinds)
            raise SetupError(f"bundle: {path}: family is {family!r}, not one of {known}; link the checkpoint again")
        return kinds[family].model_validate_json(data)
    except Unfit as error:
        raise SetupError(f"bundle: {path} {error}; link the checkpoint again") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SetupError(f"bundle: {path}: {where}: {first['msg']}; link the checkpoint again") from None
