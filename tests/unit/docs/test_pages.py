"""README, CONTRIBUTING and docs/ are true: their links lead somewhere, their commands, options and files exist."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from typer.main import get_command

from impasto_client.cli import app
from tests.helpers.pages import PAGES, ROOT, Page, page, slug

NAMES = [str(one.path.relative_to(ROOT)) for one in PAGES]
COMMANDS = sorted({(command, name) for name in NAMES for command in page(name).commands})
# Paths of the repository as pages write them, between backquotes or in a block; a `*` or a name in capitals is no path.
_PATH = re.compile(
    r"(?<![\w./-])(?:tests|benchmarks|studio|server|export|clients|deploy|docs|model_repository)/[\w./-]*\w"
)
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
# Options that aren't impasto's: Triton's, a container's, a misspelt one, one that an example adds, and Ray's.
FOREIGN = {"--grpc-http2-min-recv-ping-interval-without-data", "--shm-size", "--prot", "--emphasis"}
FOREIGN |= {"--target", "--build-arg", "--output", "--format", "--short"}  # docker's and git's
FOREIGN |= {"--from-file", "--from-literal", "--from-env-file"}  # kubectl's
FOREIGN |= {"--address", "--non-blocking"}  # Ray's
FOREIGN |= {"--input"}  # benchmarks/capacity.py's
# Sections of docs/ with Python in them, all of which tests beside this one run.
RUN = {
    "docs/client.md": {
        "Photos",
        "Sentences",
        "Styles as words",
        "Masked transformers and StyleDrop",
        "Without a server",
    },
    "docs/extending.md": {"A sampler", "A sampler of tokens", "A rule", "A form", "A family"},
    "docs/fitting.md": {"In Python"},
    "docs/formats.md": {"Adapter", "Registry"},
    "docs/marks.md": {"From Python"},
}
_MADE = ("studio/runs",)  # by recipes


@pytest.mark.parametrize("name", [*NAMES, "studio/README.md", "benchmarks/README.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name: str) -> None:
    assert not [link for link in page(name).links if not leads(page(name), link)]


def leads(origin: Page, link: str) -> bool:
    """Whether there is such a file, and such a heading in it."""
    path, _, anchor = link.partition("#")
    target = (origin.path.parent / path).resolve() if path else origin.path
    return target.exists() and (not anchor or anchor in Page(target).anchors)


@pytest.mark.parametrize(("link", "there"), [("wire.md", True), ("wire.md#no-such", False), ("nowhere.md", False)])
def test_a_dead_link_would_be_found(link: str, there: bool) -> None:
    assert leads(page("docs/index.md"), link) == there


def test_headings_are_called_as_github_calls_them() -> None:
    assert slug("Model `stylize`") == "model-stylize"
    assert slug("Statuses, timeouts and callers who leave") == "statuses-timeouts-and-callers-who-leave"


@pytest.mark.parametrize(("command", "name"), COMMANDS)
def test_commands_and_their_options_exist(command: str, name: str) -> None:
    words = shlex.split(command.partition(" -- ")[0].partition(" | ")[0])[1:]
    found: Any = get_command(app)
    while hasattr(found, "resolve_command") and words and not words[0].startswith("-"):
        _, found, words = found.resolve_command(found.make_context("impasto", list(words)), words)
    known = {option for one in found.params for option in (*one.opts, *one.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("docs/")])
def test_python_stands_where_a_test_runs_it(name: str) -> None:
    assert {one.heading for one in page(name).blocks if one.language == "python"} == RUN.get(name, set())


@pytest.mark.parametrize("name", NAMES)
def test_files_exist(name: str) -> None:
    said = {path for path in _PATH.findall(page(name).text) if not path.startswith(_MADE)}
    assert not [path for path in said if not (ROOT / path).exists()]


def test_every_page_is_in_the_sites_contents() -> None:
    site = yaml.safe_load((ROOT / "docs/site/mkdocs.yml").read_text())
    listed = [file for entry in site["nav"] for file in entry.values()]
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


# measured.md also tells of benchmarks, pip and docker; the options of examples.md are looked up by test_examples.py.
@pytest.mark.parametrize(
    "name", [one for one in NAMES if one.startswith("docs/") and one not in ("docs/measured.md", "docs/examples.md")]
)
def test_options_in_the_text_exist(name: str) -> None:
    known = {*_OPTION.findall(page("docs/commands.md").text)}
    assert {*_OPTION.findall(page(name).text)} <= known | FOREIGN
