"""Checkpoints and bundles that several packages' tests share, made once per session; how workers share the tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import coverage
import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[1]
TWINS = ("parity/test_architectures", "parity/test_backbone_graphs", "e2e/test_sdxl_example")
TOGETHER = {f"tests/{name}.py": "twins" for name in TWINS}
# Examples have no time limit and are the same everywhere, so that a failure in CI can be reproduced.
hypothesis.settings.register_profile("impasto", deadline=None, derandomize=True)
hypothesis.settings.load_profile("impasto")

MEASURED = pytest.StashKey[coverage.Coverage]()


def pytest_configure(config: pytest.Config) -> None:
    """Measure the worker itself if `make test` asks for it; coverage already measures the processes that it starts."""
    if hasattr(config, "workerinput") and os.environ.get("IMPASTO_COVERAGE"):
        config.stash[MEASURED] = coverage.Coverage(data_suffix=True, config_file=str(ROOT / "pyproject.toml"))
        config.stash[MEASURED].start()
    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        _mask_torch_alone()


def pytest_unconfigure(config: pytest.Config) -> None:
    measured = config.stash.get(MEASURED, None)
    if measured is not None:
        measured.stop()
        measured.save()


class ByModule(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps a module on one worker, since its tests share fixtures.

    So do all tests that use the same servers, and those of the same exported twins.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return TOGETHER.get(module, "e2e" if module.startswith("tests/e2e/") else module)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByModule:
    return ByModule(config, log)


def _mask_torch_alone() -> None:
    """Make torch's oneDNN read the variable, which it does at its first sizeable convolution; then remove it.

    OpenVINO's oneDNN would read it, too, but OpenVINO's own code generators ask the CPU; the two together crash.
    """
    import torch

    torch.nn.functional.conv2d(torch.ones(32, 16, 8, 8), torch.ones(16, 16, 3, 3))
    del os.environ["ONEDNN_MAX_CPU_ISA"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random fp16 checkpoint of the mini-diffusion architecture."""
    from tests.helpers import checkpoints

    return checkpoints.save(tmp_path_factory.mktemp("checkpoint") / "random", seed=1)


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`checkpoint`, linked."""
    from impasto_export.link import link

    return link(checkpoint, tmp_path_factory.mktemp("bundles") / "bundle").folder


@pytest.fixture(scope="session")
def controlnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random fp16 ControlNet for `checkpoint`."""
    from tests.helpers import checkpoints

    return checkpoints.save_controlnet(tmp_path_factory.mktemp("controlnet") / "random", seed=1)


@pytest.fixture(scope="session")
def controlled_bundle(checkpoint: Path, controlnet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`checkpoint` and `controlnet`, linked: two channels of edges, one of depth, which may be left out."""
    from impasto_export.checkpoints.control import Control
    from impasto_export.link import link

    steering = Control(controlnet, ("edges", "edges", "depth"), ("depth",))
    return link(checkpoint, tmp_path_factory.mktemp("bundles") / "controlled", steering=steering).folder


@pytest.fixture(scope="session")
def masked_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random fp16 checkpoint of the mini-muse architecture."""
    from tests.helpers import checkpoints

    return checkpoints.save_masked(tmp_path_factory.mktemp("masked_checkpoint") / "random", seed=1)


@pytest.fixture(scope="session")
def masked_bundle(masked_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`masked_checkpoint`, linked."""
    from impasto_export.link import link

    return link(masked_checkpoint, tmp_path_factory.mktemp("bundles") / "masked").folder


@pytest.fixture(scope="session")
def cascade_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random fp16 checkpoint of the mini-muse-cascade architecture: mini-muse with a second stage."""
    from tests.helpers import cascades

    return cascades.save(tmp_path_factory.mktemp("cascade_checkpoint") / "random", seed=1)


@pytest.fixture(scope="session")
def cascade_bundle(cascade_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cascade_checkpoint`, linked."""
    from impasto_export.link import link

    return link(cascade_checkpoint, tmp_path_factory.mktemp("bundles") / "cascade").folder


@pytest.fixture(scope="session")
def clip_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of the mini-clip architecture."""
    from tests.helpers import clips

    return clips.save(tmp_path_factory.mktemp("clip") / "random")


@pytest.fixture(scope="session")
def scorer_bundle(clip_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`clip_checkpoint`, linked."""
    from impasto_export.clip import link

    return link(clip_checkpoint, tmp_path_factory.mktemp("bundles") / "scorer").folder


@pytest.fixture(scope="session")
def twin_skeletons(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Skeletons of the twins' architectures by kind, each exported once: that takes longer than all that runs on it."""
    from impasto_export.tracing import graphs
    from tests.helpers import twins

    folder = tmp_path_factory.mktemp("skeletons")

    @cache
    def exported(kind: str) -> Path:
        graphs.export(twins.save(folder / f"{kind}-configs", kind), folder / kind)
        return folder / kind

    return exported
