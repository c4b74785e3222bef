"""Several optimisers as one object: to step, to schedule, to save."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from studio.training import workers
from studio.training.muon import Muon


class Optimisers:
    """Each keeps the rate that it came with; `clip` bounds the norm of all their gradients together."""

    def __init__(self, *parts: Optimizer, clip: float | None = None) -> None:
        self.parts = parts
        self.rates = [part.param_groups[0]["lr"] for part in parts]
        self.weights = [weight for part in parts for group in part.param_groups for weight in group["params"]]
        self.clip = clip

    def step(self, loss: Tensor, factor: float) -> None:
        """Back-propagate and update with every learning rate multiplied by `factor`."""
        for part in self.parts:
            part.zero_grad()
        (loss / workers.count()).backward()
        workers.add_up([weight.grad for weight in self.weights if weight.grad is not None])
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.weights, self.clip)
        for part, rate in zip(self.parts, self.rates, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def muon_and_adam(module: nn.Module, muon_lr: float, adam_lr: float) -> Optimisers:
    """Muon for the hidden weights of a module, AdamW for the rest."""
    named = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    hidden = [weight for name, weight in named if weight.ndim >= 2 and "embedding" not in name]
    kept = {id(weight) for weight in hidden}
    rest = [weight for _, weight in named if id(weight) not in kept]
    adam = AdamW(rest, lr=adam_lr, betas=(0.9, 0.99), weight_decay=0.0)
    return Optimisers(Muon(hidden, lr=muon_lr), adam, clip=1.0)
