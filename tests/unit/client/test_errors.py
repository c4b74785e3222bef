"""The tree drawn at the top of errors.py is the tree that is there."""

from __future__ import annotations

import re

from impasto_client import AdapterNotFound, InvalidRequest, errors


def test_the_drawn_tree_is_the_real_one() -> None:
    assert _drawn() == _real(errors.ImpastoError)


def test_request_errors_carry_the_field() -> None:
    assert InvalidRequest("STEPS: 0 is out of range; pass 1 to 200", "STEPS").field == "STEPS"
    assert AdapterNotFound("no adapter 'x'").field is None


def _drawn() -> list[tuple[int, str]]:
    """Depth and name of each line of the drawing, in its order."""
    lines = (re.match(r"^([│├└─ ]*)([A-Z]\w+)(?:\s|$)", line) for line in (errors.__doc__ or "").splitlines()[2:])
    return [(len(line[1]) // 4, line[2]) for line in lines if line]


def _real(kind: type[Exception], depth: int = 0) -> list[tuple[int, str]]:
    below = [found for child in kind.__subclasses__() for found in _real(child, depth + 1)]
    return [(depth, kind.__name__), *below]
