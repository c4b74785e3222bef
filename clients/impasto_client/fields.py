# Generated from the server's table of fields: `python -m impasto_server.reference`.
"""The fields of a request: how each is encoded and what the command line's help says of it; and the guidance rules."""

from __future__ import annotations

from typing import TypedDict

from impasto_client.field import Field, Rule, Table
from impasto_client.options import Adapters, Guidance, Picture, Style

FIELDS: tuple[Field, ...] = (
    Field(
        "NEGATIVE_PROMPT",
        "BYTES",
        "text",
        option="negative_prompt",
        flag="--negative-prompt",
        help="What the picture should not show.",
    ),
    Field(
        "ADAPTER_NAMES",
        "BYTES",
        "adapters",
        option="adapters",
        flag="--adapter",
        help="An adapter of the server's registry; may be repeated.",
        metavar="NAME[:WEIGHT]",
    ),
    Field(
        "ADAPTER_WEIGHTS",
        "FP32",
        "numbers",
        low=-4.0,
        high=4.0,
    ),
    Field(
        "STYLE",
        "BYTES",
        "style",
        option="style",
        flag="--style",
        help="Style embedding of the server's registry. To mix several, give each its stages, the finest detail first:"
        " --style sks03:0-2 --style sks05:3-5. With StyleDrop's guidance it is an adapter.",
        metavar="NAME[:STAGES]",
    ),
    Field(
        "CONTENT",
        "BYTES",
        "text",
        option="content",
        flag="--content",
        help="The adapter of the content that is painted in the style of --style.",
        metavar="NAME",
    ),
    Field(
        "CONTENT_PROMPT",
        "BYTES",
        "text",
        flag="--content-prompt",
        help="With --content: the prompt without words for the style.",
    ),
    Field(
        "GUIDANCE",
        "BYTES",
        "guidance",
        option="guidance",
        flag="--guidance",
        help="Guide by the difference that the adapter of --style makes (StyleDrop), or that and --content's.",
        default="cfg",
        choices=("cfg", "dreamstyler", "dreamstyler-code", "styledrop", "styledrop-compose"),
    ),
    Field(
        "GUIDANCE_SCALE",
        "FP32",
        "number",
        option="guidance_scale",
        flag="--guidance-scale",
        help="How strongly the prompt counts.",
        default=3.0,
        low=-50.0,
        high=50.0,
    ),
    Field(
        "STYLE_GUIDANCE",
        "FP32",
        "number",
        flag="--style-guidance",
        help="With --style: how strongly the style alone counts.",
        default=0.5,
        low=-50.0,
        high=50.0,
    ),
    Field(
        "CONTENT_GUIDANCE",
        "FP32",
        "number",
        flag="--content-guidance",
        help="With --style: how strongly the content alone counts.",
        default=3.0,
        low=-50.0,
        high=50.0,
    ),
    Field(
        "STYLE_STRENGTH",
        "FP32",
        "number",
        flag="--style-strength",
        help="With StyleDrop's guidance: how far to go beyond the adapter's own effect.",
        default=2.0,
        low=-50.0,
        high=50.0,
    ),
    Field(
        "TEXT_STRENGTH",
        "FP32",
        "number",
        flag="--text-strength",
        help="With StyleDrop's guidance: how strongly the prompt counts.",
        default=5.0,
        low=-50.0,
        high=50.0,
    ),
    Field(
        "GAMMA",
        "FP32",
        "number",
        flag="--gamma",
        help="With --content: 0 is the style alone, 1 the content alone.",
        default=0.5,
        low=0.0,
        high=1.0,
    ),
    Field(
        "STEPS",
        "INT32",
        "number",
        option="steps",
        flag="--steps",
        help="Denoising steps.",
        default=25,
        low=1,
        high=200,
    ),
    Field(
        "SCHEDULER",
        "BYTES",
        "text",
        option="scheduler",
        flag="--scheduler",
        help="ddim, dpmpp_2m, euler, euler_a, lcm or unipc; with a masked backbone, maskgit or amused.",
        default="dpmpp_2m",
    ),
    Field(
        "GUIDANCE_RAMP",
        "BOOL",
        "flag",
        option="guidance_ramp",
        flag="--guidance-ramp",
        help="Let the guidance rise from 0 at the first step to full strength at the last.",
        default=False,
    ),
    Field(
        "SEED",
        "INT64",
        "number",
        option="seed",
        flag="--seed",
        help="Same seed, same picture.",
        low=0,
        high=9223372036854775807,
    ),
    Field(
        "N",
        "INT32",
        "number",
        option="n",
        flag="--n",
        help="Candidates to paint; each has the next higher seed.",
        default=1,
        low=1,
        high=16,
    ),
    Field(
        "RERANK",
        "BYTES",
        "text",
        option="rerank",
        flag="--rerank",
        help="Sort the candidates, the best first: by the prompt (text) or by --style-image (style).",
        choices=("text", "style"),
    ),
    Field(
        "STYLE_IMAGE",
        "BYTES",
        "picture",
        option="style_image",
        flag="--style-image",
        help="With --rerank style: the picture to compare with.",
        metavar="FILE",
    ),
    Field(
        "WIDTH",
        "INT32",
        "number",
        option="width",
        flag="--width",
        help="Pixels.",
        low=1,
        high=65536,
    ),
    Field(
        "HEIGHT",
        "INT32",
        "number",
        option="height",
        flag="--height",
        help="Pixels.",
        low=1,
        high=65536,
    ),
    Field(
        "FORMAT",
        "BYTES",
        "text",
        option="format",
        default="png",
        choices=("png", "jpeg", "webp"),
    ),
    Field(
        "IMAGE",
        "BYTES",
        "picture",
        option="image",
        flag="--image",
        help="Picture to start from: PNG, JPEG or WebP.",
        metavar="FILE",
    ),
    Field(
        "STRENGTH",
        "FP32",
        "number",
        option="strength",
        flag="--strength",
        help="With --image: how far to depart from it, 0 to 1.",
        default=0.8,
        low=0.0,
        high=1.0,
    ),
    Field(
        "DEPTH",
        "BYTES",
        "picture",
        option="depth",
        flag="--depth",
        help="A depth map: a greyscale picture, near is bright.",
        metavar="FILE",
    ),
    Field(
        "CONTROL_SCALE",
        "FP32",
        "number",
        option="control_scale",
        flag="--control-scale",
        help="How strictly --image and --depth are followed, 0 to 2.",
        default=0.8,
        low=0.0,
        high=2.0,
    ),
    Field(
        "MODEL",
        "BYTES",
        "text",
        option="model",
        flag="--model",
        help="The name of the bundle that paints.",
        metavar="NAME",
    ),
    Field(
        "TEMPERATURE",
        "FP32",
        "number",
        option="temperature",
        flag="--temperature",
        help="For a masked backbone: how random the choice is of the tokens that are kept.",
        low=0.0,
        high=100.0,
    ),
    Field(
        "UPSCALE_STEPS",
        "INT32",
        "number",
        option="upscale_steps",
        flag="--upscale-steps",
        help="For a backbone of two stages: steps of the second; 0 leaves it out.",
        default=0,
        low=0,
        high=200,
    ),
    Field(
        "UPSCALE_TEMPERATURE",
        "FP32",
        "number",
        option="upscale_temperature",
        flag="--upscale-temperature",
        help="For a backbone of two stages: --temperature of the second.",
        default=4.5,
        low=0.0,
        high=100.0,
    ),
    Field(
        "UPSCALE_GUIDANCE_SCALE",
        "FP32",
        "number",
        option="upscale_guidance_scale",
        flag="--upscale-guidance-scale",
        help="For a backbone of two stages: --guidance-scale of the second.",
        default=2.0,
        low=0.0,
        high=50.0,
    ),
    Field(
        "UPSCALE_STYLE_STRENGTH",
        "FP32",
        "number",
        option="upscale_style_strength",
        flag="--upscale-style-strength",
        help="With StyleDrop's guidance, for a backbone of two stages: --style-strength of the second.",
        default=1.0,
        low=-50.0,
        high=50.0,
    ),
    Field(
        "UPSCALE_TEXT_STRENGTH",
        "FP32",
        "number",
        option="upscale_text_strength",
        flag="--upscale-text-strength",
        help="With StyleDrop's guidance, for a backbone of two stages: --text-strength of the second.",
        default=0.0,
        low=-50.0,
        high=50.0,
    ),
    Field(
        "BASE_IMAGE",
        "BYTES",
        "picture",
        option="base_image",
        flag="--base-image",
        help="For a backbone of two stages: the picture that the second paints larger and finer.",
        metavar="FILE",
    ),
    Field(
        "STYLE_IMAGES",
        "BYTES",
        "pictures",
    ),
    Field(
        "STYLE_IMAGE_WEIGHTS",
        "FP32",
        "numbers",
        low=-4.0,
        high=4.0,
    ),
    Field(
        "MASKS",
        "BYTES",
        "pictures",
    ),
    Field(
        "DETAIL",
        "FP32",
        "number",
        default=1.0,
        low=0.25,
        high=4.0,
    ),
    Field(
        "PRESERVE_COLOR",
        "BOOL",
        "flag",
        default=False,
    ),
    Field(
        "LONG_SIDE",
        "INT32",
        "number",
        low=16,
        high=8192,
    ),
    Field(
        "PREVIEW_EVERY",
        "INT32",
        "number",
        default=0,
        low=0,
        high=200,
    ),
)

