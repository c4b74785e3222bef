"""The group that all commands of `impasto fit` join."""

import typer

fit = typer.Typer(
    help="Make a style of pictures or of words, as jobs: they go on where they were killed.",
    no_args_is_help=True,
    add_completion=False,
)
