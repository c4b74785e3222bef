"""The command `impasto fit`: a command for each recipe, and those that look after jobs and work on them.

torch is imported when a job is put there or worked on, not to list, show, pick and cancel.
"""

from impasto_fit.cli import recipes, tending
from impasto_fit.cli.app import fit

__all__ = ["fit", "recipes", "tending"]