RULES: tuple[Rule, ...] = (
    Rule(
        name="cfg",
        kin="",
        convention="",
        styled="embedding",
        knows=("ADAPTER_NAMES",),
        fields={"scale": "GUIDANCE_SCALE"},
        defaults={"GUIDANCE_SCALE": 3.0},
    ),
    Rule(
        name="dreamstyler",
        kin="DreamStyler",
        convention="paper",
        styled="embedding",
        knows=("ADAPTER_NAMES",),
        fields={"scale": "GUIDANCE_SCALE", "style": "STYLE_GUIDANCE", "content": "CONTENT_GUIDANCE"},
        defaults={"GUIDANCE_SCALE": 5.0, "STYLE_GUIDANCE": 0.5, "CONTENT_GUIDANCE": 3.0},
    ),
    Rule(
        name="dreamstyler-code",
        kin="DreamStyler",
        convention="code",
        styled="embedding",
        knows=("ADAPTER_NAMES",),
        fields={"scale": "GUIDANCE_SCALE", "style": "STYLE_GUIDANCE", "content": "CONTENT_GUIDANCE"},
        defaults={"GUIDANCE_SCALE": 5.0, "STYLE_GUIDANCE": 0.5, "CONTENT_GUIDANCE": 3.0},
    ),
    Rule(
        name="styledrop",
        kin="StyleDrop",
        convention="",
        styled="adapter",
        knows=("ADAPTER_NAMES",),
        fields={"style_strength": "STYLE_STRENGTH", "text_strength": "TEXT_STRENGTH"},
        defaults={"STYLE_STRENGTH": 2.0, "TEXT_STRENGTH": 5.0},
    ),
    Rule(
        name="styledrop-compose",
        kin="StyleDrop",
        convention="",
        styled="adapter",
        knows=("CONTENT", "CONTENT_PROMPT"),
        fields={
            "style_strength": "STYLE_STRENGTH",
            "text_strength": "TEXT_STRENGTH",
            "gamma": "GAMMA",
            "content_prompt": "CONTENT_PROMPT",
        },
        defaults={"STYLE_STRENGTH": 2.0, "TEXT_STRENGTH": 5.0, "GAMMA": 0.5},
    ),
)

