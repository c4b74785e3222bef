"""The wheel alone, installed where no checkout is seen: its commands, and a picture from a checkpoint."""

from __future__ import annotations

import json

from impasto_client.cli import ABOUT
from impasto_client.commit import of_checkout

from .conftest import PROJECT, ROOT, Run

LOAD = """
import json
import impasto_client, impasto_export, impasto_server
from impasto_client.cli import installed_commands, load
commands = installed_commands()
for command in commands:
    load(command)
places = [package.__file__ for package in (impasto_client, impasto_export, impasto_server)]
print(json.dumps([[command.name for command in commands], places]))
"""


def test_help_names_every_command(run: Run) -> None:
    said = run("impasto", "--help")
    assert [name for name in ABOUT if f" {name} " not in said] == []


def test_the_version_and_the_commit_it_was_built_from(run: Run) -> None:
    of = of_checkout(ROOT)
    assert run("impasto", "--version") == f"impasto {PROJECT['version']}" + (f" ({of})\n" if of else "\n")


def test_every_command_is_the_wheels_own(run: Run) -> None:
    commands, places = json.loads(run("python", "-c", LOAD))
    assert commands == list(ABOUT)
    assert [place for place in places if "/venv/lib/" not in place or str(ROOT) in place] == []


def test_a_checkpoint_becomes_a_picture(run: Run) -> None:
    """Skeletons, vocabulary, the model repository, Triton: all that a server needs comes along."""
    run("impasto", "link", str(ROOT / "studio" / "mini-diffusion"), "--out", "bundle")
    ask = ["impasto", "generate", "a red boat", "--steps", "2", "--seed", "7", "--out", "boat.png", "--json"]
    said = run("impasto", "serve", "--bundle", "bundle", "--port", "0", "--quiet", "--", *ask)
    assert json.loads(said)["seed"] == 7
