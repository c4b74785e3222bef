"""Torch as a peer: where it computes, by which kind of attention, and how long that takes."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median
from time import perf_counter
from typing import Any, Literal, get_args

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, XFormersAttnProcessor

from impasto_server.errors import SetupError

Device = Literal["cpu", "cuda"]
Attention = Literal["sdpa", "plain", "xformers"]

ATTENTION: dict[Attention, Any] = {"sdpa": AttnProcessor2_0, "plain": AttnProcessor, "xformers": XFormersAttnProcessor}
KINDS: tuple[Attention, ...] = get_args(Attention)
USUAL: tuple[Attention, ...] = ("sdpa", "plain")
_CUDA = "install a build of torch for this machine's driver, see pytorch.org"


@dataclass(frozen=True)
class Reference:
    """`attention` has the kinds of which the fastest is kept."""

    device: Device = "cpu"
    attention: tuple[Attention, ...] = USUAL

    def check(self) -> None:
        """Raise SetupError where it can't be had."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise SetupError(f"device: torch {torch.__version__} sees no GPU; {_CUDA}")
        if "xformers" in self.attention and self.device == "cpu":
            raise SetupError("attention: xformers computes on a GPU alone; choose sdpa or plain, or an engine on a GPU")
        if "xformers" in self.attention and find_spec("xformers") is None:
            raise SetupError("attention: xformers is not installed; run: pip install 'impasto[gpu]'")

    def place(self, model: Any) -> Any:
        """A module or a pipeline where it computes; f32 is f32 there, too."""
        torch.backends.cudnn.allow_tf32 = False  # of convolutions; of products it is torch's own default
        return model.to(self.device)

    def ms(self, work: Callable[..., Any], *args: Any, **named: Any) -> float:
        """Of one call, all that it has a GPU do included."""
        self._wait()
        started = perf_counter()
        work(*args, **named)
        self._wait()
        return 1000 * (perf_counter() - started)

    def pick_attention(self, model: Any, pass_ms: Callable[[], Sequence[float]]) -> dict[str, float]:
        """Keep the fastest kind; milliseconds of a pass with each. `pass_ms` times some passes of `model`."""
        found: dict[Attention, float] = {}
        for kind in self.attention:
            model.set_attn_processor(ATTENTION[kind]())
            found[kind] = _median_warm(pass_ms())
        model.set_attn_processor(ATTENTION[min(found, key=lambda kind: found[kind])]())
        return {str(kind): each for kind, each in found.items()}

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def add_attention(parser: ArgumentParser) -> None:
    """What a Reference is made with."""
    usual = " and ".join(USUAL)
    parser.add_argument("--attention", nargs="+", choices=KINDS, default=USUAL, help=f"torch's; default {usual}")


def _median_warm(samples: Sequence[float]) -> float:
    """The first one warms up."""
    return median(samples[1:])
