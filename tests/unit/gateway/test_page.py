"""The page's files: what is served, how browsers keep it, and what its policy forbids."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from types import MappingProxyType

import httpx
import pytest

from impasto_gateway import page
from tests.helpers.gateways import app_over, calling, fake

NAMES = sorted(page.files())


def got(path: str, headers: Mapping[str, str] = MappingProxyType({})) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with calling(app_over(fake())) as client:
            return await client.get(path, headers=headers)

    return asyncio.run(asked())


def test_the_page_is_at_the_root() -> None:
    answer = got("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text.startswith("<!doctype html>")


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_served_as_what_it_is(name: str) -> None:
    answer = got(f"/static/{name}")
    assert answer.content == (page.STATIC / name).read_bytes()
    assert answer.headers["content-type"] == page.TYPES[f".{name.rpartition('.')[2]}"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_browsers_run_only_what_is_served_here() -> None:
    policy = got("/").headers["content-security-policy"]
    said = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert said["default-src"] == "'none'"
    assert said["script-src"] == said["style-src"] == said["connect-src"] == "'self'"
    assert said["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy


@pytest.mark.parametrize("said", ["{tag}", "W/{tag}", '"other", {tag}'])
def test_a_browser_that_has_a_file_is_told_so(said: str) -> None:
    first = got("/static/page.css")
    tag = first.headers["etag"]
    again = got("/static/page.css", {"if-none-match": said.format(tag=tag)})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert got("/static/page.css", {"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "../page.py", "..%2Fpage.py", "%2Fetc%2Fpasswd", "__init__.py", ""])
def test_nothing_else_is_served(name: str) -> None:
    answer = got(f"/static/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_the_page_loads_only_what_is_there() -> None:
    """Addresses in its markup, its style sheet and its modules, all relative: it may stand behind a prefix."""
    files = {name: file.data.decode() for name, file in page.files().items()}
    markup = Markup(files["index.html"])
    assert {one.removeprefix("static/") for one in markup.addresses} <= {*NAMES, "openapi.json"}
    imported = {found for name, text in files.items() if name.endswith(".js") for found in _IMPORT.findall(text)}
    assert {one.removeprefix("./") for one in imported} <= set(NAMES)
    assert all(one == "data:" for one in re.findall(r'url\("(.{5})', files["page.css"]))


def test_the_markup_has_no_scripts_or_styles_of_its_own() -> None:
    """The policy forbids them; browsers would leave them out."""
    markup = Markup(page.files()["index.html"].data.decode())
    assert markup.inline == []


def test_text_never_becomes_markup() -> None:
    for name, file in page.files().items():
        if name.endswith(".js"):
            assert not re.search(rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", file.data), name


_IMPORT = re.compile(r'from "([^"]+)"')


class Markup(HTMLParser):
    """What a page loads, and what stands in it that should stand in files."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href") and value and not value.startswith("#"):
                self.addresses.append(value)
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")
        if tag == "style" or (tag == "script" and "src" not in dict(attrs)):
            self.inline.append(tag)
