"""Twins of public backbones at reduced widths."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers import masked_twins, twins

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by name: sd1, sd2 (which predicts v), sdxl, muse, cascade."""
    home = tmp_path_factory.mktemp("twins")
    found = {kind: twins.save(home / kind, kind) for kind in ("sd1", "sd2", "sdxl")}
    return found | {"muse": masked_twins.save(home / "muse"), "cascade": masked_twins.save(home / "cascade", stages=2)}
