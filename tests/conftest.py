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
