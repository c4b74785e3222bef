"""A bundle as the server sees it: the manifest, checked, and paths to graphs.

The bundle is written by `impasto link`; this module knows its format and nothing of how it came about.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from impasto_server.errors import SetupError
from impasto_server.strangers import Unfit, read_file

MAX_MANIFEST = 64 << 20
LEARNED = "learned_embeds"  # a text encoder's input: vectors that take the place of some tokens' embeddings
GUIDANCE = "timestep_cond"  # a UNet's input: the guidance scale, embedded


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Site(_Frozen):
    """Where a graph reads adapters of one `kind`, each row of the batch its own.

    What adapters are made of lies in tables. The graph has inputs `<kind>_rows` int64 [lanes, K], a lane's rows r of
    them, and `<kind>_weights` float32 [lanes, K], what each weighs, w. The first rows are no adapter's.

    lora        a Linear: `y = base(x) + ((x @ lora_A[r]ᵀ) · w) @ lora_B[r]`; lora_A [R, in], lora_B [R, out].
    bottleneck  the output y of a block: `y + (gelu(y @ down[r]ᵀ) · w) @ up[r]`; down and up [R, D]; where tanh [R, 1]
                is 1, a hidden unit's gelu is the tanh approximation, where it's 0, the exact one.
    """

    name: str
    in_features: int = Field(gt=0)
    out_features: int = Field(gt=0)
    kind: str = "lora"


class Port(_Frozen):
    """One graph input or output; a dimension is a number or the name of a dynamic one."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Graph(_Frozen):
    """`plain` is the file of the same graph without its sites, over the same weights, where it has sites."""

    file: str
    plain: str | None = None
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    sites: tuple[Site, ...] = ()

    @model_validator(mode="after")
    def _lets_lanes_pick_rows(self) -> Graph:
        if any(port.name == "slot" for port in self.inputs):
            raise ValueError("it takes a slot, as graphs of an older impasto did")
        return self


class Latents(_Frozen):
    channels: int = Field(gt=0)
    factor: int = Field(gt=0)
    scaling_factor: float
    shift_factor: float = 0.0


class ImageSize(_Frozen):
    """Default size, and what other sizes must satisfy."""

    width: int
    height: int
    multiple_of: int
    max_pixels: int


class Noise(_Frozen):
    """The noise schedule the backbone was trained with, in diffusers' terms; the last two are a consistency model's."""

    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: Literal["linear", "scaled_linear"]
    prediction_type: Literal["epsilon", "v_prediction"]
    timestep_spacing: Literal["leading", "linspace", "trailing"]
    steps_offset: int
    set_alpha_to_one: bool
    original_inference_steps: int = Field(default=50, gt=0)
    timestep_scaling: float = 10.0


class Tokens(_Frozen):
    """A picture's tokens: one for each square of `factor` pixels, 0 to `codes` - 1, or `mask_id` where it's unknown."""

    factor: int = Field(gt=0)
    codes: int = Field(gt=1)
    mask_id: int


class Masking(_Frozen):
    """How the share of tokens that are still unknown falls over the steps."""

    schedule: Literal["cosine", "linear"] = "cosine"


class TokenizerFacts(_Frozen):
    file: str
    max_length: int
    bos_id: int
    eos_id: int
    pad_id: int


class Usual(_Frozen):
    """What a request gets that doesn't say otherwise, where the checkpoint has its own idea of it."""

    scheduler: str | None = None
    steps: int | None = Field(default=None, ge=1, le=200)
    guidance_scale: float | None = Field(default=None, ge=0, le=50)


class Weighted(_Frozen):
    """An adapter with its weight in a mix."""

    name: str
    digest: str
    weight: float


class File(_Frozen):
    file: str


class Pinned(_Frozen):
    """A mix that is merged into weights of its own, and the graphs that it changes: the same ports, other weights."""

    adapters: tuple[Weighted, ...] = Field(min_length=1)
    graphs: dict[str, File] = Field(min_length=1)


class Control(_Frozen):
    """What each channel of the ControlNet's hint carries; one that isn't `optional` must be there."""

    channels: tuple[Literal["edges", "depth"], ...]
    optional: tuple[Literal["edges", "depth"], ...] = ()


@dataclass(frozen=True)
class Defaults:
    """What a request gets that doesn't say otherwise; `temperature` is None where the family has no use for one."""

    scheduler: str
    steps: int
    guidance_scale: float
    temperature: float | None = None


