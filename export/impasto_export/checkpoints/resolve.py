"""What CHECKPOINT names: a folder in the diffusers layout, a single file, or a repository of the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from impasto_export.checkpoints import folders, hub, original
from impasto_export.checkpoints.checkpoint import Checkpoint, Said
from impasto_export.errors import CheckpointError

PICKLES = (".ckpt", ".pt", ".pth", ".bin")


def checkpoint(name: str | Path, skeletons: Sequence[Path], said: Said) -> Checkpoint:
    """Raises CheckpointError for what is none of them, and for a pickle."""
    path = Path(name)
    if path.is_dir():
        return folders.read(path, said)
    if path.suffix in PICKLES:
        fix = "where you trust it, save it as .safetensors (safetensors.torch.save_file) and link that"
        raise CheckpointError(f"{path}: a pickle, which may run anything when it is read; {fix}")
    if path.is_file() and path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: neither a folder nor a .safetensors file; give one of these")
    if path.is_file():
        return original.read(path, skeletons, said)
    repository = hub.parse(str(name))
    if repository is None:
        fix = "give a folder in the diffusers layout, a .safetensors file, or OWNER/REPO[@REVISION] of the hub"
        raise CheckpointError(f"{name}: there is no such file or folder; {fix}")
    return hub.read(repository, said)
