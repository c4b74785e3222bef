"""README, CONTRIBUTING and docs/ as tests read them: their blocks, commands, links and headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)|<img [^>]*src=\"([^\"]+)\"")
_NO_SLUG = re.compile(r"[^\w\- ]")


@dataclass(frozen=True)
class Block:
    """A block of code, and the nearest heading above it."""

    heading: str
    language: str
    text: str


@dataclass(frozen=True)
class Page:
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def prose(self) -> str:
        """All but the blocks of code."""
        return _BLOCK.sub("", self.text)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(Block(self._heading(found.start()), found[1], found[2]) for found in _BLOCK.finditer(self.text))

    @cached_property
    def anchors(self) -> frozenset[str]:
        """What the headings are called in links, as GitHub has it and MkDocs."""
        return frozenset(slug(title) for title in _HEADING.findall(self.prose))

    @cached_property
    def links(self) -> tuple[str, ...]:
        """Those to files and headings of this repository."""
        found = (link or picture for link, picture in _LINK.findall(self.prose))
        return tuple(dict.fromkeys(one for one in found if not re.match(r"[a-z]+:", one)))

    @cached_property
    def commands(self) -> tuple[str, ...]:
        """Lines `impasto …`, between backquotes or in a block, where two spaces begin a comment."""
        inline = re.findall(r"`(impasto [^`]+)`", self.prose)
        lines = [line for block in self.blocks for line in block.text.splitlines()]
        blocked = [found[1] for line in lines if (found := re.match(r" *(?:.*&& )?(impasto .*)$", line))]
        return tuple(dict.fromkeys([*inline, *(line.partition("  ")[0].strip() for line in blocked)]))

    def python(self, heading: str) -> tuple[str, ...]:
        """The blocks of Python below a heading, down to the next one."""
        return tuple(one.text for one in self.blocks if (one.heading, one.language) == (heading, "python"))

    def _heading(self, place: int) -> str:
        before = list(_HEADING.finditer(_BLOCK.sub(_blanked, self.text), 0, place))
        return before[-1][1] if before else ""


def _blanked(block: re.Match[str]) -> str:
    """As long, with no heading in it: a comment of a shell looks like one."""
    return block[0].replace("#", "-")


def slug(title: str) -> str:
    """A heading's anchor."""
    return _NO_SLUG.sub("", title.lower()).strip().replace(" ", "-")


PAGES = tuple(
    Page(path) for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
)


def page(name: str) -> Page:
    """By its path below the repository's root."""
    return Page(ROOT / name)
