"""How fast is the masked family beside its peer?

python benchmarks/masked.py --json FILE [--backbone mini|cascade|amused256] [--rounds N] [--engine tensorrt]

mini, amused256  a base by itself (common/masked_backbones.py), in one process and on the same threads: every round has
                 guided pictures, a composition and the steps' parts alone on the same engines, then crowds of eight by
                 the pipeline, and the first of them by diffusers with PEFT, in an order that moves on by one
cascade          mini-muse's both stages: every round has a guided picture and its steps' parts alone in this process,
                 then eight users with eight pairs of adapters, through gRPC, and the same by a torch loop

Figures are medians over rounds, the warm-up isn't counted. Draws made side by side are held against the peer's, which
is led by them (common/draws.py).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are scripts, none is installed

from benchmarks.common import question
from benchmarks.common.bars import Bar
from benchmarks.common.masked_backbones import BACKBONES
from benchmarks.common.question import Question
from benchmarks.parts.masked import alone, cascade
from benchmarks.parts.masked.rounds import STEPS

ROUNDS = {"mini": 7, "cascade": 5, "amused256": 1}
BENCHES: Mapping[str, type[question.Bench]] = {
    "mini": alone.Bench,
    "cascade": cascade.Bench,
    "amused256": alone.Bench,
}
NOTES = {
    "image_time_ratio": "seconds of Pipeline.generate for one guided picture (12 or 36 steps) ÷ (steps x one forward "
    "+ decoding), the latter two on the pipeline's own engines with the same lanes while it is idle. The prompt is new "
    "in every round, so its text is encoded.",
    "sampler_share": "of those seconds: maskgit.decode fed with logits of a forward pass, and guidance.combine.",
    "compose_ratio": "5 lanes (styledrop-compose, γ 0.5, two LoRAs) ÷ 2 lanes (classifier-free, one of them), the same "
    "steps; *_interval_95: bootstrap over rounds.",
    "throughput_ratio_vs_diffusers_peft": "pictures per second of eight requests of 12 steps, each with another LoRA "
    "of rank 16, pipeline ÷ diffusers' AmusedPipeline + set_adapters in torch bf16, one after another. diffusers' PNG "
    "encoding is left out, the pipeline's is in.",
    "heterogeneity": "pictures per second of that crowd ÷ the same with one adapter for all; bottleneck_ratio: ÷ with "
    "bottleneck adapters instead; adapter_tax: seconds ÷ those without adapters, by the same graph.",
    "lora_tax": "forward pass of 8 lanes, each under another adapter ÷ the same batch by the backbone exported without "
    "adapter inputs; lora_tax_four: each under a mix of four; plain_tax: without adapters, after batches with them.",
    "parity_draws": "share of tokens drawn right: side by side in f32 and by diffusers in fp32, which is given the "
    "pipeline's tokens and random numbers at every step; of the engine where it's smallest. Right is the same token, "
    "or one whose uniform number falls between both sides' sums (*_between_sums: how many of *_in_all).",
    "parity_tokens_bf16": "share of equal tokens of pictures painted on their own with the same random numbers, the "
    "pipeline's in bf16 (*_peer_bf16: diffusers') ÷ the pipeline's in f32: a token that falls the other way changes "
    "what is drawn after it.",
    "image_time_ratio_stages": "seconds of Pipeline.generate for a guided picture of both stages, 12 and 8 steps, ÷ "
    "(steps x one forward of each stage + decoding), as above.",
    "throughput_ratio_vs_torch_loop": "pictures a second of eight clients, each with another pair of adapters of rank "
    "16, through Triton and gRPC ÷ the same by a loop over both stages in torch bf16, which hooks each request's pair "
    "to its modules. The PNG and its way are in the server's seconds alone.",
    "wrong_adapter_tokens": "the same in f32 with every user under the next one's adapter, best picture: what it would "
    "be if adapters were mixed up.",
}
ALONE = ("mini", "amused256")
BARS = (
    *(Bar(f"image_time_ratio_{steps}", ALONE, at_most=1.15) for steps in STEPS),
    Bar("compose_ratio", ALONE, at_most=2.6),
    Bar("throughput_ratio_vs_diffusers_peft", ALONE, at_least=2.5),
    Bar("image_time_ratio_stages", ("cascade",), at_most=1.1),
    Bar("throughput_ratio_vs_torch_loop", ("cascade",), at_least=2.5),
    Bar("parity_draws", tuple(BACKBONES), at_least=1.0),
)


def bench(name: str, *given: Any) -> question.Bench:
    """One backbone under measurement."""
    return BENCHES[name](name, *given)


MASKED = Question(str(__doc__), BACKBONES, ROUNDS, BARS, NOTES, bench)

if __name__ == "__main__":
    MASKED.answer()
