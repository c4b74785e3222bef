"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import mkstemp


def write(target: Path, data: bytes) -> None:
    """Write beside the target, then replace it: a reader sees the old file or the new one, even after a crash.

    Raises OSError.
    """
    handle, name = mkstemp(prefix=f".{target.name}.", dir=target.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(0o644)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
