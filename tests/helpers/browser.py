"""A real browser for tests of the page: Chromium as the machine has it, and what a page must not do in it."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: the page runs only in a browser")
PATIENCE_MS = 60_000

# Chromium writes one line for an answer that is no success, whatever the page makes of it.
_REFUSED = re.compile(r"Failed to load resource: the server responded with a status of (4\d\d|503)")


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield running
        finally:
            running.close()


@dataclass
class Visit:
    """The gateway's page, open in a tab of its own session. `said` is what its console says, `hosts` whom it asks."""

    page: Page
    url: str
    said: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", self._asked)

    def open(self, fragment: str = "") -> Page:
        """At its address, when the styles are there."""
        self.page.goto(f"{self.url}/{fragment}")
        expect(self.page.locator(".tile").first).to_be_visible()
        return self.page

    def check(self) -> None:
        """It complained of nothing and asked nobody else."""
        assert self.said == []
        assert self.hosts <= {urlsplit(self.url).netloc}

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not _REFUSED.match(message.text):
            self.said.append(message.text)

    def _asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob"):
            self.hosts.add(parts.netloc)


@contextmanager
def visit(running: Browser, url: str, **context: Any) -> Iterator[Visit]:
    """A tab of its own session; at the end it is checked."""
    session = running.new_context(**context)
    try:
        one = Visit(session.new_page(), url)
        yield one
        one.check()
    finally:
        session.close()


def drop(page: Page, data: bytes, name: str, kind: str = "image/png") -> None:
    """Let go of a file above the page, as from the desktop."""
    file = [base64.b64encode(data).decode(), name, kind]
    script = """([text, name, type]) => {
        const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
        const moved = new DataTransfer();
        moved.items.add(new File([bytes], name, { type }));
        const options = { dataTransfer: moved, bubbles: true, cancelable: true };
        for (const kind of ["dragenter", "dragover", "drop"]) document.body.dispatchEvent(new DragEvent(kind, options));
    }"""
    page.evaluate(script, file)


def hung(page: Page) -> Locator:
    """The finished pictures on the wall."""
    return page.locator("#stage:not([aria-busy]) .frame img:not([alt=Preview])")


def saved(page: Page, button: str, folder: Path) -> Path:
    """The file that a click on a button saves."""
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path
