"""The wire reference: a page for authors of clients."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import takewhile

from impasto_server.fields import Field
from impasto_server.reference import configuration
from impasto_server.reference.book import Book

MARK = "<!-- Generated from the server's table of fields: `python -m impasto_server.reference`. -->\n"
_HEAD = f"""{MARK}# What goes over the wire

KServe's v2 protocol over gRPC. Every tensor has one dimension: `[1]` holds one value, `[n]` several. Text is UTF-8 in
BYTES, files are BYTES as they are. An input that isn't sent has its default. An input that is unknown, out of bounds or
contradicts another is refused, and the error names it.
"""
# An output of a configuration, with the comment before it.
_OUTPUT = re.compile(r'((?:^  # .*\n)+)?  \{ name: "(\w+)" data_type: TYPE_(\w+) dims: \[ (-?1) \]', re.MULTILINE)


def written(book: Book, scorer: Mapping[str, Field], texts: Mapping[str, str]) -> str:
    """The page. `texts` are the models' configurations, `scorer` the inputs of `clip_score`."""
    streamed = {name: row for name, row in book.inputs.items() if name not in book.whole}
    parts = [
        _HEAD,
        "## Model `stylize`\n\nPaints pictures from a prompt.\n",
        _inputs(book.whole, book.help),
        _outputs(texts["stylize"]),
        "## Model `stylize_stream`\n\nThe same, with a response after every step; the last response has the pictures. "
        "Its inputs are those of `stylize`, and:\n",
        _inputs(streamed, book.help),
        _outputs(texts["stylize_stream"]),
        "## Model `clip_score`\n\nScores how well pictures fit a text or other pictures. It needs a scorer.\n",
        _inputs(scorer, lambda name: scorer[name].help),
        _outputs(texts["clip_score"]),
        "## Model `catalogue`\n\nLists the bundles, what each may be asked, and the adapters. It has no inputs.\n",
        _outputs(texts["catalogue"]),
        _rules(book),
        _families(book),
        "## Statuses, timeouts and callers who leave\n\n```\n" + _notes(texts["stylize"]) + "```\n",
    ]
    return "\n".join(parts)


def _inputs(rows: Mapping[str, Field], help: Callable[[str], str]) -> str:
    lines = [
        _line(name, row.dtype, row.many, help(name), "" if row.required or row.needed else ", optional")
        for name, row in rows.items()
    ]
    return "\n".join(["| input | type | shape | |", "|---|---|---|---|", *lines, ""])


def _line(name: str, dtype: str, many: bool, help: str, note: str = "") -> str:
    said = help.replace("|", "\\|").replace("<", "&lt;")
    return f"| `{name}`{note} | {dtype} | `[{'n' if many else '1'}]` | {said} |"


def _outputs(text: str) -> str:
    found = _OUTPUT.findall(text[text.index("\noutput [") :])
    lines = [
        _line(name, "BYTES" if dtype == "STRING" else dtype, dims == "-1", _plain(comment))
        for comment, name, dtype, dims in found
    ]
    return "\n".join(["| output | type | shape | |", "|---|---|---|---|", *lines, ""])


def _rules(book: Book) -> str:
    lines = [
        f"| `{rule.name}` | {rule.about} | {', '.join(f'`{name}`' for name in book.strengths(rule))} | {rule.styled} |"
        for rule in book.rules
    ]
    head = ["| GUIDANCE | is | strengths | STYLE names an |", "|---|---|---|---|"]
    return "\n".join(["## Guidance rules\n", *head, *lines, ""])


def _families(book: Book) -> str:
    lines = [
        f"| {one.family} | {', '.join(f'`{name}`' for name in one.samplers)} "
        f"| {', '.join(f'`{row.name}`' for row in one.own)} | {', '.join(f'`{name}`' for name in one.unknown)} |"
        for one in book.families
    ]
    head = ["| family | samplers | inputs of its own | inputs that it doesn't know |", "|---|---|---|---|"]
    return "\n".join(["## Families of bundles\n", *head, *lines, ""])


def _notes(text: str) -> str:
    """The configuration's comment from statuses on, without the comment marks."""
    lines = text.removeprefix(configuration.MARK).splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if line.startswith("# Status"))
    comment = takewhile(lambda line: line.startswith("#"), lines[start:])
    return "".join(line.removeprefix("#").removeprefix(" ") or "\n" for line in comment)


def _plain(comment: str) -> str:
    return " ".join(line.strip().removeprefix("# ") for line in comment.splitlines())
