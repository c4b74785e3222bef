"""Which engines are compared with which, torch among them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from benchmarks.common.reference import Attention, Device, Reference

from impasto_server.engines.runtime import Runtime
from impasto_server.errors import SetupError
from impasto_server.settings import ON_GPU, EngineName, Settings

TORCH: dict[str, Device] = {"torch": "cpu", "torch-cuda": "cuda"}
ENGINES = (*TORCH, *get_args(EngineName))
PRECISIONS = ("f32", "bf16")


@dataclass(frozen=True)
class Kind:
    """An engine of ours, or torch on a device, in a precision."""

    engine: Any
    precision: Any

    @classmethod
    def of(cls, said: str) -> Kind:
        """From "ENGINE:PRECISION". Raises ArgumentTypeError."""
        name, _, precision = said.partition(":")
        if name not in ENGINES or precision not in PRECISIONS:
            known = f"ENGINE one of {', '.join(ENGINES)}"
            raise argparse.ArgumentTypeError(f"{said!r} is unknown; write ENGINE:f32 or ENGINE:bf16, {known}")
        return cls(name, precision)

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"

    @property
    def is_torch(self) -> bool:
        return self.engine in TORCH

    @property
    def on_gpu(self) -> bool:
        return self.engine in ON_GPU or TORCH.get(self.engine) == "cuda"

    def reference(self, attention: tuple[Attention, ...]) -> Reference:
        """Where torch computes, and how."""
        return Reference(TORCH[self.engine], attention)

    def check(self, attention: tuple[Attention, ...]) -> None:
        """Raise SetupError where it can't be had."""
        if self.is_torch:
            self.reference(attention).check()
        else:
            Runtime.of(Settings(Path(), Path(), self.engine, self.precision))


USUAL = tuple(map(Kind.of, "openvino:bf16 torch:f32 torch:bf16 onnxruntime:f32 openvino:f32".split()))


@dataclass(frozen=True)
class Contest:
    """`stays` is there all the time, one of the `others` beside it; torch with these kinds of attention."""

    stays: Kind
    others: tuple[Kind, ...]
    attention: tuple[Attention, ...]

    @classmethod
    def of(cls, kinds: Sequence[Kind], attention: Sequence[Attention]) -> Contest:
        """The first stays. Raises SetupError where errors can't be told from any, or one of them can't be had."""
        contest = cls(kinds[0], tuple(kinds[1:]), tuple(attention))
        said = " ".join(f"{kind.engine}:{kind.precision}" for kind in kinds)
        if len(set(kinds)) < max(2, len(kinds)):
            raise SetupError(f"engines: {said}: nothing to compare; name two or more, each once")
        if not any(kind.is_torch and kind.precision == "f32" for kind in kinds):
            raise SetupError(f"engines: {said}: nothing to tell errors from; name torch:f32 or torch-cuda:f32, too")
        for kind in kinds:
            kind.check(contest.attention)
        return contest

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (self.stays, *self.others)

    @property
    def exact(self) -> Kind:
        """What errors are told from: the first torch in f32."""
        return next(kind for kind in self.kinds if kind.is_torch and kind.precision == "f32")
