"""Train the separate judge of looks, which the benchmark of text styles reads pictures with."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch.nn import functional as F

from studio.gallery.looks.examples import ALL, Sources, examples
from studio.gallery.packages import fetch
from studio.nets import look_judge
from studio.nets.look_judge import LookJudge
from studio.places import LOOK_JUDGE, RUNS
from studio.reading.looks import trials
from studio.recipes.texture_clip import roughen
from studio.training.arguments import recipe_arguments
from studio.training.kept import Kept
from studio.training.loop import Budget
from studio.training.optimisers import muon_and_adam

SEED = 500_000  # none of texture-clip's pictures is drawn from this
PICTURES = 4_500


def reading(judge: LookJudge, sources: Sources) -> float:
    """The share of looks on unseen photographs that it names rightly."""
    on = trials(sources.unseen, SEED + 1, rounds=6)
    rows = torch.from_numpy(on.plain).permute(0, 1, 4, 2, 3) / 255
    with torch.no_grad():
        hits = [judge(pictures).argmax(1) == torch.arange(len(pictures)) for pictures in rows]
    return float(torch.stack(hits).float().mean())


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(SEED + options.seed)
    sources = Sources.of(fetch())
    data = examples("judged-looks", sources.learnt, options.pictures, SEED + options.seed)
    judge = LookJudge([look.name for look in ALL])
    optimisers = muon_and_adam(judge, 0.02, 2e-3)
    kept = Kept.of(RUNS / "look-judge.pt", judge, optimisers, Budget(options.steps, options.minutes), decay=0.98)
    kept.resume()
    rng = np.random.default_rng((SEED, options.seed, kept.loop.step))
    answers = np.array([ALL.index(wish.look) for wish in data.wishes])

    def loss() -> torch.Tensor:
        which = np.sort(rng.choice(len(answers), options.batch, replace=False))
        logits = judge(roughen(data.images[which], rng))
        return F.cross_entropy(logits, torch.from_numpy(answers[which]))

    kept.run(loss)
    judge.load_state_dict(kept.average.state)
    look_judge.save(LOOK_JUDGE, judge)
    minutes = kept.loop.seconds / 60
    print(f"{kept.loop.step} steps, {minutes:.1f} min: {reading(judge.eval(), sources):.1%} of unseen pictures")


def main() -> None:
    parser = recipe_arguments("Train the judge of looks.", 1500, 15)
    parser.set_defaults(batch=64)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
