"""The values of a request, by group: each attribute with its field's row. This is the table of the families' common
fields.

Attributes without a row are not inputs. The strengths of guidance rules are in guidance.py, a family's own fields in
its folder.
"""

from __future__ import annotations

from dataclasses import dataclass

from impasto_server.adapters.adapter import MAX_STAGES
from impasto_server.fields import (
    MAX_TEXT_BYTES,
    Choice,
    Field,
    File,
    Flag,
    Long,
    Number,
    Numbers,
    Option,
    Text,
    Texts,
    Whole,
    given,
    rows,
)
from impasto_server.guidance import RULES
from impasto_server.pictures.content import check_bytes
from impasto_server.pictures.image import FORMATS

MAX_ADAPTERS = 8
MAX_EMBEDDINGS = 16
MAX_WEIGHT = 4.0
MAX_STEPS = 200
MAX_SEED = 2**63 - 1
MAX_CANDIDATES = 16
RERANKS = ("text", "style")


MODEL = Text(
    "MODEL",
    "The name of the bundle that paints.",
    default="",
    usual="the server's first",
    option=Option(
        "the name of the bundle that paints; by default the server's first.",
        "The name of the bundle that paints.",
        metavar="NAME",
    ),
)
GUIDANCE = Choice(
    "GUIDANCE",
    "The guidance rule. Bundles with built-in guidance take only cfg.",
    default=RULES[0].name,
    option=Option(
        "a StyleContent, which guides style and content separately and has its own scale, a StyleDrop or a Compose; "
        "without it, only guidance_scale guides. Needs `style`.",
        "Guide by the difference that the adapter of --style makes (StyleDrop), or that and --content's.",
        kind="guidance",
    ),
    choices=tuple(rule.name for rule in RULES),
)
# Each family says which samplers there are.
SCHEDULER = Choice("SCHEDULER", "The sampler.", usual="the bundle's", option=Option("{samplers}.", "{samplers}."))


@dataclass(frozen=True, kw_only=True)
class Words:
    """What to paint, and what to steer away from."""

    prompt: str = given(
        Text(
            "PROMPT",
            f"What to paint; bundles that take words need it. UTF-8, 1 to {MAX_TEXT_BYTES} bytes, not blank. A word "
            f"<name> stands for an embedding; a request may name at most {MAX_EMBEDDINGS}. The stage counts of the "
            "embeddings in one text may have a least common multiple of at most 4096, and all stages of all lanes may "
            "make at most 256 different texts.",
            default="",
            needed="say what to paint, e.g. 'a red boat at night'",
        )
    )
    negative_prompt: str = given(
        Text(
            "NEGATIVE_PROMPT",
            "What to steer away from. Not for bundles with built-in guidance.",
            default="",
            usual='""; with dreamstyler-code its authors\' prompt against poor quality',
            option=Option(
                'what the picture should not show; "" is nothing, even where the server\'s default is something.',
                "What the picture should not show.",
            ),
        )
    )


