"""The command `impasto`: it finds the commands of entry-point group `impasto.commands`, and imports the one called.

An entry point is a typer.Typer or a function. `impasto --help` imports none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from impasto_client.commit import commit

GROUP = "impasto.commands"
OURS = ("impasto_client", "impasto_export", "impasto_fit", "impasto_gateway", "impasto_server")


class About(NamedTuple):
    """What is known of a command without importing it: one line of help, and the extra that it needs."""

    help: str
    extra: str | None = None


ABOUT = {
    "generate": About("Ask a server for a picture."),
    "upscale": About("Ask a server to paint a small picture larger and finer."),
    "stylize": About("Paint photos, folders of photos or clips in a style."),
    "sheet": About("Paint a photo in every style that fits, on one sheet."),
    "gallery": About("Paint every prompt in every style, on one sheet."),
    "compose": About("Paint a content in every style, on one sheet."),
    "score": About("Score how well pictures match a text or a picture."),
    "models": About("List what a server has: bundles, samplers, rules, styles."),
    "show": About("Show how a picture was painted, from its file."),
    "reproduce": About("Paint a picture again from its file, and compare."),
    "serve": About("Serve bundles over gRPC.", "server"),
    "gateway": About("Serve an HTTP API and a page in front of servers.", "gateway"),
    "keys": About("Make a key for callers of the gateway.", "gateway"),
    "calibrate": About("Measure how many lanes a forward pass should have on this machine.", "server"),
    "doctor": About("Check what this machine can run, and how to get what it lacks.", "server"),
    "link": About("Make a bundle from a checkpoint, without torch.", "server"),
    "adapters": About("Import styles into a registry, and manage it.", "server"),
    "fit": About("Make a style of pictures or of words, as jobs.", "fit"),
    "push": About("Write a bundle into an object store.", "server"),
    "pull": About("Get a bundle from an object store.", "server"),
    "export": About("Export the graphs of a new architecture, with torch.", "export"),
}


def installed_commands() -> list[EntryPoint]:
    """impasto's own commands in the order of ABOUT, then those of other distributions by name."""
    order = list(ABOUT)
    found = entry_points(group=GROUP)
    return sorted(found, key=lambda entry: (order.index(entry.name) if entry.name in order else len(order), entry.name))


class LazyGroup(TyperGroup):
    """A group with a placeholder for every command; calling one loads the real command."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._entries = {entry.name: entry for entry in installed_commands()}
        for entry in self._entries.values():
            about = ABOUT.get(entry.name, About(f"From {entry.value.partition(':')[0]}."))
            self.commands[entry.name] = TyperCommand(name=entry.name, help=about.help)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Load the command that is called. Raises typer.Exit when what it needs isn't installed."""
        name, placeholder, rest = super().resolve_command(ctx, args)
        if name is None or name not in self._entries:
            return name, placeholder, rest
        try:
            return name, load(self._entries[name]), rest
        except ModuleNotFoundError as error:
            raise _missing(name, error) from error

    def invoke(self, ctx: Any) -> Any:
        """Run the command, which may import heavy packages only now."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in OURS:
                raise  # a bug of impasto's, not something to install
            raise _missing(ctx.invoked_subcommand, error) from error


def load(entry: EntryPoint) -> Any:
    """Import a command. Raises ModuleNotFoundError."""
    target: typer.Typer | Callable[..., None] = entry.load()
    if isinstance(target, typer.Typer):
        return get_command(target)
    single = typer.Typer(add_completion=False)
    single.command(entry.name)(target)
    return get_command(single)


def _missing(command: str, error: ModuleNotFoundError) -> typer.Exit:
    extra = ABOUT.get(command, About("")).extra
    fix = f"pip install 'impasto[{extra}]'" if extra else "reinstall the package that brings this command"
    text = f"`impasto {command}` needs {error.name}, which is not installed; {fix}"
    Console(stderr=True, highlight=False).print(f"[bold red]error[/]  {escape(text)}", soft_wrap=True)
    return typer.Exit(1)


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        of = commit()
        typer.echo(f"impasto {version('impasto')}" + (f" ({of})" if of else ""))
        raise typer.Exit


@app.callback()
def impasto(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and the commit, and stop."
        ),
    ] = False,
) -> None:
    """Stylised images: the backbone is compiled once, a style is data."""


def main() -> None:
    """The console script."""
    app(prog_name="impasto")
