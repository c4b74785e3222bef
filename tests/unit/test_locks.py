"""The locked installs are what pyproject.toml asks for: no direct dependency is missing or out of its range."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PYTHONS = ("3.11", "3.12", "3.13")
# Extras of each install beside what a client needs, and what its lock leaves out (CONTRIBUTING.md says why).
LOCKS: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "server": (("server", "gateway", "store"), frozenset()),
    "test": (("server", "gateway", "otel", "c2pa", "video", "store", "ray", "export", "fit", "dev"), frozenset({"torch"})),
    "gpu": (("server", "gpu"), frozenset({"onnxruntime", "tensorrt-cu13", "xformers"})),
}


def asked(extras: tuple[str, ...]) -> Iterator[Requirement]:
    """Direct dependencies, with the build backend's."""
    optional, build = PROJECT["project"]["optional-dependencies"], PROJECT["dependency-groups"]["build"]
    for group in (PROJECT["project"]["dependencies"], build, *map(optional.get, extras)):
        yield from map(Requirement, group)


def locked(name: str) -> list[Requirement]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ").splitlines()
    return [Requirement(line.partition(" --hash=")[0]) for line in lines if line and not line.lstrip().startswith("#")]


def versions(name: str, python: str) -> dict[str, Version]:
    """What is installed by a lock on Linux, by canonical name."""
    here = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    found = [one for one in locked(name) if one.marker is None or one.marker.evaluate({**here, "extra": ""})]
    pinned: dict[str, Version] = {
        canonicalize_name(one.name): Version(str(one.specifier).removeprefix("==")) for one in found
    }
    assert len(pinned) == len(found), "one version of each"
    return pinned


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", LOCKS)
def test_every_direct_dependency_is_locked_in_its_range(name: str, python: str) -> None:
    extras, left_out = LOCKS[name]
    found = versions(name, python)
    wanted = [one for one in asked(extras) if one.marker is None or one.marker.evaluate({"python_version": python})]
    for requirement in wanted:
        key = canonicalize_name(requirement.name)
        if key not in left_out:
            assert key in found, f"{requirement} is not in requirements/{name}.txt; run `make lock`"
            assert requirement.specifier.contains(found[key]), f"{requirement}, locked {found[key]}; run `make lock`"
    assert not left_out & found.keys()


@pytest.mark.parametrize("name", LOCKS)
def test_every_file_has_its_hash(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    packages = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(packages) == len(locked(name)) > 50
    assert all("--hash=sha256:" in package for package in packages)
    assert "://" not in text, "where packages come from is the reader's to say"


def test_the_tests_run_with_what_a_demo_runs_with() -> None:
    for python in PYTHONS:
        demo, tests = versions("server", python), versions("test", python)
        assert demo.items() <= tests.items()


def test_torch_is_one_version_and_nothing_of_cuda_is_locked_for_the_tests() -> None:
    (torch,) = (one for one in asked(("export",)) if one.name == "torch")
    assert f" {torch}\n" in (ROOT / "Makefile").read_text()
    names = versions("test", PYTHONS[0]).keys() - {"nvidia-pytriton"}
    assert not [name for name in names if re.match("nvidia-|cuda-|triton$", name)]


def test_every_range_ends_somewhere() -> None:
    for requirement in asked(tuple(PROJECT["project"]["optional-dependencies"])):
        assert not requirement.specifier.contains(Version("9999")), f"{requirement} has no upper bound"
