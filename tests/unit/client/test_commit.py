"""The commit that `impasto --version` prints: a build's record, else git's word, of our own checkout alone."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from impasto_client import cli
from impasto_client.commit import RECORD, commit, of_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a commit, and where its client is."""
    package = tmp_path / "checkout" / "clients" / "impasto_client"
    package.mkdir(parents=True)
    (package / "file").write_text("one")
    git(tmp_path / "checkout", "init", "--quiet")
    git(tmp_path / "checkout", "add", ".")
    git(tmp_path / "checkout", "commit", "--quiet", "--message", "one")
    return tmp_path / "checkout"


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def package(checkout: Path) -> Path:
    return checkout / "clients" / "impasto_client"


def test_a_checkouts_is_what_is_checked_out(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert commit(package(checkout)) == head[:12]
    git(checkout, "tag", "--annotate", "v1", "--message", "v1")
    assert commit(package(checkout)) == head[:12]


def test_changes_since_then_show(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    (package(checkout) / "new").write_text("not tracked")
    assert commit(package(checkout)) == head[:12]
    (package(checkout) / "file").write_text("two")
    assert commit(package(checkout)) == f"{head[:12]}-dirty"


def test_what_a_build_recorded_counts_more(checkout: Path) -> None:
    (package(checkout) / RECORD).write_text("0123456789ab\n")
    assert commit(package(checkout)) == "0123456789ab"


def test_a_repository_around_an_installed_package_is_not_its_own(checkout: Path) -> None:
    """Such as a product's, with the environment in it."""
    installed = checkout / "lib" / "site-packages" / "impasto_client"
    installed.mkdir(parents=True)
    assert commit(installed) is None
    inner = checkout / "vendored" / "clients" / "impasto_client"
    inner.mkdir(parents=True)
    assert commit(inner) is None


def test_a_hook_of_another_repository_does_not_mislead(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "--quiet", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    found = commit(package(checkout))
    monkeypatch.delenv("GIT_DIR")
    assert found == git(checkout, "rev-parse", "HEAD")[:12]


@pytest.mark.parametrize("git_is", ["missing", "unwilling"])
def test_no_word_from_git(git_is: str, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    if git_is == "unwilling":
        program = tmp_path / "bin" / "git"
        program.write_text("#!/bin/sh\necho 'dubious ownership' >&2\nexit 128\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert of_checkout(checkout) is None


@pytest.mark.parametrize(("known", "shown"), [("0123456789ab", " (0123456789ab)"), (None, "")])
def test_the_command_prints_it(known: str | None, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "commit", lambda: known)
    assert CliRunner().invoke(cli.app, ["--version"]).output == f"impasto {version('impasto')}{shown}\n"


def test_of_this_very_code() -> None:
    said = CliRunner().invoke(cli.app, ["--version"]).output
    assert re.fullmatch(r"impasto \d+\.\d+\.\d+( \([0-9a-f]{12}(-dirty)?\))?\n", said)
