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
