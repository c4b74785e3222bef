"""Who benchmarks/engines.py compares, what it makes of their passes, and where torch computes in benchmarks."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from benchmarks import engines, mixed
from benchmarks.common import reference
from benchmarks.common.draws import drawing
from benchmarks.common.reference import Reference
from benchmarks.engines import Figures, Worker, time_rounds
from benchmarks.parts.engines.contest import USUAL, Contest, Kind
from diffusers.models.attention_processor import AttnProcessor

from impasto_server.engines import gpu
from impasto_server.errors import SetupError

OURS, PLAIN, BF16 = Kind("onnxruntime", "f32"), Kind("torch", "f32"), Kind("torch", "bf16")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "LIBRARY", "libno-such-driver.so")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU that torch sees, of which only the waiting for it is there; each wait is noted."""
    noted: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: noted.append("wait"))
    return noted


# who is compared


def test_usually_openvino_stays_and_errors_are_told_from_torch() -> None:
    contest = Contest(USUAL[0], USUAL[1:], reference.USUAL)
    assert (str(contest.stays), str(contest.exact)) == ("openvino bf16", "torch f32")
    assert {bar.key for bar in engines.BARS} <= {f"{USUAL[0]}_vs_{kind}".replace(" ", "_") for kind in USUAL[1:]}


@pytest.mark.parametrize("said", ["torch", "torch:f16", "tensorflow:f32", "cuda:bf16", ""])
def test_what_is_no_engine_or_no_precision_is_refused(said: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"^'{said}' is unknown; write ENGINE:f32 or ENGINE:bf16, .*torch-cuda"):
        Kind.of(said)


@pytest.mark.parametrize(
    ("kinds", "problem"),
    [
        ((PLAIN,), "torch:f32: nothing to compare; name two or more"),
        ((OURS, PLAIN, OURS), "nothing to compare; name two or more, each once"),
        ((OURS, BF16), "onnxruntime:f32 torch:bf16: nothing to tell errors from; name torch:f32"),
    ],
)
def test_a_contest_that_would_tell_nothing_is_refused(kinds: tuple[Kind, ...], problem: str) -> None:
    with pytest.raises(SetupError, match=f"^engines: .*{problem}"):
        Contest.of(kinds, reference.USUAL)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Kind("torch-cuda", "bf16"), r"^device: torch .* sees no GPU; install a build of torch"),
        (Kind("onnxruntime-cuda", "f32"), r"^engine: .* has no CUDAExecutionProvider; .*pip install 'impasto\[gpu\]'"),
        (Kind("tensorrt", "bf16"), r"^engine: .*; pip install 'impasto\[gpu\]'"),
        (Kind("onnxruntime", "bf16"), "^precision: bf16 isn't available: ONNX Runtime's CPU provider has no bf16"),
    ],
)
def test_an_engine_that_can_not_be_had_is_never_left_out(kind: Kind, problem: str) -> None:
    with pytest.raises(SetupError, match=problem):
        Contest.of((PLAIN, OURS, kind), reference.USUAL)


# what is made of it


def test_figures_are_of_the_pairs_and_errors_of_the_exact_one() -> None:
    contest = Contest(OURS, (BF16, PLAIN), reference.USUAL)
    wanted = np.array([3.0, 4.0])
    outputs = {OURS: wanted, PLAIN: wanted, BF16: 1.1 * wanted}
    figures = Figures(contest)
    for kind, output in outputs.items():
        figures.workers[kind] = Worker(output, 1.0, 2.0, cast(Any, None))
    figures.pairs.extend([{OURS: [10.0, 20.0], BF16: [30.0, 40.0]}, {OURS: [10.0, 10.0], PLAIN: [50.0, 70.0]}])
    found = figures.report()
    assert found["onnxruntime_f32_vs_torch_bf16"] == 2.5
    assert found["onnxruntime_f32_vs_torch_f32"] == 6.0
    assert found["engines"]["onnxruntime f32"]["ms"] == 10.0
    assert found["engines"]["torch bf16"]["relative_error"] == pytest.approx(0.1)
    assert found["engines"]["torch bf16"]["db"] == pytest.approx(20)
    assert found["engines"]["torch f32"]["db"] is None


def test_nobody_is_always_first() -> None:
    order: list[Kind] = []

    def pass_ms(kind: Kind) -> float:
        order.append(kind)
        return 1.0

    workers = {kind: SimpleNamespace(pass_ms=partial(pass_ms, kind)) for kind in (OURS, PLAIN)}
    found = time_rounds(cast(Mapping[Kind, Worker], workers), 3)
    assert order == [OURS, PLAIN, PLAIN, OURS, OURS, PLAIN]
    assert found == {OURS: [1.0] * 3, PLAIN: [1.0] * 3}


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("main", [engines.main, mixed.MIXED.answer])
def test_the_command_line_says_what_can_not_be_had(
    main: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = ["--engines", "torch:f32", "torch-cuda:f32"] if main is engines.main else ["--engine", "tensorrt"]
    monkeypatch.setattr(sys, "argv", ["benchmark", "--json", str(tmp_path / "found.json"), *asked])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "sees no GPU; install a build of torch" in capsys.readouterr().err
    assert not (tmp_path / "found.json").exists()


# torch


def test_xformers_is_had_on_a_gpu_or_not_at_all(waits: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError, match="^attention: xformers computes on a GPU alone; choose sdpa or plain"):
        Reference("cpu", ("xformers",)).check()
    monkeypatch.setattr(reference, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"^attention: xformers is not installed; run: pip install 'impasto\[gpu\]'"):
        Reference("cuda", ("sdpa", "xformers")).check()
    monkeypatch.setattr(reference, "find_spec", lambda name: name)
    Reference("cuda", ("sdpa", "xformers")).check()


def test_a_gpu_is_waited_for_before_and_after(waits: list[str]) -> None:
    assert Reference("cuda").ms(waits.append, "work") >= 0
    assert waits == ["wait", "work", "wait"]
    Reference("cpu").ms(waits.append, "more")
    assert waits[3:] == ["more"]


def test_the_fastest_of_the_kinds_of_attention_stays() -> None:
    used: list[Any] = []
    model = SimpleNamespace(set_attn_processor=used.append)
    spent = iter([[9.0, 3.0, 3.0], [9.0, 2.0, 2.0]])
    assert Reference().pick_attention(model, lambda: next(spent)) == {"sdpa": 3.0, "plain": 2.0}
    assert isinstance(used[-1], AttnProcessor)


def test_f32_is_f32_on_a_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert Reference("cuda").place(SimpleNamespace(to=lambda device: f"on {device}")) == "on cuda"
    assert torch.backends.cudnn.allow_tf32 is False


def test_random_numbers_are_drawn_where_the_logits_are() -> None:
    """torch's meta device computes nothing: that a result is on it shows that nothing came from elsewhere."""
    with drawing(np.random.default_rng(1)):
        assert torch.multinomial(torch.ones(4, 8, device="meta"), 1).device.type == "meta"
