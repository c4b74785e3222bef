"""MkDocs builds the pages without a warning, and what a browser loads of them lies beside them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.pages import ROOT

# What a browser loads from another host to show a page.
LOADED = re.compile(r"""<(?:script|img|link|iframe)\b[^>]* (?:src|href)="(?:https?:)?//|@import|url\(["']?https?:""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", "docs/site/mkdocs.yml"]
    ran = subprocess.run([*build, "--site-dir", str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}
    assert (site / "dataflow.svg").is_file()


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert not {path.name: urls for path in files if (urls := LOADED.findall(path.read_text()))}


def test_what_is_fetched_would_be_found() -> None:
    assert LOADED.search('<script async src="https://example.org/x.js">')
    assert LOADED.search('<link rel="stylesheet" href="//example.org/x.css">')
    assert LOADED.search("src: url(https://example.org/x.woff2)")
    assert not LOADED.search('<link href="css/base.css"> <a href="https://example.org/">')
