"""Where the studio keeps what it makes."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
CHECKPOINT = HERE / "mini-diffusion"
STYLIZER = HERE / "mini-stylizer"
VECTORS = HERE / "vectors"
RUNS = HERE / "runs"
DOCS = HERE / "docs"
TEXTURE_CLIP = HERE / "texture-clip"
LOOK_JUDGE = HERE / "look-judge"
