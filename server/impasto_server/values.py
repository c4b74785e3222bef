"""What a request says, by group: each attribute with its field's row. This is the table of what every family may know.

Attributes without a row are no inputs. The strengths of guidance rules are with them (guidance.py), what one family
alone knows is in its folder.
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
    "Which of the server's bundles paints, by its name.",
    default="",
    usual="the first",
    option=Option(
        "which of the server's bundles paints; by default the first.",
        "Which of the server's bundles paints.",
        metavar="NAME",
    ),
)
GUIDANCE = Choice(
    "GUIDANCE",
    "The guidance rule. Of bundles that have their guidance built in, cfg alone.",
    default=RULES[0].name,
    option=Option(
        "a StyleContent, which counts style and content apart and has a scale of its own, a StyleDrop or a Compose; "
        "else guidance_scale is all there is. Needs `style`.",
        "By the difference that the adapter of --style makes, StyleDrop's, or that and --content's.",
        kind="guidance",
    ),
    choices=tuple(rule.name for rule in RULES),
)
# Which there are, the family says.
SCHEDULER = Choice("SCHEDULER", "The sampler.", usual="the bundle's", option=Option("{samplers}.", "{samplers}."))


@dataclass(frozen=True, kw_only=True)
class Words:
    """What is said of the picture, and what to steer away from."""

    prompt: str = given(
        Text(
            "PROMPT",
            f"What to paint, which bundles that have words need: UTF-8, 1 to {MAX_TEXT_BYTES} bytes, not blank. A word "
            f"<name> stands for an embedding; a request may name {MAX_EMBEDDINGS}. The numbers of stages of those in "
            "one text may divide at most 4096, and all stages of all lanes together may make at most 256 different "
            "texts.",
            default="",
            needed="say what to paint, e.g. 'a red boat at night'",
        )
    )
    negative_prompt: str = given(
        Text(
            "NEGATIVE_PROMPT",
            "What to steer away from. Not of bundles that have their guidance built in.",
            default="",
            usual='""; with dreamstyler-code its authors\' prompt against poor quality',
            option=Option(
                'what the picture should not show; "" for nothing, whatever the server\'s default is.',
                "What the picture should not show.",
            ),
        )
    )


@dataclass(frozen=True, kw_only=True)
class Styles:
    """`adapter_names` are LoRAs and bottleneck adapters, each with its weight. `style` names an embedding, or one for
    each of so many stages, the finest first; under a rule by adapters it names an adapter, and `content` the other one
    of a composition; `content_prompt` is what that is told, None being the prompt without the style's words.
    """

    adapter_names: tuple[str, ...] = given(
        Texts(
            "ADAPTER_NAMES",
            f"Adapters by their names in the registry, at most {MAX_ADAPTERS}, each once; of feedforward bundles "
            "styles.",
            default=(),
            usual="none",
            option=Option(
                "names of adapters in the server's registry to weights, -4 to 4; a lone name has the weight 1.",
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
            "One weight for each name. Of feedforward bundles they come to more than 0 and at most 1 in all; what is "
            "missing to 1 weakens the style.",
            usual="1.0 each; of feedforward bundles the same for each style, 1 in all",
            low=-MAX_WEIGHT,
            high=MAX_WEIGHT,
        )
    )
    style: tuple[str, ...] = given(
        Texts(
            "STYLE",
            f"The style to paint in: an embedding's name in the registry, or one name for each of up to {MAX_STAGES} "
            "stages, of which the first paints the finest detail. With styledrop and styledrop-compose the name of one "
            "adapter.",
            default=(),
            usual="none",
            option=Option(
                "the embedding whose style is painted in, by its name in the registry. To mix styles, a sequence of "
                "names, one for each stage, of which the first, 0, paints the finest detail and the last the "
                'composition; or names to ranges of stages, {"sks03": range(0, 3), "sks05": range(3, 6)}, which cover '
                f"0, 1, 2, … once each. {MAX_STAGES} stages at most. A request names {MAX_EMBEDDINGS} embeddings at "
                "most, those in its prompts counted in. With StyleDrop and Compose it is an adapter instead, and a "
                "single one.",
                "Style embedding of the server's registry. To mix them, say which stages each has, the finest detail "
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
            "The adapter whose content is painted in the style.",
            usual="none",
            option=Option(
                "the adapter whose content is painted, by its name in the registry. Needs Compose.",
                "The adapter of a content, painted in the style of --style's.",
                metavar="NAME",
            ),
        )
    )

    content_prompt: str | None = given(
        Text(
            "CONTENT_PROMPT",
            "CONTENT's prompt, without words for the style.",
            usual="PROMPT, where STYLE's adapter has a template with words of its own; else it is needed",
            option=Option(flag="With --content: the prompt without words for the style."),
        )
    )

    @property
    def adapters(self) -> tuple[tuple[str, float], ...]:
        """Name and weight of each."""
        return tuple(zip(self.adapter_names, self.adapter_weights, strict=True))


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """`ramp`: the guidance's strengths rise from 0 at the first step to their whole at the last. `spreads`: whether the
    sampler runs all its steps over the share of the noise that a content image leaves, where others run fewer.
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
                "let the guidance rise linearly from nothing at the first step to its full strength at the last.",
                "Let the guidance grow from the first step to the last.",
            ),
        )
    )
    spreads: bool = False


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Of `n` candidates, the i-th is what the same request alone paints from `seed` + i."""

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
            "Candidates; each is painted with a seed one higher than the last.",
            default=1,
            option=Option(
                "how many candidates to paint, 1 to 16; each is the picture of a seed one higher than that of the one "
                "before.",
                "Candidates to paint, each with a seed one higher.",
            ),
            low=1,
            high=MAX_CANDIDATES,
        )
    )

    @property
    def each(self) -> tuple[int, ...]:
        """Each candidate's own."""
        return tuple((self.seed + i) % (MAX_SEED + 1) for i in range(self.n))


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """`rerank` orders the candidates by their clip score, with the prompt ("text") or with `style_image` ("style"), an
    encoded file.
    """

    rerank: str | None = given(
        Choice(
            "RERANK",
            "Sorts the candidates by clip_score, the best first: text (against PROMPT) or style (against STYLE_IMAGE). "
            "Needs a server with a scorer.",
            usual="as painted, without scores",
            option=Option(
                '"text" sorts the candidates by how well they show the prompt, "style" by how near they come to '
                "style_image; the best is the first then, and each has a score. Needs a server with a scorer.",
                "The best candidate first, by the prompt (text) or by --style-image (style).",
            ),
            choices=RERANKS,
        )
    )
    style_image: bytes | None = given(
        File(
            "STYLE_IMAGE",
            "The picture that candidates are compared with: an encoded PNG, JPEG or WebP file. With RERANK style, "
            "which needs it.",
            option=Option(
                'with rerank "style", the picture to come near to; passed as `image` is.',
                "With --rerank style: what to come near to.",
                metavar="FILE",
            ),
            check=check_bytes,
        )
    )


