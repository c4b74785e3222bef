"""Which family a checkpoint's folder is of, and its backbone."""

from __future__ import annotations

import json
from pathlib import Path

from impasto_fit.diffusion import backbone as diffusion
from impasto_fit.diffusion.backbone import Diffusion
from impasto_fit.errors import CheckpointError
from impasto_fit.masked import backbone as masked
from impasto_fit.masked.backbone import Masked

INDEX = "model_index.json"


def opened(folder: Path, device: str = "cpu") -> Diffusion | Masked:
    """
    Raises:
        CheckpointError: there is none, its architecture is unknown, or it is damaged.
    """
    try:
        name = str(json.loads((folder / INDEX).read_text(encoding="utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{folder}: has no readable {INDEX}; give a folder as diffusers saves it") from None
    known = (*diffusion.PIPELINES, *masked.PIPELINES)
    if name not in known:
        raise CheckpointError(f"{folder}: is a {name}; fits know {', '.join(known)}")
    try:
        return (Masked if name in masked.PIPELINES else Diffusion).open(folder, device)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder}: can't be loaded ({error}); get it again") from None
