"""Eight users with eight adapters, their own steps, guidance and schedulers: how fast, against what else there is?

python benchmarks/mixed.py --json FILE [--backbone mini] [--rounds 3] [--engine tensorrt] [--attention xformers]

On each backbone (common/backbones.py), in one process and on the same threads: every round has the mixed crowd served
by the pipeline, then by diffusers with PEFT, then a uniform crowd by the pipeline; figures are medians over rounds, the
warm-up isn't counted. Pictures of the mixed crowd, painted side by side, are held against diffusers' in fp32.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are scripts, none is installed

from benchmarks.common import crowd, passes, question, switching
from benchmarks.common.backbones import BACKBONES
from benchmarks.common.bars import Bar, Report
from benchmarks.common.bench import ratio, seconds
from benchmarks.common.crowd import Crowd, pixels
from benchmarks.common.peaks import against_peak, peaks_gflops
from benchmarks.common.question import Question
from benchmarks.parts.mixed import roofline
from benchmarks.parts.mixed.peer import Peer
from studio.reading.psnr import psnr_db

from impasto_server.engines.runtime import Runtime
from impasto_server.families import open_bundle
from impasto_server.families.diffusion.diffusion import Diffusion
from impasto_server.pipeline import Pipeline
from impasto_server.settings import ON_GPU

Images = list[NDArray[np.uint8]]

ROUNDS = {"mini": 5, "unet140": 3}
STEPS = {"mini": (16, 10, 12, 14, 18, 20, 22, 24), "unet140": (8, 4, 5, 6, 7, 9, 10, 11)}
PASS_ROUNDS = 9
SWITCHES = 32
PEER_LANES, PEER_PASSES = 2, 7
NOTES = {
    "throughput_ratio_vs_diffusers_peft": "pictures per second, pipeline ÷ diffusers + PEFT in torch bf16; median over "
    "rounds. Both paint the same eight requests; diffusers' PNG encoding is left out, the pipeline's is in.",
    "heterogeneity": "lane-steps per second of the mixed crowd ÷ the uniform one's, everyone asking again when served, "
    "over as many lane-steps; heterogeneity_burst: the same of eight requests from start to end, with its tail.",
    "lora_tax": "forward pass of 8 lanes, each under another adapter ÷ the same batch by the backbone exported without "
    "adapter inputs; lora_tax_four: each under a mix of four; plain_tax: without adapters, after batches with them.",
    "resident_switch_ms": "a request's way from an adapter's name to its pages of the bank and the pages' release, by "
    "number of registered adapters; the largest of the three medians.",
    "cold_load_ms": "the same of an adapter's first use, its file in the page cache.",
    "fuse_unfuse_ms": "diffusers' fuse_lora and unfuse_lora of one adapter, together.",
    "parity_psnr_db_min": "worst of eight pictures of the mixed crowd, side by side in f32, against diffusers' in fp32 "
    "(identical: 138 dB); _bf16: pipeline in bf16; _peer_bf16: diffusers in bf16.",
    "wrong_adapter_psnr_db_max": "the same with every user under the next one's adapter: what parity would be if "
    "adapters were mixed up.",
}
BOTH = ("mini", "unet140")
BARS = (
    Bar("throughput_ratio_vs_diffusers_peft", BOTH, at_least=2.5),
    Bar("lora_tax", ("unet140",), at_most=1.10),
    Bar("lora_tax_four", ("unet140",), at_most=1.25),
    Bar("plain_tax", ("unet140",), at_most=1.02),
    Bar("heterogeneity", BOTH, at_least=0.95),
    Bar("resident_switch_ms", BOTH, at_most=0.1),
    Bar("parity_psnr_db_min", BOTH, at_least=40),
)


@dataclass(frozen=True)
class Samples:
    """Of each round: seconds for a burst of eight pictures, lane-steps per second of a steady crowd."""

    ours_s: list[float] = field(default_factory=list)
    peer_s: list[float] = field(default_factory=list)
    uniform_s: list[float] = field(default_factory=list)
    steady_mixed: list[float] = field(default_factory=list)
    steady_uniform: list[float] = field(default_factory=list)


def each_psnr_db(ours: Images, theirs: Images) -> list[float]:
    return [psnr_db(a, b) for a, b in zip(ours, theirs, strict=True)]


@dataclass(frozen=True)
class Bench(question.Bench):
    def measure(self) -> Report:
        image = open_bundle(self.backbone.bundle).manifest.image
        mixed = crowd.mixed(STEPS[self.name], image.width, image.height)
        reference, parity = self._parity(mixed)
        peer = Peer(self.backbone, torch.bfloat16, self.reference)
        samples, bf16 = self._speed(mixed, peer, reference)
        return {
            "throughput_ratio_vs_diffusers_peft": ratio(samples.peer_s, samples.ours_s),
            "heterogeneity": ratio(samples.steady_mixed, samples.steady_uniform),
            "heterogeneity_burst": ratio(samples.uniform_s, samples.ours_s),
            "images_per_second": len(mixed) / median(samples.ours_s),
            "peer_images_per_second": len(mixed) / median(samples.peer_s),
            **parity,
            **bf16,
            **self._passes(peer),
            **self._switching(peer),
            "samples": asdict(samples),
            "users": [asdict(request) for request in mixed],
            "lane_steps": crowd.lane_steps(mixed),
        }

    # parity and speed of pictures

    def _parity(self, mixed: Crowd) -> tuple[Images, Report]:
        """What diffusers paints in fp32, and how far from it the pipeline is in f32."""
        done = self.begin("parity in f32", 3)
        with crowd.opened(replace(self.settings, precision="f32")) as pipeline:
            ours = pixels(crowd.burst(pipeline, mixed))
            done()
            wrong = pixels(crowd.burst(pipeline, crowd.wrong_adapters(mixed)))
            done()
            reference = painted(Peer(self.backbone, torch.float32, self.reference), pipeline, mixed)
            done()
        each = each_psnr_db(ours, reference)
        apart = max(each_psnr_db(wrong, reference))
        return reference, {"parity_psnr_db_min": min(each), "parity_psnr_db": each, "wrong_adapter_psnr_db_max": apart}

    def _speed(self, mixed: Crowd, peer: Peer, reference: Images) -> tuple[Samples, Report]:
        """Samples of the interleaved rounds; the warm-up shows what bf16 does to pictures on either side."""
        done = self.begin("warm-up", 3)
        with crowd.opened(self.settings) as pipeline:
            ours = each_psnr_db(pixels(crowd.burst(pipeline, mixed)), reference)
            done()
            theirs = each_psnr_db(painted(peer, pipeline, mixed), reference)
            done()
            crowd.burst(pipeline, crowd.uniform(mixed))
            done()
            samples = self._rounds(pipeline, peer, mixed)
        return samples, {"parity_psnr_db_min_bf16": min(ours), "parity_psnr_db_min_peer_bf16": min(theirs)}

    def _rounds(self, pipeline: Pipeline, peer: Peer, mixed: Crowd) -> Samples:
        samples = Samples()
        done = self.begin("rounds", 5 * self.rounds)
        for number in range(self.rounds):
            new = crowd.fresh(mixed, number)
            samples.ours_s.append(crowd.burst(pipeline, new).seconds)
            done()
            samples.peer_s.append(seconds(painted, peer, pipeline, new))
            done()
            samples.uniform_s.append(crowd.burst(pipeline, crowd.uniform(new)).seconds)
            done()
            samples.steady_mixed.append(crowd.steady(pipeline, new))
            done()
            samples.steady_uniform.append(crowd.steady(pipeline, crowd.uniform(new)))
            done()
        return samples

    # forward passes

    def _passes(self, peer: Peer) -> Report:
        """The adapters' price in a pass, and what share of the machine's arithmetic passes use."""
        built = passes.Passes.of(self.backbone, self.settings)
        before = peaks_gflops()
        samples = passes.time_all(built, PASS_ROUNDS, self.begin("forward passes", PASS_ROUNDS))
        theirs = peer.pass_ms(PEER_LANES, PEER_PASSES + 1)[1:]
        peaks = {kind: max(rate, before[kind]) for kind, rate in peaks_gflops().items()}
        return {
            **passes.taxes(built, samples),
            **self._roofline({**samples, "peer": theirs}, built.page_rank, peaks),
            "peer_attention_ms": peer.attention_ms,
            "pass_ms": {**samples, "peer": theirs},
        }

    def _roofline(self, samples: Mapping[str, Sequence[float]], rank: int, peaks: Mapping[str, float]) -> Report:
        """`peaks` are the best of before and after the passes: a machine that slows down in between isn't the peak.

        They are the CPU's: of a GPU nothing is said.
        """
        if self.settings.engine in ON_GPU:
            return {}
        precision = Runtime.of(self.settings).precision
        tokens = open_bundle(self.backbone.bundle).manifest.text_encoders["text_encoder"].max_length
        plain = roofline.plain_gflop(self.backbone.unet(), passes.LANES, tokens)
        adapted = roofline.adapted_gflop(self.backbone.unet(), passes.LANES, tokens, rank)
        found = {
            "precision": precision,
            "peak_gflops": peaks,
            "mixed": against_peak(adapted, samples["mixed"], peaks[precision]),
            "plain": against_peak(plain, samples["plain"], peaks[precision]),
            "peer": against_peak(plain * PEER_LANES / passes.LANES, samples["peer"], peaks["bf16"]),
            "parameters": sum(parameter.numel() for parameter in self.backbone.unet().parameters()),
        }
        return {"roofline": found}

    # adapters

    def _switching(self, peer: Peer) -> Report:
        done = self.begin("switching", switching.ROUNDS * len(switching.REGISTERED))
        resident = switching.resident_switch_ms(self.backbone, done)
        medians = {str(registered): median(samples) for registered, samples in resident.items()}
        cold, peers = switching.cold_load_ms(self.backbone), peer.set_adapters_ms(SWITCHES)
        fused = peer.fuse_unfuse_ms()
        return {
            "resident_switch_ms": max(medians.values()),
            "resident_switch_ms_by_registered": medians,
            "resident_switch_ms_p99": {str(n): float(np.percentile(samples, 99)) for n, samples in resident.items()},
            "cold_load_ms": median(cold),
            "set_adapters_ms": median(peers),
            "fuse_unfuse_ms": median(fused),
            "adapter_samples_ms": {"cold_load": cold, "set_adapters": peers, "fuse_unfuse": fused},
        }


def painted(peer: Peer, pipeline: Pipeline, asked: Crowd) -> Images:
    """By diffusers, one after another, from the pipeline's noise."""
    family = pipeline.family
    assert isinstance(family, Diffusion)
    return [peer.paint(one, family.noise(one.seeds.seed, one.size.width, one.size.height)) for one in asked]


MIXED = Question(str(__doc__), BACKBONES, ROUNDS, BARS, NOTES, Bench)

if __name__ == "__main__":
    MIXED.answer()
