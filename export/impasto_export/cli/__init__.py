"""The commands `impasto export`, `impasto link` and `impasto adapters`. Torch is imported by `export` alone,
and there by all but `merge`."""

from impasto_export.cli.exporting import export
from impasto_export.cli.linking import link
from impasto_export.cli.registering import adapters

__all__ = ["adapters", "export", "link"]
