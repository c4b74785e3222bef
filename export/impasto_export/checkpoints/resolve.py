"""Resolve a checkpoint's name: a folder in the diffusers layout, a single file, or a repository of the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from impasto_export.checkpoints import folders, hub, original
from impasto_export.checkpoints.checkpoint import Checkpoint, Said
from impasto_export.checkpoints.hub import Repository
from impasto_export.errors import CheckpointError

PICKLES, FILE = (".ckpt", ".pt", ".pth", ".bin"), ".safetensors"


def locate(name: str | Path) -> Path | Repository:
    """The folder, .safetensors file or repository that `name` means. Raises CheckpointError for anything else."""
    path = Path(name)
    if path.is_dir():
        return path
    if path.suffix in PICKLES and path.exists():
        fix = "if you trust it, save it as .safetensors (safetensors.torch.save_file) and link that"
        raise CheckpointError(f"{path}: a pickle, which can run any code when it is read; {fix}")
    if path.is_file():
        if path.suffix != FILE:
            fix = f"give a folder, a {FILE} file, or one of the files that docs/nets.md lists"
            raise CheckpointError(f"{path}: neither a checkpoint nor a known style net; {fix}")
        return path
    repository = hub.parse(str(name))
    if repository is None:
        fix = f"give a folder in the diffusers layout, a {FILE} file, or OWNER/REPO[@REVISION] of the hub"
        raise CheckpointError(f"{name}: there is no such file or folder; {fix}")
    return repository


def checkpoint(name: str | Path, skeletons: Sequence[Path], said: Said) -> Checkpoint:
    """The checkpoint of that name. Raises CheckpointError as `locate` does, and for one that is incomplete or cannot be
    served."""
    place = locate(name)
    if isinstance(place, Repository):
        return hub.read(place, said)
    return folders.read(place, said) if place.is_dir() else original.read(place, skeletons, said)
