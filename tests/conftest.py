"""Checkpoints and bundles that several packages' tests share, made once per session; how workers share the tests."""

from __future__ import annotations

import os
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).parents[1]
MEASURED = pytest.StashKey[coverage.Coverage]()


def pytest_configure(config: pytest.Config) -> None:
    """A worker measures itself where `make test` asks for that: the processes that it starts would be, by coverage."""
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


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A module stays with one worker, since its tests share what one has made; so do all that talk to the same servers.

    Modules that say the same `xdist_group` stay together, too.
    """
    for item in items:
        folder, module = item.path.parent, str(item.path.relative_to(ROOT))
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("e2e" if folder.name == "e2e" else module))


def _mask_torch_alone() -> None:
    """Have torch's oneDNN read the variable, which it does at its first sizeable convolution, and no one else's.

    OpenVINO's has it, too, but its own generators go by what the CPU says: the two together crash.
    """
    import torch

    torch.nn.functional.conv2d(torch.ones(32, 16, 8, 8), torch.ones(16, 16, 3, 3))
    del os.environ["ONEDNN_MAX_CPU_ISA"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random fp16 checkpoint of the mini-diffusion architecture."""
    import checkpoints

    return checkpoints.save(tmp_path_factory.mktemp("checkpoint") / "random", seed=1)


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`checkpoint`, linked."""
    from impasto_export.link import link

    return link(checkpoint, tmp_path_factory.mktemp("bundles") / "bundle").folder


@pytest.fixture(scope="session")
def controlnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random fp16 ControlNet for `checkpoint`."""
    import checkpoints

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
    import checkpoints

    return checkpoints.save_masked(tmp_path_factory.mktemp("masked_checkpoint") / "random", seed=1)


@pytest.fixture(scope="session")
def masked_bundle(masked_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`masked_checkpoint`, linked."""
    from impasto_export.link import link

    return link(masked_checkpoint, tmp_path_factory.mktemp("bundles") / "masked").folder


@pytest.fixture(scope="session")
def clip_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of the mini-clip architecture."""
    import clips

    return clips.save(tmp_path_factory.mktemp("clip") / "random")


@pytest.fixture(scope="session")
def scorer_bundle(clip_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`clip_checkpoint`, linked."""
    from impasto_export.clip import link

    return link(clip_checkpoint, tmp_path_factory.mktemp("bundles") / "scorer").folder
