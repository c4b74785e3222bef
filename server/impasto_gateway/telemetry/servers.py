"""The metrics of the servers behind a gateway, read and put on one page, so that one address tells of all."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from impasto_gateway.load import read

UP = "impasto_http_server_metrics_up"

_HEAD = re.compile(r"# (?:HELP|TYPE) (\S+)")
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (.+)")


@dataclass
class Family:
    """A metric as the page has it: its HELP and TYPE once, then every server's samples."""

    head: dict[str, None] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)


async def page_of(urls: Sequence[str]) -> bytes:
    """The metrics at `urls`, each with the label `server`, HOST:PORT. Who can't be read is said so."""
    texts = await asyncio.gather(*(asyncio.to_thread(read, url) for url in urls))
    found = {url: text for url, text in zip(urls, texts, strict=True) if isinstance(text, str)}
    failed = {url: error for url, error in zip(urls, texts, strict=True) if isinstance(error, Exception)}
    return "".join([*_told(urls, failed), merged({_name(url): text for url, text in found.items()})]).encode()


def merged(texts: Mapping[str, str]) -> str:
    """One text of several, by server: each family once, every sample with its server."""
    families: dict[str, Family] = {}
    for server, text in texts.items():
        current = ""
        for line in text.splitlines():
            if head := _HEAD.match(line):
                current = head[1]
                families.setdefault(current, Family()).head[line] = None
            elif sample := _SAMPLE.fullmatch(line.rstrip()):
                name, labels, value = sample.groups()
                current = current if current and name.startswith(current) else name  # some have no head
                told = f"{name}{{{_labelled(server, labels)}}} {value}"
                families.setdefault(current, Family()).samples.append(told)
    return "".join(f"{line}\n" for family in families.values() for line in _lines(family))


def _lines(family: Family) -> Iterable[str]:
    return [*family.head, *family.samples]


def _labelled(server: str, labels: str | None) -> str:
    return f'{labels.rstrip(",")},server="{server}"' if labels else f'server="{server}"'


def _told(urls: Sequence[str], failed: Mapping[str, Exception]) -> list[str]:
    """Which of them could be read, and why not."""
    if not urls:
        return []
    head = f"# HELP {UP} 1 if the server's metrics could be read\n# TYPE {UP} gauge\n"
    why = [f"# {url} can't be read: {_flat(error)}\n" for url, error in failed.items()]
    return [*why, head, *(f'{UP}{{server="{_name(url)}"}} {int(url not in failed)}\n' for url in urls)]


def _name(url: str) -> str:
    return urlsplit(url).netloc


def _flat(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
