"""The page on the studio's own models: Chromium, the gateway and Triton, as a user has them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from impasto_client import Client
from impasto_gateway.app import create_app
from impasto_gateway.settings import GatewaySettings
from impasto_server.ops.serve import serve
from impasto_server.settings import Settings
from tests.helpers.browser import browser, drop, hung, needs_chromium, saved, visit
from tests.helpers.gateways import listening

from .conftest import IMPASTO, ROOT

pytestmark = needs_chromium

PHOTO = ROOT / "studio/photos/cat.jpg"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[str]:
    """Of a gateway in front of both: what paints prompts, and what paints photos."""
    folder = tmp_path_factory.mktemp("page")
    registry, stylizer = folder / "registry", folder / "stylizer"

    def impasto(*words: object) -> None:
        subprocess.run([IMPASTO, *map(str, words)], check=True, stdout=subprocess.DEVNULL)

    impasto("link", ROOT / "studio/mini-stylizer", "--out", stylizer)
    for name, file, own in (
        ("mosaic", "styles/mosaic", bundle),
        ("stipple", "styles/stipple", bundle),
        ("wave", "vectors/wave.safetensors", stylizer),
    ):
        source = ROOT / "studio" / file
        impasto("adapters", "import", source, "--name", name, "--bundle", own, "--registry", registry)
    with serve(Settings({"studio": bundle, "photo": stylizer}, registry)) as server:
        with Client(server.grpc_url) as client:
            client.generate("a boat", steps=1)  # what is compiled at first use
        with listening(create_app(GatewaySettings((server.grpc_url,)))) as address:
            yield address


@pytest.fixture(scope="module")
def page(url: str) -> Iterator[Page]:
    with browser() as running, visit(running, url) as one:
        yield one.open()


def test_each_style_has_its_picture(page: Page) -> None:
    expect(page.locator(".tile .shown")).to_have_count(2)


def test_two_styles_are_mixed_and_repeated_from_the_picture_alone(page: Page, tmp_path: Path) -> None:
    for style in ("Mosaic", "Stipple"):
        page.get_by_role("button", name=style, exact=True).click()
    page.get_by_role("slider", name="Weight of Mosaic").fill("0.55")
    page.get_by_label("Prompt", exact=True).fill("a red boat by the sea")
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(hung(page)).to_be_visible()
    first = saved(page, "Download", tmp_path)
    page.evaluate("sessionStorage.clear()")
    page.reload()
    expect(page.locator(".tile").first).to_be_visible()
    drop(page, first.read_bytes(), first.name)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red boat by the sea")
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(hung(page)).to_be_visible()
    again = saved(page, "Download", tmp_path / "again")
    assert again.name == first.name  # it has the seed
    assert again.read_bytes() == first.read_bytes()


def test_it_previews_and_is_cancelled(page: Page) -> None:
    page.get_by_text("More settings").click()
    page.get_by_label("Steps", exact=True).fill("200")
    page.get_by_label("Size").select_option("256x256")
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(page.get_by_role("img", name="Preview")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Paint", exact=True)).to_be_visible()
    expect(page.get_by_role("img", name="Preview")).to_have_count(0)


def test_a_photo_is_stylised(page: Page, tmp_path: Path) -> None:
    page.get_by_label("Prompt", exact=True).fill("")
    drop(page, PHOTO.read_bytes(), PHOTO.name, "image/jpeg")
    page.get_by_role("button", name="Wave", exact=True).click()
    page.get_by_role("button", name="Stylise", exact=True).click()
    expect(page.get_by_role("img", name="cat.jpg, stylised")).to_be_visible()
    with Image.open(saved(page, "Download", tmp_path)) as painted, Image.open(PHOTO) as photo:
        assert painted.size == photo.size
