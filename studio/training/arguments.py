"""The options of recipes."""

from __future__ import annotations

import argparse
from pathlib import Path


def recipe_arguments(description: str, steps: int, minutes: float) -> argparse.ArgumentParser:
    """The options that all recipes take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=("small", "large"), default="small")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, help="start from this checkpoint's weights, not from random ones")
    return parser
