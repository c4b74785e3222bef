"""The commands `impasto export`, `link`, `adapters`, `push` and `pull`. Only `export` imports torch, and its `merge`
does not."""

from impasto_export.cli.exporting import export
from impasto_export.cli.linking import link
from impasto_export.cli.moving import pull, push
from impasto_export.cli.registering import adapters

__all__ = ["adapters", "export", "link", "pull", "push"]
