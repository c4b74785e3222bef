"""Checkpoints and bundles that several packages' tests share, made once per session."""

from __future__ import annotations

from pathlib import Path

import pytest


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
    from impasto_export.control import Control
    from impasto_export.link import link

    steering = Control(controlnet, ("edges", "edges", "depth"), ("depth",))
    return link(checkpoint, tmp_path_factory.mktemp("bundles") / "controlled", steering=steering).folder
