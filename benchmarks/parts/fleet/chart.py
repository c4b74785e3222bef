from pathlib import Path
from typing import Any


def draw(report: Any, path: Path) -> None: ...
