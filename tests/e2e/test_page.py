"""The page, in a real Chromium, against the real gateway; what paints behind it is a fake that a test can hold up."""

from __future__ import annotations

import asyncio
import io
import re
import shutil
import subprocess
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Browser, Page, expect

from impasto_client import AsyncFakeTransport, FakeTransport
from impasto_client.catalogue import Catalogue
from impasto_client.errors import ServerFull, ServerUnavailable
from impasto_client.marks import read
from impasto_client.wire import Tensors
from impasto_gateway.callers import Caller
from impasto_gateway.keyring import made
from tests.helpers.browser import Visit, browser, drop, hung, needs_chromium, saved, visit
from tests.helpers.gateways import SETTINGS, adapter, app_over, bundle, listening, png
from tests.helpers.waiting import PATIENCE_S, eventually

pytestmark = needs_chromium

FIELDS = tuple(
    "PROMPT NEGATIVE_PROMPT STEPS SCHEDULER GUIDANCE GUIDANCE_SCALE STYLE_STRENGTH FORMAT IMAGE STRENGTH".split()
)
# The fake calls its bundle `fake`, and so do the marks of its pictures.
CATALOGUE = Catalogue(
    default="fake",
    bundles=(
        bundle("fake", "diffusion", fields=FIELDS, samplers=("ddim", "euler")),
        bundle("photo", "feedforward", fields=("FORMAT", "IMAGE", "STRENGTH"), rules=(), samplers=()),
    ),
    adapters=(
        *(adapter(name, "lora", "fake") for name in ("halftone", "mosaic", "stained-glass", "stipple")),
        adapter("crosshatch", "embedding", "fake", trigger="<crosshatch>"),
        adapter("ink-art", "vector", "photo"),
        adapter("wave", "vector", "photo"),
        adapter("wave-art", "vector", "photo"),
        adapter("woodcut", "vector", "photo"),
    ),
    unread=(),
)

HALF = 13  # of 25 steps


@dataclass
class Easel(AsyncFakeTransport):
    """A fake that stops half-way, behind a preview, while it may not `go` on; or is full.

    `wishes` are the pictures that were asked for; `left` is set when one is given up before it is finished.
    """

    fake: FakeTransport = field(default_factory=lambda: FakeTransport(catalogue=CATALOGUE))
    wishes: list[Tensors] = field(default_factory=list)
    go: Event = field(default_factory=Event)
    left: Event = field(default_factory=Event)
    full: bool = False

    def __post_init__(self) -> None:
        self.go.set()

    async def stream(self, tensors: Tensors, timeout_s: float | None = None) -> AsyncGenerator[Tensors, None]:
        if self.full:
            raise ServerFull("the server is full", 2.0)
        self.wishes.append(tensors)
        finished = False
        try:
            async for response in super().stream(tensors, timeout_s):
                yield response
                while "STEP" in response and response["STEP"][0] == HALF and not self.go.is_set():
                    await asyncio.sleep(0.01)
            finished = True
        finally:
            if not finished:
                self.left.set()

    def wish(self, name: str) -> list[object]:
        """A field of the last picture that was asked for."""
        values = self.wishes[-1][name].tolist()
        return [one.decode() if isinstance(one, bytes) else one for one in values]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture
def easel() -> Easel:
    return Easel()


@pytest.fixture
def tab(chromium: Browser, easel: Easel) -> Iterator[Visit]:
    """A tab; the gateway lives as long."""
    with listening(app_over(easel)) as url, visit(chromium, url) as one:
        yield one
        easel.go.set()


