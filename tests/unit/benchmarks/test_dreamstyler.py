"""What benchmarks/dreamstyler.py makes of pictures and seconds, and what its sheets look like."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from benchmarks import dreamstyler
from benchmarks.common import bench, sheets
from benchmarks.common.asking import figures, with_all
from benchmarks.common.sheets import Axis
from benchmarks.dreamstyler import (
    CONTENT,
    FULL_SCALE,
    METHODS,
    NEAR,
    SCALE,
    STYLE,
    Learnt,
    agreement,
    agreements,
    near,
)
from benchmarks.parts.dreamstyler import dual
from benchmarks.parts.dreamstyler.dual import Latency, Round
from numpy.typing import NDArray
from PIL import Image
from studio import painter

from impasto_client import Client, FakeTransport
from impasto_server.guidance import ClassifierFree, DreamStyler, Mixes, Prompts, Text

PROMPTS = Prompts(*(Text.of(words) for words in ("full", "", "context", "style")))


def line(column: int) -> NDArray[np.bool_]:
    """An edge from top to bottom."""
    found = np.zeros((32, 32), np.bool_)
    found[:, column] = True
    return found


@pytest.mark.parametrize(("apart", "agrees"), [(0, 1.0), (NEAR, 1.0), (NEAR + 1, 0.0)])
def test_edges_agree_within_two_pixels(apart: int, agrees: float) -> None:
    assert agreement(line(8), line(8 + apart)) == agrees


def test_edges_that_are_missing_count_as_those_that_are_too_many() -> None:
    both = line(8) | line(20)
    assert near(line(8), both) == 1.0
    assert near(both, line(8)) == 0.5
    assert agreement(line(8), both) == agreement(both, line(8)) == pytest.approx(2 / 3)


def test_near_is_round() -> None:
    one, other = np.zeros((2, 9, 9), np.bool_)
    one[4, 4] = other[6, 6] = True
    assert near(one, other) == 0.0  # 2.8 pixels


def test_pictures_without_edges() -> None:
    nothing = np.zeros((32, 32), np.bool_)
    assert agreement(nothing, nothing) == 1.0
    assert agreement(nothing, line(8)) == agreement(line(8), nothing) == 0.0


def test_a_picture_agrees_with_itself_and_not_with_another() -> None:
    pictures = np.zeros((2, 64, 64, 3), np.uint8)
    pictures[0, :32], pictures[1, :, :32] = 255, 255
    assert agreements(pictures, pictures).tolist() == [1.0, 1.0]
    assert agreements(pictures, pictures[::-1]).max() < 0.3


def test_half_widths_are_of_each_kind() -> None:
    found = figures({"style_acc": np.array([True] * 48 + [False] * 16), "edges_f1": np.array([0.4, 0.6] * 32)})
    assert (found["style_acc"], found["n"]) == (0.75, 64)
    assert found["half_widths"]["style_acc"] == pytest.approx(0.1036, abs=1e-3)
    assert found["edges_f1"] == pytest.approx(0.5)
    assert found["half_widths"]["edges_f1"] == pytest.approx(1.96 * 0.1 / 8)


def test_a_share_that_is_always_seen_has_a_half_width() -> None:
    assert figures({"style_acc": np.ones(16, np.bool_)})["half_widths"]["style_acc"] > 0.05


def test_all_styles_together_are_all_their_pictures() -> None:
    found = with_all(
        {"mosaic": {"plain": {"style_acc": np.ones(4, np.bool_)}}, "neon": {"plain": {"style_acc": np.zeros(12, bool)}}}
    )
    assert found["mosaic"]["plain"]["style_acc"] == 1.0
    assert (found["all"]["plain"]["style_acc"], found["all"]["plain"]["n"]) == (0.25, 16)


def test_what_a_style_lacks_is_no_figure_of_all() -> None:
    one = {"style_acc": np.ones(4, np.bool_)}
    found = with_all({"mosaic": {"plain": one, "stages": one}, "neon": {"stages": one}})
    assert found["mosaic"].keys() == {"plain", "stages"}
    assert found["all"].keys() == {"stages"}


def test_the_control_of_guidance_weights_the_full_prompt_alike() -> None:
    both = DreamStyler(SCALE, STYLE, CONTENT)(PROMPTS, Mixes())
    assert len(both.lanes) == 4
    assert both.coefficients[1] == ClassifierFree(FULL_SCALE)(PROMPTS, Mixes()).coefficients[1] == METHODS[-1].scale


def test_contexts_name_no_style_and_contents_are_flat() -> None:
    scenes = dreamstyler.flat_scenes(20, 3)
    assert len(scenes) == 20
    assert {scene.style for scene in scenes} == {"flat"}
    assert not any("style" in painter.context(scene) for scene in scenes)


def test_a_mix_has_a_style_for_each_stage() -> None:
    styles = [Learnt(name, name, np.zeros((8, 8, 3), np.uint8), {"context": name}) for name in ("mosaic", "neon")]
    assert [wish.options.get("style") for wish in dreamstyler.mixes(styles)] == [
        ["mosaic"] * 6,
        ["neon"] * 3 + ["mosaic"] * 3,
        ["mosaic"] * 3 + ["neon"] * 3,
        ["neon"] * 6,
    ]


@pytest.mark.parametrize(("ratio", "same", "met"), [(2.05, 5, [True, True]), (2.2, 4, [False, False])])
def test_bars(ratio: float, same: int, met: list[bool]) -> None:
    found = dreamstyler.bars({"ratio": ratio, "identical_images": same, "rounds": 5})
    assert [bar["met"] for bar in found] == met


# latency


def test_ratios_are_of_medians() -> None:
    rounds = [Round(0.4, 0.8, 1.2, True), Round(0.4, 0.8, 1.2, False), Round(0.4, 4.0, 12.0, True)]
    found = dual.report(rounds)
    assert found["ratio"] == 2.0
    assert found["concurrent_ratio"] == 1.5
    assert (found["identical_images"], found["rounds"]) == (2, 3)
    assert bench.interval(dual.ratio, rounds) == (2.0, 10.0)


def test_every_round_paints_each_kind_in_words_of_its_own() -> None:
    transport = FakeTransport()
    done: list[None] = []
    rounds = Latency(Client(transport=transport), "mosaic").rounds(2, lambda: done.append(None))
    assert len(rounds) == 2
    assert len(done) == 2 + dual.WARM_UP
    asked = Counter(str(request["PROMPT"][0]) for request in transport.requests)
    assert sorted(asked.values()) == [1] * 3 * len(done) + [2] * len(done)  # one again, by the other rule
    rules = Counter(bytes(request.get("GUIDANCE", [b"cfg"])[0]) for request in transport.requests)
    assert rules == {b"cfg": len(done), b"dreamstyler": 4 * len(done)}


# sheets


def cells(count: int) -> list[sheets.Pixels]:
    return [np.full((16, 24, 3), 10 * (i + 1), np.uint8) for i in range(count)]


def test_every_cell_of_a_grid_is_where_its_labels_say() -> None:
    sheet = np.asarray(sheets.grid(cells(6), Axis("down", ["a", "b"]), Axis("across", ["1", "2", "3"])))
    found = {value: np.argwhere((sheet == value).all(-1)) for value in (10, 20, 40)}
    (x1, y1), (x2, y2), (x4, y4) = (places.min(0)[::-1] for places in found.values())
    assert [len(places) for places in found.values()] == [16 * 24] * 3
    assert (x2 - x1, y2 - y1) == (24 + sheets.GAP, 0)
    assert (x4 - x1, y4 - y1) == (0, 16 + sheets.GAP)


def test_labels_and_names_are_drawn() -> None:
    def ink(down: Axis, across: Axis) -> int:
        return int((np.asarray(sheets.grid(cells(1), down, across)).min(-1) < 128).sum())

    plain = ink(Axis("", [""]), Axis("", [""]))
    assert ink(Axis("style guidance", [""]), Axis("", [""])) > plain
    assert ink(Axis("", ["0.5"]), Axis("", [""])) > plain
    assert ink(Axis("", [""]), Axis("content guidance", [""])) > plain
    assert ink(Axis("", [""]), Axis("", ["0.5"])) > plain


def test_a_grid_with_a_cell_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        sheets.grid(cells(5), Axis("down", ["a", "b"]), Axis("across", ["1", "2", "3"]))


@pytest.mark.parametrize(("levels", "few"), [(2, False), (256, True)])
def test_a_sheet_gives_up_colours_to_stay_small(levels: int, few: bool, tmp_path: Path) -> None:
    """Noise of two levels for each of red, green and blue is eight colours, and small as it is."""
    noise = np.random.default_rng(0).integers(0, levels, (700, 700, 3), np.uint8)
    sheets.save(Image.fromarray(noise * np.uint8(255 // (levels - 1))), tmp_path / "new" / "sheet.png")
    assert (tmp_path / "new" / "sheet.png").stat().st_size <= sheets.MAX_BYTES
    with Image.open(tmp_path / "new" / "sheet.png") as saved:
        assert saved.size == (700, 700)
        assert len(saved.getcolors() or []) == (64 if few else 8)