class Manifest(_Frozen):
    """manifest.json; `digest` is the identity of everything the bundle resolves to. What is here, every family has.

    `backbone` is the graph that runs at every step, `sample` the shape of what it is run on. `plain` is what a bundle
    without `defaults` gives its requests, `styledrop` what it gives under StyleDrop's rules, None being no other.
    """

    backbone: ClassVar[str]
    schedulers: ClassVar[tuple[str, ...]]
    plain: ClassVar[Defaults]
    styledrop: ClassVar[Defaults | None] = None

    format: Literal[1]
    family: str
    name: str
    architecture: str
    digest: str
    image: ImageSize
    tokenizer: TokenizerFacts
    tokenizer_2: TokenizerFacts | None = None
    force_zeros_for_empty_prompt: bool = False
    graphs: dict[str, Graph]
    control: Control | None = None
    defaults: Usual = Usual()
    pinned: tuple[Pinned, ...] = ()

    @property
    @abstractmethod
    def sample(self) -> tuple[int, int, int]: ...

    @property
    def text_encoders(self) -> dict[str, TokenizerFacts]:
        """The graphs that a prompt is read by, in the order in which the backbone takes what they say of it."""
        second = {} if self.tokenizer_2 is None else {"text_encoder_2": self.tokenizer_2}
        return {"text_encoder": self.tokenizer, **second}

    @property
    def embedding_widths(self) -> dict[str, int]:
        """The width of a token's embedding, by text encoder."""
        ports = {name: port for name, graph in self.graphs.items() for port in graph.inputs if port.name == LEARNED}
        return {name: int(port.shape[-1]) for name, port in ports.items()}

    @property
    def files(self) -> list[str]:
        """All that the bundle's graphs and tokenizers are read from, but for the weights that graphs point into."""
        own: list[Graph | TokenizerFacts] = [*self.graphs.values(), *self.text_encoders.values()]
        plain = [graph.plain for graph in self.graphs.values() if graph.plain is not None]
        pinned = [graph.file for mix in self.pinned for graph in mix.graphs.values()]
        return [one.file for one in own] + plain + pinned

    def port(self, graph: str, name: str) -> Port | None:
        """An input of `graph`; None where it has none of that name."""
        return next((port for port in self.graphs[graph].inputs if port.name == name), None)

    @model_validator(mode="after")
    def _has_a_tokenizer_for_each_text_encoder(self) -> Manifest:
        if ("text_encoder_2" in self.graphs) != (self.tokenizer_2 is not None):
            raise ValueError("graph text_encoder_2 and tokenizer_2 belong together, and one of them is missing")
        return self

    @model_validator(mode="after")
    def _defaults_to_a_scheduler_that_it_has(self) -> Manifest:
        if self.defaults.scheduler not in (None, *self.schedulers):
            known = ", ".join(self.schedulers)
            raise ValueError(f"defaults.scheduler is {self.defaults.scheduler!r}, which is none of {known}")
        return self

    @model_validator(mode="after")
    def _pins_graphs_that_mixes_change(self) -> Manifest:
        known = (*self.text_encoders, self.backbone)
        strange = sorted({name for mix in self.pinned for name in mix.graphs} - {*known})
        if strange:
            raise ValueError(f"pinned has {strange[0]}, and mixes change {', '.join(known)} alone")
        return self

    def _squares(self, factor: int) -> tuple[int, int]:
        return self.image.height // factor, self.image.width // factor


class DiffusionManifest(Manifest):
    """A UNet that predicts the noise in latents."""

    backbone: ClassVar[str] = "unet"
    schedulers: ClassVar[tuple[str, ...]] = ("ddim", "dpmpp_2m", "euler", "euler_a", "lcm", "unipc")
    plain: ClassVar[Defaults] = Defaults("dpmpp_2m", 25, 3.0)

    family: Literal["diffusion"]
    latents: Latents
    scheduler: Noise

    @property
    def told_of_guidance(self) -> bool:
        """Whether the UNet takes the guidance scale as an input and makes one pass do for all lanes."""
        return self.port("unet", GUIDANCE) is not None

    @property
    def sample(self) -> tuple[int, int, int]:
        """[C, h, w] of the usual picture's latents."""
        return self.latents.channels, *self._squares(self.latents.factor)


class MaskedManifest(Manifest):
    """A transformer that predicts the tokens that are masked. Its defaults are diffusers', and StyleDrop's Table S3."""

    backbone: ClassVar[str] = "transformer"
    schedulers: ClassVar[tuple[str, ...]] = ("maskgit", "amused")
    plain: ClassVar[Defaults] = Defaults("amused", 12, 10.0, 2.0)
    styledrop: ClassVar[Defaults | None] = Defaults("maskgit", 36, 10.0, 4.5)

    family: Literal["masked"]
    tokens: Tokens
    masking: Masking

    @property
    def sample(self) -> tuple[int, int, int]:
        """[1, h, w] of the usual picture's tokens."""
        return 1, *self._squares(self.tokens.factor)


_MANIFEST: TypeAdapter[DiffusionManifest | MaskedManifest] = TypeAdapter(
    Annotated[DiffusionManifest | MaskedManifest, Field(discriminator="family")]
)


@dataclass(frozen=True)
class Bundle:
    folder: Path
    manifest: DiffusionManifest | MaskedManifest

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Read and check `folder`. Raises SetupError naming what is missing or malformed."""
        path = folder / "manifest.json"
        if not path.is_file():
            raise SetupError(
                f"bundle: {folder} has no manifest.json; make one with `impasto link CHECKPOINT --out {folder}`"
            )
        try:
            manifest = _MANIFEST.validate_json(read_file(path, MAX_MANIFEST))
        except Unfit as error:
            raise SetupError(f"bundle: {path} {error}; link the checkpoint again") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SetupError(f"bundle: {path}: {where}: {first['msg']}; link the checkpoint again") from None
        bundle = cls(folder, manifest)
        for file in manifest.files:
            if not (folder / file).is_file():
                raise SetupError(f"bundle: {folder} lacks {file}; link the checkpoint again")
        return bundle

    @property
    def nbytes(self) -> int:
        """Size of all its files, most of it weights."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    def plain_path(self, name: str) -> Path | None:
        """Of a graph without its sites; None where the bundle has none."""
        file = self.manifest.graphs[name].plain
        return None if file is None else self.folder / file

    def graph_path(self, name: str, weights: int = 0) -> Path:
        """Of a graph with the bundle's own weights (0), or with those of its i-th pinned mix."""
        graphs = self.manifest.pinned[weights - 1].graphs if weights else self.manifest.graphs
        return self.folder / graphs[name].file