def paint(page: Page, prompt: str, **fields: str) -> None:
    """Fill in the form, press Paint and wait for the picture."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    for label, value in fields.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(page.locator("#title")).to_have_text(prompt)
    expect(hung(page).first).to_be_visible()


def pick(page: Page, *styles: str) -> None:
    for name in styles:
        page.get_by_role("group", name="Styles").get_by_role("button", name=name, exact=True).click()


def test_a_prompt_becomes_a_picture(tab: Visit, easel: Easel, tmp_path: Path) -> None:
    page = tab.open()
    paint(page, "a red boat", Seed="9007199254740993")
    assert easel.wish("PROMPT") == ["a red boat"]
    assert easel.wish("SEED") == [2**53 + 1]  # no number of JavaScript's
    expect(page.locator("#facts")).to_contain_text("seed 9007199254740993")
    path = saved(page, "Download", tmp_path)
    assert path.name == "impasto-9007199254740993.png"
    mark = read(path.read_bytes())
    assert mark is not None
    assert (mark.prompt, mark.seed) == ("a red boat", 2**53 + 1)


def test_previews_appear_while_it_paints(tab: Visit, easel: Easel) -> None:
    page = tab.open()
    easel.go.clear()
    page.get_by_label("Prompt", exact=True).fill("a red boat")
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(page.get_by_role("img", name="Preview")).to_be_visible()
    expect(page.locator("#step")).to_have_text(f"Step {HALF} of 25")
    expect(page.locator("#plate")).to_be_hidden()
    easel.go.set()
    expect(page.get_by_role("img", name="a red boat")).to_be_visible()
    expect(page.get_by_role("img", name="Preview")).to_have_count(0)
    assert not easel.left.is_set()


def test_it_says_how_many_others_share_the_server(tab: Visit, easel: Easel) -> None:
    page = tab.open()
    easel.go.clear()
    with httpx.stream(
        "POST", f"{tab.url}/v1/images/generations", json={"prompt": "a boat", "stream": True, "progress": True}
    ) as other:
        lines = other.iter_lines()  # kept: without it the answer is closed
        next(lines)
        page.get_by_label("Prompt", exact=True).fill("a red boat")
        page.get_by_role("button", name="Paint", exact=True).click()
        expect(page.locator("#step")).to_have_text(f"Step {HALF} of 25 · 1 other shares the server")
    expect(page.locator("#step")).to_have_text(f"Step {HALF} of 25")
    easel.go.set()
    expect(page.get_by_role("img", name="a red boat")).to_be_visible()


def test_cancel_stops_the_server(tab: Visit, easel: Easel) -> None:
    page = tab.open()
    easel.go.clear()
    page.get_by_label("Prompt", exact=True).fill("a red boat")
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(page.get_by_role("img", name="Preview")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    assert easel.left.wait(PATIENCE_S)
    expect(page.get_by_role("button", name="Paint", exact=True)).to_be_enabled()
    expect(page.locator("#title")).to_have_text("Cancelled")
    expect(page.locator("#facts")).to_have_text(f"Step {HALF} of 25")
    expect(page.get_by_role("img", name="The last preview")).to_be_visible()
    easel.go.set()
    paint(page, "a blue house")
    easel.go.clear()
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(page.get_by_role("img", name="Preview")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("img", name="a blue house")).to_be_visible()  # what was finished before comes back
    expect(page.get_by_role("status")).to_have_text("Cancelled")


def test_a_closed_tab_stops_the_server(tab: Visit, easel: Easel) -> None:
    page = tab.open()
    easel.go.clear()
    page.get_by_label("Prompt", exact=True).fill("a red boat")
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(page.get_by_role("img", name="Preview")).to_be_visible()
    page.close()
    assert easel.left.wait(PATIENCE_S)


def test_two_styles_are_mixed_by_sliders(tab: Visit, easel: Easel) -> None:
    page = tab.open()
    expect(page.locator(".tile .shown")).to_have_count(5)  # their pictures
    pick(page, "Mosaic", "Stipple")
    page.get_by_role("slider", name="Weight of Mosaic").fill("1.25")
    paint(page, "a red boat")
    assert easel.wish("ADAPTER_NAMES") == ["mosaic", "stipple"]
    assert easel.wish("ADAPTER_WEIGHTS") == pytest.approx([1.25, 0.8])
    pick(page, "Mosaic")  # off again
    paint(page, "a blue boat")
    assert easel.wish("ADAPTER_NAMES") == ["stipple"]


def test_an_embedding_is_a_style_without_a_slider(tab: Visit, easel: Easel) -> None:
    page = tab.open()
    pick(page, "Crosshatch")
    expect(page.get_by_role("slider")).to_have_count(0)
    paint(page, "a red boat")
    assert easel.wish("STYLE") == ["crosshatch"]


def test_a_photo_is_stylised(tab: Visit, easel: Easel, tmp_path: Path) -> None:
    page, photo = tab.open(), png(64, 48)
    drop(page, photo, "boat.png")
    expect(page.get_by_label("Model")).to_have_value("photo")
    expect(page.get_by_label("Prompt", exact=True)).to_be_hidden()
    pick(page, "Wave")
    share = page.get_by_role("slider", name="Share of Wave")
    expect(share).to_have_value("1")
    pick(page, "Woodcut")
    expect(page.locator("#mix output")).to_have_text(["50 %", "50 %"])
    share.fill("0.8")  # of the whole, so the other has what is left
    expect(page.get_by_role("slider", name="Share of Woodcut")).to_have_value("0.2")
    page.get_by_role("button", name="Stylise", exact=True).click()
    expect(page.get_by_role("img", name="boat.png, stylised")).to_be_visible()
    asked = easel.fake.requests[-1]
    assert asked["IMAGE"].item() == photo
    assert dict(zip(asked["ADAPTER_NAMES"].tolist(), asked["ADAPTER_WEIGHTS"].tolist(), strict=True)) == {
        b"wave": pytest.approx(0.8),
        b"woodcut": pytest.approx(0.2),
    }
    with Image.open(saved(page, "Download", tmp_path)) as picture:
        assert picture.size == (64, 48)


def test_a_prompt_may_begin_from_a_photo(tab: Visit, easel: Easel) -> None:
    page, photo = tab.open(), png(64, 48)
    page.get_by_label("Prompt", exact=True).fill("a red boat")
    drop(page, photo, "boat.png")
    expect(page.get_by_label("Model")).to_have_value("fake")
    pick(page, "Mosaic")
    page.get_by_text("More settings").click()
    page.get_by_label("Strength", exact=True).fill("0.4")
    page.keyboard.press("Control+Enter")  # what was just typed counts
    expect(page.get_by_role("img", name="a red boat")).to_be_visible()
    assert easel.wishes[-1]["IMAGE"].item() == photo
    assert easel.wish("STRENGTH") == pytest.approx([0.4])
    assert easel.wish("ADAPTER_NAMES") == ["mosaic"]


def test_with_a_prompt_and_a_photo_one_chooses_what_becomes_of_it(tab: Visit, easel: Easel) -> None:
    page, photo = tab.open(), png(64, 48)
    page.get_by_label("Prompt", exact=True).fill("a red boat")
    drop(page, photo, "boat.png")
    ways = page.get_by_role("group", name="What to do with the photo")
    expect(ways.get_by_label("Start from it")).to_be_checked()
    ways.get_by_label("Start from it").focus()
    page.keyboard.press("ArrowRight")
    expect(ways.get_by_label("Stylise it")).to_be_checked()
    expect(page.get_by_label("Model")).to_have_value("photo")
    pick(page, "Wave")
    page.get_by_role("button", name="Stylise", exact=True).click()
    expect(page.get_by_role("img", name="boat.png, stylised")).to_be_visible()
    assert "PROMPT" not in easel.fake.requests[-1]
    ways.get_by_label("Start from it").check()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red boat")
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(page.get_by_role("img", name="a red boat")).to_be_visible()
    assert easel.wishes[-1]["IMAGE"].item() == photo


def test_an_edited_picture_asks_for_the_one_it_was_painted_from(tab: Visit, easel: Easel, tmp_path: Path) -> None:
    page, photo = tab.open(), png(64, 48)
    page.get_by_label("Prompt", exact=True).fill("a red boat")
    drop(page, photo, "boat.png")
    page.get_by_text("More settings").click()
    page.get_by_label("Strength", exact=True).fill("0.4")
    paint(page, "a red boat", Seed="3")
    before, path = easel.wishes[-1], saved(page, "Download", tmp_path)
    page.evaluate("sessionStorage.clear()")
    tab.open()
    drop(page, path.read_bytes(), path.name)
    expect(page.locator("#missing")).to_contain_text("It was painted from a picture; add it.")
    expect(page.locator("#toast")).to_contain_text("It was painted from a picture; add it.")
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(page.locator("#wrong-image")).to_have_text("Add the picture, or paint without it.")
    assert easel.wishes[-1] is before
    drop(page, photo, "renamed.png")
    expect(page.locator("#missing")).to_be_hidden()
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(hung(page)).to_be_visible()
    assert easel.wishes[-1] == before


def test_a_link_to_a_picture_that_had_a_photo_says_so(tab: Visit, easel: Easel) -> None:
    page = tab.open("#model=fake&prompt=a+red+boat&photo=boat.png")
    expect(page.locator("#missing")).to_contain_text("It was called boat.png.")
    page.get_by_role("button", name="Paint without it").click()
    paint(page, "a red boat")
    assert "IMAGE" not in easel.wishes[-1]


def test_a_painted_picture_that_is_chosen_is_settings_or_a_picture(tab: Visit, easel: Easel, tmp_path: Path) -> None:
    page = tab.open()
    paint(page, "a red boat", Seed="12")
    path = saved(page, "Download", tmp_path)
    page.evaluate("sessionStorage.clear()")
    tab.open()
    ask = page.get_by_role("dialog")
    page.locator("#photo").set_input_files(path)
    expect(ask).to_contain_text(f"{path.name} says how")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red boat")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("12")
    page.locator("#photo").set_input_files(path)
    ask.get_by_role("button", name="Use it as a picture").click()
    expect(page.locator("#photo-name")).to_have_text(path.name)
    page.get_by_role("button", name="Remove the photo").click()
    page.locator("#photo").set_input_files(path)
    page.keyboard.press("Escape")
    expect(ask).to_be_hidden()
    expect(page.locator("#photo-shown")).to_be_hidden()


def test_settings_are_loaded_by_a_button(tab: Visit, tmp_path: Path) -> None:
    page = tab.open()
    paint(page, "a red boat", Seed="12")
    path, plain = saved(page, "Download", tmp_path), tmp_path / "plain.png"
    plain.write_bytes(png(8, 8))
    page.get_by_label("Prompt", exact=True).fill("a blue house")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Load settings").click()
    chooser.value.set_files(plain)
    expect(page.locator("#toast")).to_have_text("plain.png has no settings in it")
    page.locator("#painted").set_input_files(path)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red boat")


def test_styles_are_called_what_tells_them_apart(tab: Visit) -> None:
    page = tab.open()
    page.get_by_label("Model").select_option("photo")
    expect(page.locator(".tile .label")).to_have_text(["Ink", "Wave", "Wave art", "Woodcut"])


@pytest.mark.parametrize("width", [390, 1280])
def test_a_long_seed_can_be_read(chromium: Browser, easel: Easel, width: int) -> None:
    with listening(app_over(easel)) as url, visit(chromium, url, viewport={"width": width, "height": 800}) as one:
        seed = one.open().get_by_label("Seed", exact=True)
        seed.fill("9223372036854775807")
        assert seed.evaluate("(one) => one.scrollWidth <= one.clientWidth")


def test_opened_settings_are_in_sight(chromium: Browser, easel: Easel) -> None:
    with listening(app_over(easel)) as url, visit(chromium, url, viewport={"width": 1280, "height": 620}) as one:
        page = one.open()
        page.get_by_text("More settings").click()
        expect(page.get_by_label("Steps", exact=True)).to_be_in_viewport()


def test_without_a_photo_it_is_asked_for(tab: Visit) -> None:
    page = tab.open()
    expect(page.locator("#empty")).to_contain_text("Say what to paint")
    page.get_by_label("Model").select_option("photo")
    expect(page.locator("#empty")).to_contain_text("Add a photo, pick a style or two, and press Stylise.")
    page.get_by_role("button", name="Stylise", exact=True).click()
    expect(page.locator("#wrong-image")).to_have_text("Add a photo: this model paints over one.")


def test_a_painted_picture_brings_its_settings_back(tab: Visit, easel: Easel, tmp_path: Path) -> None:
    page = tab.open()
    pick(page, "Halftone")
    page.get_by_role("slider", name="Weight of Halftone").fill("0.35")
    page.get_by_text("More settings").click()
    paint(page, "a red boat", Seed="12", Steps="11")
    before, path = easel.wishes[-1], saved(page, "Download", tmp_path)
    page.evaluate("sessionStorage.clear()")
    tab.open()
    drop(page, path.read_bytes(), path.name)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red boat")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("12")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("11")
    expect(page.get_by_role("slider", name="Weight of Halftone")).to_have_value("0.35")
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(hung(page)).to_be_visible()
    assert easel.wishes[-1] == before


def test_other_programs_parameters_are_read_too(tab: Visit) -> None:
    file, marks = io.BytesIO(), PngInfo()
    numbers = 'Steps: 20, Sampler: Euler, CFG scale: 5.5, Seed: 42, Size: 64x96, Model: "elsewhere, 2"'
    marks.add_text("parameters", f"a red boat <lora:mosaic:0.6>\nNegative prompt: fog, rain\n{numbers}")
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=marks)
    page = tab.open()
    drop(page, file.getvalue(), "old.png")
    expect(page.locator("#toast")).to_have_text("Settings of old.png loaded, without model elsewhere, 2")
    expected = {
        "Prompt": "a red boat",
        "Seed": "42",
        "Steps": "20",
        "Sampler": "euler",
        "Not in the picture": "fog, rain",
    }
    for label, value in {**expected, "Guidance scale": "5.5", "Weight of Mosaic": "0.6"}.items():
        expect(page.get_by_label(label, exact=True)).to_have_value(value)
    expect(page.get_by_label("Width in pixels")).to_have_value("64")


# Of as many letters: eight lines that are short, or one that is long.
GROWTH = """async (piece) => {
  const { theirs } = await import("/static/marks.js");
  const text = (length) => `<lora:${piece.repeat(length / 2)}\\nSteps: 1, ${piece.repeat(length)}!`;
  const tried = (line, times) => {
    const begun = performance.now();
    for (let at = 0; at < times; at++) theirs(line);
    return performance.now() - begun;
  };
  const least = (line, times) => Math.min(...[1, 2, 3].map(() => tried(line, times)));
  return least(text(16000), 50) / least(text(2000), 400);
}"""


@pytest.mark.parametrize("piece", ["a", " "])
def test_reading_parameters_grows_with_their_length_and_no_faster(tab: Visit, piece: str) -> None:
    assert tab.open().evaluate(GROWTH, piece) < 3


def test_a_value_that_is_badly_quoted_is_read_as_it_stands(tab: Visit) -> None:
    script = """async (text) => (await import("/static/marks.js")).theirs(text)"""
    said = tab.open().evaluate(script, 'a boat <lora:neon>\nSteps: 20, (odd), Model: "half" of it, Seed: 3')
    assert (said["model"], said["seed"], said["more"]["steps"]) == ('"half" of it', "3", "20")
    assert (said["prompt"], said["styles"]) == ("a boat", {"neon": 1})


def test_the_history_shows_and_loads_what_was_painted(tab: Visit) -> None:
    page = tab.open()
    pick(page, "Mosaic")
    paint(page, "a red boat", Seed="1")
    pick(page, "Mosaic")
    paint(page, "a blue house", Seed="2")
    page.reload()
    session = page.get_by_role("region", name="This session")
    expect(session.get_by_role("button", name=re.compile("^Show"))).to_have_count(2)
    session.get_by_role("button", name=re.compile("a red boat")).click()
    expect(page.get_by_role("img", name="a red boat")).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red boat")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("1")
    expect(page.get_by_role("button", name="Mosaic", exact=True)).to_have_attribute("aria-pressed", "true")
    session.get_by_role("button", name="Clear").click()
    expect(session).to_be_hidden()


def test_several_pictures_have_a_seed_each(tab: Visit, easel: Easel) -> None:
    page = tab.open()
    page.get_by_label("Pictures").select_option("3")
    paint(page, "a red boat", Seed="20")
    expect(hung(page)).to_have_count(3)
    page.get_by_role("button", name="a red boat, picture 3 of 3").click()
    expect(page.locator("#facts")).to_contain_text("seed 22")
    page.get_by_role("button", name="Keep seed").click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value("22")


def test_a_link_brings_the_settings(chromium: Browser, easel: Easel) -> None:
    allowed = ["clipboard-read", "clipboard-write"]
    with listening(app_over(easel)) as url, visit(chromium, url, permissions=allowed) as one:
        page = one.open()
        pick(page, "Stained glass")
        page.get_by_text("More settings").click()
        paint(page, "a red & blue boat", Seed="5", Steps="11")
        before = easel.wishes[-1]
        page.get_by_role("button", name="Copy link").click()
        expect(page.locator("#toast")).to_have_text("Link copied")
        link = str(page.evaluate("navigator.clipboard.readText()"))
        page.goto("about:blank")
        page.goto(link)
        expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red & blue boat")
        expect(page.get_by_role("slider", name="Weight of Stained glass")).to_have_value("0.8")
        count = len(easel.wishes)
        page.get_by_role("button", name="Paint", exact=True).click()
        eventually(lambda: len(easel.wishes) == count + 1, seconds=20)
        assert (easel.wish("STEPS"), easel.wishes[-1].keys()) == ([11], before.keys())
        one.hosts.discard("")  # about:blank


@pytest.mark.skipif(shutil.which("jq") is None, reason="no jq: the command takes the picture out with it")
def test_the_copied_command_paints_the_same_picture(chromium: Browser, easel: Easel, tmp_path: Path) -> None:
    allowed = ["clipboard-read", "clipboard-write"]
    with listening(app_over(easel)) as url, visit(chromium, url, permissions=allowed) as one:
        page = one.open()
        pick(page, "Mosaic")
        paint(page, "the painter's boat", Seed="5")
        page.get_by_role("button", name="Copy as curl").click()
        expect(page.locator("#toast")).to_have_text("Command copied")
        command = str(page.evaluate("navigator.clipboard.readText()"))
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=tmp_path, check=True)
        ours = saved(page, "Download", tmp_path)
        assert pixels(tmp_path / "picture.png") == pixels(ours)


def test_an_error_stands_at_its_field(tab: Visit) -> None:
    page = tab.open()
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(page.locator("#wrong-prompt")).to_have_text("Say what to paint.")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.get_by_label("Prompt", exact=True).fill("a red boat")
    expect(page.locator("#wrong-prompt")).to_be_hidden()
    seed = page.get_by_label("Seed", exact=True)
    seed.fill(str(2**63))  # the gateway's own bound
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(page.locator("#wrong-seed")).to_contain_text(str(2**63))
    expect(seed).to_have_attribute("aria-invalid", "true")
    expect(seed).to_be_focused()


def test_a_full_server_can_be_asked_again(tab: Visit, easel: Easel) -> None:
    page = tab.open()
    easel.full = True
    page.get_by_label("Prompt", exact=True).fill("a red boat")
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("The server is full. Try again in 2 s.")
    easel.full = False
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("img", name="a red boat")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_without_a_server_the_page_says_so_and_asks_again(tab: Visit, easel: Easel) -> None:
    easel.fake.error = ServerUnavailable("nobody is there")
    page = tab.page
    page.goto(tab.url)
    expect(page.get_by_role("alert")).to_contain_text("Nobody is there.")
    expect(page.get_by_role("button", name="Paint", exact=True)).to_be_disabled()
    page.get_by_label("Prompt", exact=True).fill("a red boat")
    easel.fake.error = None
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".tile").first).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(page.get_by_role("img", name="a red boat")).to_be_visible()


def test_a_key_is_asked_for_once_a_session(chromium: Browser, easel: Easel, tmp_path: Path) -> None:
    secret, key = made(Caller("studio", frozenset(("generate",))))
    keys = tmp_path / "keys"
    keys.write_text(f"{key.line()}\n")
    app = app_over(easel, settings=replace(SETTINGS, keys=keys))
    with listening(app) as url, visit(chromium, url) as one:
        page = one.page
        page.goto(url)
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Key").fill("impasto_wrong")
        dialog.get_by_role("button", name="Use key").click()
        expect(dialog.locator("#wrong-key")).to_be_visible()
        dialog.get_by_label("Key").fill(secret)
        page.keyboard.press("Enter")
        expect(page.locator(".tile .shown")).to_have_count(5)
        paint(page, "a red boat")
        page.reload()
        expect(page.locator(".tile").first).to_be_visible()
        expect(dialog).to_be_hidden()
        page.get_by_role("button", name="Forget key").click()
        expect(dialog).to_be_visible()


def test_without_a_mouse(tab: Visit, easel: Easel) -> None:
    page = tab.open()
    easel.go.clear()
    expect(page.get_by_role("button", name="Mosaic")).to_be_visible()  # what is drawn later would take the focus away
    press = page.keyboard.press
    press("Tab")
    expect(page.get_by_role("link", name="Skip to the prompt")).to_be_focused()
    press("Enter")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.keyboard.type("a red boat")
    press("Tab")
    expect(page.get_by_role("button", name="Add a photo")).to_be_focused()
    press("Tab")
    expect(page.get_by_role("button", name="Crosshatch")).to_be_focused()
    press("ArrowRight")
    press("ArrowRight")
    expect(page.get_by_role("button", name="Mosaic")).to_be_focused()
    press("Space")
    expect(page.get_by_role("slider", name="Weight of Mosaic")).to_be_visible()
    press("Tab")
    expect(page.get_by_role("slider", name="Weight of Mosaic")).to_be_focused()
    press("ArrowRight")
    press("Control+Enter")
    expect(page.get_by_role("img", name="Preview")).to_be_visible()
    assert easel.wish("ADAPTER_WEIGHTS") == pytest.approx([0.85])
    press("Escape")
    assert easel.left.wait(PATIENCE_S)
    expect(page.get_by_role("status").filter(has_text="Cancelled")).to_be_attached()
    easel.go.set()
    press("Control+Enter")
    expect(page.get_by_role("img", name="a red boat")).to_be_visible()


def test_everything_has_a_name(tab: Visit) -> None:
    """What can be focused says to a screen reader what it is."""
    page = tab.open()
    pick(page, "Mosaic")
    page.get_by_text("More settings").click()
    paint(page, "a red boat")
    unnamed = page.evaluate("""() => [...document.querySelectorAll("button, input, select, textarea, a[href], img")]
        .filter((one) => one.checkVisibility() && !one.closest("[aria-hidden=true]"))
        .filter((one) => !(one.getAttribute("aria-label") || one.labels?.length || one.hasAttribute("alt") ||
            one.textContent.trim()))
        .map((one) => one.outerHTML)""")
    assert unnamed == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(chromium: Browser, easel: Easel, width: int) -> None:
    with listening(app_over(easel)) as url, visit(chromium, url, viewport={"width": width, "height": 800}) as one:
        page = one.open()
        pick(page, "Mosaic", "Stained glass")
        page.get_by_label("Pictures").select_option("4")
        page.get_by_text("More settings").click()
        paint(page, "a red boat " + "very" * 40)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_colours_follow_the_system_until_they_are_chosen(chromium: Browser, easel: Easel) -> None:
    with listening(app_over(easel)) as url, visit(chromium, url, color_scheme="dark") as one:
        page = one.open()
        dark = background(page)
        page.get_by_role("button", name="Switch to light colours").click()
        light = background(page)
        assert light != dark
        page.reload()
        assert background(page) == light
        page.get_by_role("button", name="Switch to dark colours").click()
        assert background(page) == dark


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()
