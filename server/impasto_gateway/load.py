"""What a server's metrics tell of it: how many requests it has, from whomever, what they wear, and its banks' sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from types import MappingProxyType
from urllib.request import ProxyHandler, build_opener

READ_S = 2.0
MOST_BYTES = 16 << 20

_DIRECT = build_opener(ProxyHandler({}))  # a proxy in the environment is for the way out, not for neighbours
_REQUESTS = re.compile(r"^impasto_requests(?:\{[^\n]*\})? (\S+)$", re.MULTILINE)
_WORN = re.compile(r"^impasto_lora_requests_info\{([^\n]*)\} \S+$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Load:
    """A server's, a moment ago: `requests` are under way; by bundle, `worn` are names of adapters at work, and `seats`
    says how many fit into its bank.
    """

    requests: int
    worn: Mapping[str, frozenset[str]]
    seats: Mapping[str, int]


NOTHING = Load(0, MappingProxyType({}), MappingProxyType({}))


def read(url: str) -> str | Exception:
    """The metrics at this address, or why they can't be read. This takes a while: call it in a thread."""
    try:
        with _DIRECT.open(url, timeout=READ_S) as answer:
            return str(answer.read(MOST_BYTES).decode())
    except (OSError, ValueError, HTTPException) as error:
        return error


def load_in(text: str) -> Load:
    """From Prometheus's text. Raises ValueError where a number is none."""
    told = [dict(_LABEL.findall(labels)) for labels in _WORN.findall(text)]
    by_bundle = {one.get("bundle", ""): one for one in told}
    return Load(
        requests=round(sum(map(float, _REQUESTS.findall(text)))),
        worn={
            bundle: frozenset(name for name in one.get("running_lora_adapters", "").split(",") if name)
            for bundle, one in by_bundle.items()
        },
        seats={bundle: int(one.get("max_lora", 0)) for bundle, one in by_bundle.items()},
    )