@dataclass(frozen=True, kw_only=True)
class Styles:
    """`adapter_names` are LoRAs and bottleneck adapters, each with a weight. `style` names one embedding, or one for
    each stage, the finest first. Under a rule by adapters it names an adapter, and `content` the second adapter of a
    composition; `content_prompt` is the content's prompt, None being the prompt without the style's words.
    """

    adapter_names: tuple[str, ...] = given(
        Texts(
            "ADAPTER_NAMES",
            f"Adapters by their names in the registry, at most {MAX_ADAPTERS}, each once. For feedforward bundles "
            "these are styles.",
            default=(),
            usual="none",
            option=Option(
                "names of adapters in the server's registry with weights, -4 to 4; a name alone has the weight 1.",
                "An adapter of the server's registry; may be repeated.",
                name="adapters",
                kind="adapters",
                metavar="NAME[:WEIGHT]",
                flags="--adapter",
            ),
            most=MAX_ADAPTERS,
            problem="{n} adapters",
            fix=f"pass at most {MAX_ADAPTERS}",
        )
    )
    adapter_weights: tuple[float, ...] = given(
        Numbers(
            "ADAPTER_WEIGHTS",
            "One weight for each name. For feedforward bundles their sum must be above 0 and at most 1; a sum below 1 "
            "weakens the style.",
            usual="1.0 each; for feedforward bundles equal weights with the sum 1",
            low=-MAX_WEIGHT,
            high=MAX_WEIGHT,
        )
    )
    style: tuple[str, ...] = given(
        Texts(
            "STYLE",
            f"The style to paint in: the name of an embedding in the registry, or one name for each of up to "
            f"{MAX_STAGES} stages; the first stage paints the finest detail. With styledrop and styledrop-compose the "
            "name of one adapter.",
            default=(),
            usual="none",
            option=Option(
                "the style to paint in: the name of an embedding in the registry. To mix styles, pass a sequence of "
                "names, one for each stage; stage 0 paints the finest detail, the last stage the composition. Or map "
                'names to ranges of stages, {"sks03": range(0, 3), "sks05": range(3, 6)}, which must cover 0, 1, 2, … '
                f"once each. At most {MAX_STAGES} stages. A request may name at most {MAX_EMBEDDINGS} embeddings, "
                "those in its prompts included. With StyleDrop and Compose pass the name of a single adapter instead.",
                "Style embedding of the server's registry. To mix several, give each its stages, the finest detail "
                "first: --style sks03:0-2 --style sks05:3-5. With StyleDrop's guidance it is an adapter.",
                kind="style",
                metavar="NAME[:STAGES]",
            ),
            most=MAX_STAGES,
            problem="{n} stages",
            fix=f"pass one name, or at most {MAX_STAGES}",
        )
    )
    content: str | None = given(
        Text(
            "CONTENT",
            "The adapter of the content that is painted in the style.",
            usual="none",
            option=Option(
                "the adapter of the content that is painted, by its name in the registry. Needs Compose.",
                "The adapter of the content that is painted in the style of --style.",
                metavar="NAME",
            ),
        )
    )

    content_prompt: str | None = given(
        Text(
            "CONTENT_PROMPT",
            "CONTENT's prompt, without words for the style.",
            usual="PROMPT, if STYLE's adapter has a prompt template; else it is needed",
            option=Option(flag="With --content: the prompt without words for the style."),
        )
    )

    @property
    def adapters(self) -> tuple[tuple[str, float], ...]:
        """The name and weight of each adapter."""
        return tuple(zip(self.adapter_names, self.adapter_weights, strict=True))


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """`ramp`: the guidance rises from 0 at the first step to full strength at the last. `spreads`: with a content image
    the sampler runs all its steps over the remaining share of the noise, where others run fewer steps.
    """

    steps: int = given(
        Whole(
            "STEPS",
            "Sampler steps.",
            usual="the bundle's",
            option=Option("denoising steps, 1 to 200.", "Denoising steps."),
            low=1,
            high=MAX_STEPS,
        )
    )
    scheduler: str = given(SCHEDULER)
    ramp: bool = given(
        Flag(
            "GUIDANCE_RAMP",
            "Whether the guidance rises linearly from 0 at the first step to its full strength at the last.",
            default=False,
            option=Option(
                "let the guidance rise linearly from 0 at the first step to its full strength at the last.",
                "Let the guidance rise from 0 at the first step to full strength at the last.",
            ),
        )
    )
    spreads: bool = False


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Candidate i of `n` is the picture that the same request paints alone from `seed` + i."""

    seed: int = given(
        Long(
            "SEED",
            "The noise's seed.",
            usual="drawn at random, and answered in SEED",
            option=Option("0 to 2**63-1; the same seed paints the same picture.", "Same seed, same picture."),
        )
    )
    n: int = given(
        Whole(
            "N",
            "Number of candidates; each has the next higher seed.",
            default=1,
            option=Option(
                "how many candidates to paint, 1 to 16; each has the next higher seed.",
                "Candidates to paint; each has the next higher seed.",
            ),
            low=1,
            high=MAX_CANDIDATES,
        )
    )

    @property
    def each(self) -> tuple[int, ...]:
        """The seed of each candidate."""
        return tuple((self.seed + i) % (MAX_SEED + 1) for i in range(self.n))


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """`rerank` sorts the candidates by their clip score, against the prompt ("text") or against `style_image`, an
    encoded file ("style").
    """

    rerank: str | None = given(
        Choice(
            "RERANK",
            "Sorts the candidates by clip_score, the best first: text (against PROMPT) or style (against STYLE_IMAGE). "
            "Needs a server with a scorer.",
            usual="as painted, without scores",
            option=Option(
                '"text" sorts the candidates by how well they show the prompt, "style" by how near they come to '
                "style_image. The best is first, and each has a score. Needs a server with a scorer.",
                "Sort the candidates, the best first: by the prompt (text) or by --style-image (style).",
            ),
            choices=RERANKS,
        )
    )
    style_image: bytes | None = given(
        File(
            "STYLE_IMAGE",
            "The picture that candidates are compared with: an encoded PNG, JPEG or WebP file. Only with RERANK style, "
            "which needs it.",
            option=Option(
                'with rerank "style": the picture to compare with; passed like `image`.',
                "With --rerank style: the picture to compare with.",
                metavar="FILE",
            ),
            check=check_bytes,
        )
    )


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size of each candidate, in pixels."""

    width: int = given(
        Whole(
            "WIDTH",
            "Pixels; a multiple of the bundle's `multiple_of`.",
            usual="the bundle's size",
            option=Option("pixels.", "Pixels."),
            low=1,
            high=1 << 16,
        )
    )
    height: int = given(
        Whole(
            "HEIGHT",
            "As WIDTH.",
            usual="the bundle's size",
            option=Option("pixels.", "Pixels."),
            low=1,
            high=1 << 16,
        )
    )

    @property
    def pixels(self) -> int:
        return self.width * self.height


