"""What a server and its children have in memory at most, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path


def tree(root: int) -> list[int]:
    """The process and all that descend from it, as far as they still live."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and (stat := _read(folder / "stat")):
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(folder.name))
    found = [root]
    for process in found:
        found += parents.get(process, [])
    return found


def peak_gb(root: int) -> float:
    """Sum of the most that each process of the tree ever had resident (VmHWM), in 1e9 bytes.

    Not less than what they had together: their peaks may have been at different times, and pages that several share
    are counted for each.
    """
    return sum(_kib(process, "VmHWM") for process in tree(root)) * 1024 / 1e9


def _kib(process: int, field: str) -> int:
    lines = _read(Path(f"/proc/{process}/status")).splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return ""
