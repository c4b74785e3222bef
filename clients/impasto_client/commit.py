"""The commit that this code is of, where that is known.

Of the standard library alone: a build loads this file by its path, where nothing is installed.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

RECORD = "commit.txt"  # beside this file, written by a build (clients/hatch_build.py); no checkout has it
PATIENCE_S = 10.0
HERE = Path(__file__).parent


def commit(package: Path = HERE) -> str | None:
    """Of an installed package the commit that it was built from, of a checkout the one that is checked out.

    As `of_checkout` says it; None where neither a build nor git tells.
    """
    record = package / RECORD
    if record.is_file():
        return record.read_text().strip()
    root = package.parent.parent
    return of_checkout(root) if package == root / "clients" / "impasto_client" else None


def of_checkout(root: Path) -> str | None:
    """The first twelve digits, and "-dirty" behind them where tracked files have changed since.

    None where `root` isn't the top folder of a checkout: a folder around it may be of another project. None, too, where
    git is missing, or declines.
    """
    if not (root / ".git").exists():
        return None
    words = ["git", "--no-optional-locks", "-C", str(root), "describe"]
    words += ["--always", "--dirty", "--abbrev=12", "--exclude=*"]  # no tag's name
    # Git's own variables, which its hooks have, say where another repository is.
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        said = subprocess.run(words, env=own, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip()
