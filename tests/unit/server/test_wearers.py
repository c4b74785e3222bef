"""Who wears which adapters."""

from __future__ import annotations

from impasto_server.adapters.residency import Named
from impasto_server.job import Caller, Job
from impasto_server.wearers import Wearers, Wearing
from tests.helpers.asked import request_of


def job(*names: str) -> Job:
    """One that names adapters, and an embedding in its prompt."""
    named = tuple(Named(name, f"{name}'s digest") for name in names)
    return Job(
        request_of("a boat", seed=1, width=64, height=64),
        Caller(lambda outcome: None),
        named=(*named, Named("sks", "e", field="PROMPT")),
    )


def test_a_job_waits_runs_and_leaves() -> None:
    wearers, one, other = Wearers(4), job("neon", "wave"), job("neon")
    wearers.wait(one)
    wearers.wait(other)
    wearers.run(one)
    assert wearers.read() == Wearing(running=("neon", "wave"), waiting=("neon",))
    wearers.leave(one)
    wearers.leave(other)
    assert wearers.read() == Wearing()


def test_a_job_without_adapters_is_nobodys_business() -> None:
    wearers, plain = Wearers(4), job()
    wearers.wait(plain)
    wearers.run(plain)
    assert wearers.read() == Wearing()


def test_a_job_that_was_over_before_is_not_kept() -> None:
    wearers, late = Wearers(4), job("neon")
    late.settle()
    wearers.wait(late)
    wearers.run(late)
    assert wearers.read() == Wearing()
