"""The client's table of fields, written as a Python module, since the packages don't import one another."""

from __future__ import annotations

import textwrap
from math import inf, isfinite

from impasto_server.fields import Choice, Field, Number, Option, Whole, rows
from impasto_server.guidance import Rule
from impasto_server.reference.book import Book, either

WIDTH = 120
_HEAD = '''# Generated from the server's table of fields: `python -m impasto_server.reference`.
"""The fields of a request: how each is encoded and what the command line's help says of it; and the guidance rules."""

from __future__ import annotations

from typing import TypedDict

from impasto_client.field import Field, Rule, Table
from impasto_client.options import Adapters, Guidance, Picture, Style

'''
_TYPES = {
    "text": "str | None",
    "number": "float | None",
    "flag": "bool | None",
    "picture": "Picture | None",
    "adapters": "Adapters",
    "style": "Style",
    "guidance": "Guidance",
}


def written(book: Book) -> str:
    """The module's text, as ruff formats it except for long strings."""
    return f"{_HEAD}{_fields(book)}\n{_rules(book)}\nTABLE = Table(FIELDS, RULES)\n\n\n{_options(book)}"


def _option(row: Field) -> Option:
    return row.option or Option()


def _name(row: Field) -> str:
    return _option(row).name or row.name.lower()


def _kind(row: Field) -> str:
    return _option(row).kind or row.kind


def _type(row: Field) -> str:
    return "int | None" if row.dtype.startswith("INT") else _TYPES[_kind(row)]


def _samplers(book: Book) -> str:
    """All samplers, by family, in a client's words."""
    plain, *others = book.sampling
    rest = (f"with a {one.family} backbone, {either(one.samplers)}" for one in others)
    return "; ".join([either(plain.samplers), *rest])


def _said(text: str, book: Book) -> str:
    return text.replace("{samplers}", _samplers(book))


def _fields(book: Book) -> str:
    found = "".join(_field(row, book) for name, row in book.inputs.items() if name != "PROMPT")
    return f"FIELDS: tuple[Field, ...] = (\n{found})\n"


def _field(row: Field, book: Book) -> str:
    option = _option(row)
    words = {
        "option": _name(row) if option.about else "",
        "flag": (option.flags or f"--{_name(row).replace('_', '-')}") if option.flag else "",
        "help": _said(option.flag, book),
        "metavar": option.metavar,
        "default": None if row.many else book.default(row.name),
        **_bounds(row, book),
    }
    told = (_argument(name, value) for name, value in words.items() if value not in ("", None, ()))
    return (
        f'    Field(\n        "{row.name}",\n        "{row.dtype}",\n        "{_kind(row)}",\n{"".join(told)}    ),\n'
    )


def _bounds(row: Field, book: Book) -> dict[str, object]:
    """What it allows under any rule."""
    known = [one for rule in book.rules for one in rows(rule).values() if one.name == row.name] or [row]
    numbers = [one for one in known if isinstance(one, Number | Whole)]
    low, high = min((one.low for one in numbers), default=-inf), max((one.high for one in numbers), default=inf)
    bounds = {name: value for name, value in (("low", low), ("high", high)) if isfinite(value)}
    return {**bounds, "choices": row.choices if isinstance(row, Choice) else ()}


def _rules(book: Book) -> str:
    return "RULES: tuple[Rule, ...] = (\n" + "".join(_rule(rule, book) for rule in book.rules) + ")\n"


def _rule(rule: type[Rule], book: Book) -> str:
    optional = {name.lower(): name for name in rule.knows if not _option(book.inputs[name]).about}
    strengths = {name: row.name for name, row in rows(rule).items()}
    usual = {} if rule is not book.rules[0] else book.families[0].defaults
    lines = {
        "name": rule.name,
        "kin": rule.kin,
        "convention": rule.convention,
        "styled": rule.styled,
        "knows": tuple(rule.knows),
        "fields": {**strengths, **optional},
        "defaults": {row.name: usual.get(row.name, row.default) for row in rows(rule).values()},
    }
    return "    Rule(\n" + "".join(_argument(name, value) for name, value in lines.items()) + "    ),\n"


def _argument(name: str, value: object) -> str:
    """An argument on one line, or broken as ruff breaks it."""
    line = f"        {name}={_literal(value)},\n"
    if len(line) <= WIDTH + 1:
        return line
    if isinstance(value, dict):
        inner = "".join(f"            {_literal(key)}: {_literal(one)},\n" for key, one in value.items())
        return f"        {name}={{\n{inner}        }},\n"
    width = WIDTH - len(f"        {name}=") - 3
    parts = textwrap.wrap(str(value), width, drop_whitespace=False, break_long_words=False, break_on_hyphens=False)
    return f"        {name}=" + "\n        ".join(map(_literal, parts)) + ",\n"


def _literal(value: object) -> str:
    """A literal as ruff writes it: in double quotes."""
    if isinstance(value, str):
        return f'"{value}"' if '"' not in value else repr(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(name)}: {_literal(one)}" for name, one in value.items()) + "}"
    return repr(value)


def _options(book: Book) -> str:
    told = [row for row in book.inputs.values() if _option(row).about]
    documented = "\n".join(_documented(row, book) for row in told)
    types = "".join(f"    {_name(row)}: {_type(row)}\n" for row in told)
    return (
        'class Options(TypedDict, total=False):\n    """The options of a picture besides the prompt. Where one is left '
        f'out or None, the server chooses.\n\n{documented}\n    """\n\n{types}'
    )


def _documented(row: Field, book: Book) -> str:
    text = f"{_name(row)}: {_said(_option(row).about, book)}"
    return textwrap.fill(
        text, WIDTH, initial_indent="    ", subsequent_indent="        ", break_long_words=False, break_on_hyphens=False
    )