TABLE = Table(FIELDS, RULES)


class Options(TypedDict, total=False):
    """The options of a picture besides the prompt. Where one is left out or None, the server chooses.

    negative_prompt: what the picture should not show; "" is nothing, even where the server's default is something.
    adapters: names of adapters in the server's registry with weights, -4 to 4; a name alone has the weight 1.
    style: the style to paint in: the name of an embedding in the registry. To mix styles, pass a sequence of names, one
        for each stage; stage 0 paints the finest detail, the last stage the composition. Or map names to ranges of
        stages, {"sks03": range(0, 3), "sks05": range(3, 6)}, which must cover 0, 1, 2, … once each. At most 64 stages.
        A request may name at most 16 embeddings, those in its prompts included. With StyleDrop and Compose pass the
        name of a single adapter instead.
    content: the adapter of the content that is painted, by its name in the registry. Needs Compose.
    guidance: a StyleContent, which guides style and content separately and has its own scale, a StyleDrop or a Compose;
        without it, only guidance_scale guides. Needs `style`.
    guidance_scale: how strongly the prompt counts, 0 to 50; 1 or less turns guidance off.
    steps: denoising steps, 1 to 200.
    scheduler: ddim, dpmpp_2m, euler, euler_a, lcm or unipc; with a masked backbone, maskgit or amused.
    guidance_ramp: let the guidance rise linearly from 0 at the first step to its full strength at the last.
    seed: 0 to 2**63-1; the same seed paints the same picture.
    n: how many candidates to paint, 1 to 16; each has the next higher seed.
    rerank: "text" sorts the candidates by how well they show the prompt, "style" by how near they come to style_image.
        The best is first, and each has a score. Needs a server with a scorer.
    style_image: with rerank "style": the picture to compare with; passed like `image`.
    width: pixels.
    height: pixels.
    format: png, jpeg or webp.
    image: the picture to start from: a PNG, JPEG or WebP file as bytes or as a Path, or a PIL image. It is sent in its
        own size; the server fits it to width and height.
    strength: how far to depart from `image`, 0 to 1: this share of the steps is run, or with lcm all of them over this
        share of the noise.
    depth: a depth map: a greyscale picture in which near is bright; passed like `image`.
    control_scale: how strictly the edges of `image` and `depth` are followed, 0 to 2; 0 turns that off.
    model: the name of the bundle that paints; by default the server's first.
    temperature: for a masked backbone, 0 to 100: how random the choice is of the tokens that are kept after each step.
    upscale_steps: for a backbone of two stages, 0 to 200: steps of the second; with 0 the picture is the first stage's,
        in its smaller size.
    upscale_temperature: for a backbone of two stages: `temperature` of the second.
    upscale_guidance_scale: for a backbone of two stages, 0 to 50: `guidance_scale` of the second; not with StyleDrop
        and Compose.
    upscale_style_strength: for a backbone of two stages, with StyleDrop and Compose, -50 to 50: `style_strength` of the
        second.
    upscale_text_strength: for a backbone of two stages, with StyleDrop and Compose, -50 to 50: `text_strength` of the
        second.
    base_image: for a backbone of two stages, in place of the first stage's picture: the one that the second paints
        larger and finer; passed like `image`, in the size of the first stage's pictures.
    """

    negative_prompt: str | None
    adapters: Adapters
    style: Style
    content: str | None
    guidance: Guidance
    guidance_scale: float | None
    steps: int | None
    scheduler: str | None
    guidance_ramp: bool | None
    seed: int | None
    n: int | None
    rerank: str | None
    style_image: Picture | None
    width: int | None
    height: int | None
    format: str | None
    image: Picture | None
    strength: float | None
    depth: Picture | None
    control_scale: float | None
    model: str | None
    temperature: float | None
    upscale_steps: int | None
    upscale_temperature: float | None
    upscale_guidance_scale: float | None
    upscale_style_strength: float | None
    upscale_text_strength: float | None
    base_image: Picture | None
