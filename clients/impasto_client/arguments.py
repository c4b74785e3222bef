"""The options of the command line, most of them made from the table of fields; `words.py` converts their values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from impasto_client.field import Field, Table

SAID = "said"  # the parameter of a command that the table's options replace
CONVENTION = "guidance_convention"

Local = Annotated[bool, typer.Option("--local", help="Paint in this process, without a server.")]
Bundle = Annotated[
    Path, typer.Option(envvar="IMPASTO_BUNDLE", help="With --local: the bundle that `impasto link` made.")
]
Url = Annotated[str, typer.Option(envvar="IMPASTO_URL", help="Server's gRPC endpoint, host:port.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait for the answer; inf for ever.")]
Metadata = Annotated[
    bool, typer.Option("--metadata/--no-metadata", help="Let files say how they were painted: `impasto show`.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

_TYPES: dict[str, Any] = {"text": str, "adapters": list[str], "style": list[str], "flag": bool, "picture": Path}


def with_options(
    table: Table, words: Iterable[str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that gives a command the table's options; their values come as its parameter `said`, by the table's
    words.

    `words` selects the options; by default the command has all.
    """

    def made(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        options = {one.name: one for one in _parameters(table, words)}

        def run(**given: Any) -> None:
            said = {name: value for name in options if (value := given.pop(name)) is not None}
            command(**given, **{SAID: said})

        parameters = [one for name, of in own.items() for one in (options.values() if name == SAID else [of])]
        keywords = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
        run.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in keywords}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return made


def _parameters(table: Table, words: Iterable[str] | None) -> Iterator[inspect.Parameter]:
    chosen = None if words is None else {*words}
    for field in table.fields:
        if field.flag and (chosen is None or field.word in chosen):
            if field.kind == "guidance":
                yield from _guidance(field, table)
            else:
                yield _parameter(field.word, _type(field), _option(field))


def _guidance(field: Field, table: Table) -> Iterator[inspect.Parameter]:
    """The two options for guidance: a rule's name, or a convention for the rule that has two."""
    conventions = [rule.convention for rule in table.rules if rule.convention]
    names = [rule.name for rule in table.rules[1:] if not rule.convention]
    help = "With --style: guide style and content apart, as in DreamStyler's paper or in its code."
    yield _parameter(CONVENTION, _choice("Convention", conventions), typer.Option(help=help))
    yield _parameter(field.word, _choice("Guidance", names), _option(field))


def _choice(name: str, values: Iterable[str]) -> Any:
    return StrEnum(name, {value: value for value in values})


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _type(field: Field) -> Any:
    return (int if field.dtype.startswith("INT") else float) if field.kind == "number" else _TYPES[field.kind]


def _option(field: Field) -> Any:
    flag = f"{field.flag}/--no-{field.flag.removeprefix('--')}" if field.kind == "flag" else field.flag
    file = field.kind == "picture"
    return typer.Option(flag, help=field.help, metavar=field.metavar or None, exists=file, dir_okay=not file)
