"""The fit of docs/fitting.md runs as it stands there, on a twin of Stable Diffusion at a reduced width."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from safetensors.numpy import load_file

from tests.helpers import twins
from tests.helpers.fits import striped
from tests.helpers.pages import page


def test_the_fit_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    twins.save(Path("checkpoint"), "sd1")
    Image.fromarray(striped()).save("painting.jpg")
    (block,) = page("docs/fitting.md").python("In Python")
    exec(block, {})
    assert load_file("stained-glass.safetensors")