@dataclass(frozen=True, kw_only=True)
class Content:
    """Encoded files: `image`, from which only the last `strength` of the steps are run, and the depth map `depth`.
    `control_scale` is how strictly a ControlNet follows them.
    """

    image: bytes | None = given(
        File(
            "IMAGE",
            "The picture to start from: an encoded PNG, JPEG or WebP file. For feedforward bundles it is the photo to "
            "paint, in its own size, and needed.",
            usual="none, the start is noise",
            option=Option(
                "the picture to start from: a PNG, JPEG or WebP file as bytes or as a Path, or a PIL image. It is "
                "sent in its own size; the server fits it to width and height.",
                "Picture to start from: PNG, JPEG or WebP.",
                metavar="FILE",
            ),
            check=check_bytes,
        )
    )
    strength: float = given(
        Number(
            "STRENGTH",
            "How far to depart from IMAGE: this share of STEPS is run, rounded down; with lcm all STEPS, over this "
            "share of the noise. Only with IMAGE. For feedforward bundles it is how strong the style is; what is left "
            "of 1 is the photo.",
            default=0.8,
            option=Option(
                "how far to depart from `image`, 0 to 1: this share of the steps is run, or with lcm all of them over "
                "this share of the noise.",
                "With --image: how far to depart from it, 0 to 1.",
            ),
            low=0.0,
            high=1.0,
        )
    )
    depth: bytes | None = given(
        File(
            "DEPTH",
            "A depth map: an encoded greyscale picture, near is bright.",
            usual="none",
            option=Option(
                "a depth map: a greyscale picture in which near is bright; passed like `image`.",
                "A depth map: a greyscale picture, near is bright.",
                metavar="FILE",
            ),
            check=check_bytes,
        )
    )
    control_scale: float = given(
        Number(
            "CONTROL_SCALE",
            "How strictly the bundle's ControlNet follows IMAGE and DEPTH; 0 turns it off.",
            default=0.8,
            option=Option(
                "how strictly the edges of `image` and `depth` are followed, 0 to 2; 0 turns that off.",
                "How strictly --image and --depth are followed, 0 to 2.",
            ),
            low=0.0,
            high=2.0,
        )
    )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`timeout_s` counts from submission; None has no limit. Every `preview_every`-th step has a preview; 0: none."""

    format: str = given(
        Choice(
            "FORMAT",
            "How the pictures are encoded.",
            default="png",
            option=Option("png, jpeg or webp."),
            choices=FORMATS,
        )
    )
    preview_every: int = given(
        Whole("PREVIEW_EVERY", "Number of steps between previews; 0: no previews.", default=0, high=MAX_STEPS)
    )
    timeout_s: float | None = None


GROUPS = (Words, Styles, Sampling, Seeds, Ranking, Size, Answer, Content)
COMMON: tuple[Field, ...] = (
    *rows(Words).values(),
    *rows(Styles).values(),
    GUIDANCE,
    *(row for group in GROUPS[2:] for row in rows(group).values()),
    MODEL,
)
WORDS = ("PROMPT", "NEGATIVE_PROMPT", "CONTENT_PROMPT")  # unknown to families without words
STREAMED = ("PREVIEW_EVERY",)  # known only to the streaming model