@dataclass(frozen=True, kw_only=True)
class Size:
    """Pixels of each candidate."""

    width: int = given(
        Whole(
            "WIDTH",
            "Pixels; a multiple of what the bundle says.",
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
    """Encoded files: `image`, from which the last `strength` of the steps are run, and `depth`, how near everything is.
    `control_scale` is how strictly a ControlNet follows them.
    """

    image: bytes | None = given(
        File(
            "IMAGE",
            "The picture to start from: an encoded PNG, JPEG or WebP file. Of feedforward bundles the photo that is "
            "painted, in its own size: they need it.",
            usual="none, the start is noise",
            option=Option(
                "the picture to start from: a PNG, JPEG or WebP file, as bytes or as its Path, or a PIL image. It is "
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
            "How far to leave IMAGE behind: that share of STEPS is run, rounded down; under lcm all of them, over that "
            "share of what it was taught. With IMAGE only. Of feedforward bundles how strong the style is; what is "
            "left of 1 is the photo.",
            default=0.8,
            option=Option(
                "how far to leave `image` behind, 0 to 1; that share of the steps is run, or under lcm all of them "
                "over that share of the noise.",
                "With --image: how far to leave it behind, 0 to 1.",
            ),
            low=0.0,
            high=1.0,
        )
    )
    depth: bytes | None = given(
        File(
            "DEPTH",
            "How near everything is: an encoded greyscale picture, near is bright.",
            usual="none",
            option=Option(
                "how near everything is, as a grey picture in which near is bright; passed as `image` is.",
                "How near everything is, in grey; near is bright.",
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
    """`timeout_s` counts from submission, None waits for ever. Every `preview_every`-th step has a preview; 0: none."""

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
        Whole("PREVIEW_EVERY", "A preview after every so many steps; 0: none.", default=0, high=MAX_STEPS)
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
WORDS = ("PROMPT", "NEGATIVE_PROMPT", "CONTENT_PROMPT")  # what families without words don't know
STREAMED = ("PREVIEW_EVERY",)  # of these, what the model alone knows that streams
