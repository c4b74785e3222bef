"""The commands `impasto export`, `impasto link` and `impasto adapters`. Only `export` imports torch, and its `merge`
does not."""

from impasto_export.cli.exporting import export
from impasto_export.cli.linking import link
from impasto_export.cli.registering import adapters

__all__ = ["adapters", "export", "link"]
