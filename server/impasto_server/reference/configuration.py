"""Triton's configuration: the inputs are generated, everything else in the file is written by hand."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping

from impasto_server.fields import Field

MARK = "# The inputs below are generated from the server's table of fields: `python -m impasto_server.reference`.\n"
_TYPES = {"BYTES": "TYPE_STRING"}
_BLOCK = re.compile(r"^input \[\n.*?^\]\n", re.MULTILINE | re.DOTALL)
WIDTH = 120


def written(text: str, inputs: Mapping[str, Field], help: Callable[[str], str]) -> str:
    """The configuration `text` with these inputs."""
    block = ",\n".join(_input(row, help(name)) for name, row in inputs.items())
    return MARK + _BLOCK.sub(lambda _: f"input [\n{block}\n]\n", text.removeprefix(MARK))


def _input(row: Field, help: str) -> str:
    comment = textwrap.fill(
        help, WIDTH, initial_indent="  # ", subsequent_indent="  # ", break_long_words=False, break_on_hyphens=False
    )
    dtype = _TYPES.get(row.dtype, f"TYPE_{row.dtype}")
    optional = "" if row.required else " optional: true"
    dims = "-1" if row.many else "1"
    return f'{comment}\n  {{ name: "{row.name}" data_type: {dtype} dims: [ {dims} ]{optional} }}'
