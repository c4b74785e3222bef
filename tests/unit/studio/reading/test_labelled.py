"""What was seen in generated pictures, and how readings agree with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from studio.painter import ALL_OBJECTS, ALL_STYLES, COLOURS
from studio.reading.judge import UNCLEAR, Reading
from studio.reading.labelled import (
    LABELLED,
    LEARNT,
    UNSAID,
    Labelled,
    agreement,
    as_asked,
    confusion,
    draw,
    load,
)

ASKED = Reading("cat", "red", "glass")
FOOLED = Labelled("a", ASKED, Reading(UNCLEAR, "red", UNCLEAR), ASKED)
GOOD = Labelled("a", ASKED, ASKED, ASKED)
UNTOLD = Labelled("a", ASKED, Reading(UNSAID, UNSAID, UNSAID), ASKED)


def test_a_false_acceptance_is_one_of_what_was_not_seen() -> None:
    found = agreement([FOOLED, GOOD, UNTOLD], [ASKED, ASKED, ASKED], "style")
    assert (found.right, found.falsely_accepted, found.falsely_refused) == (0.5, 1.0, 0.0)
    assert (found.count, found.good) == (2, 1)


def test_a_false_refusal_is_one_of_what_was_seen() -> None:
    none = Reading(UNCLEAR, "red", UNCLEAR)
    found = agreement([FOOLED, GOOD, UNTOLD], [none, none, none], "object")
    assert (found.right, found.falsely_accepted, found.falsely_refused) == (0.5, 0.0, 1.0)


def test_another_name_than_the_one_asked_for_accepts_nothing() -> None:
    found = agreement([FOOLED], [Reading("cup", "red", "flat")], "object")
    assert (found.right, found.falsely_accepted) == (0.0, 0.0)


def test_three_counts_say_who_sees_what_was_asked() -> None:
    read = [Reading("cat", "red", UNCLEAR), ASKED, ASKED]
    assert as_asked([FOOLED, GOOD, UNTOLD], read, "style") == "1 / 1 / 2 of 2"


def test_a_row_of_the_table_is_what_was_seen() -> None:
    counts = confusion([FOOLED, GOOD, UNTOLD], [ASKED] * 3)
    glass = ALL_STYLES.index("glass")
    assert counts[glass, glass] == counts[-1, glass] == 1
    assert counts.sum() == 2


def test_tables_are_drawn_side_by_side(tmp_path: Path) -> None:
    table = confusion([GOOD], [ASKED])
    draw([("before", table), ("now", table)], tmp_path / "two.png")
    draw([("now", table)], tmp_path / "one.png")
    two, one = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("two", "one"))
    assert two.shape[1] == 2 * one.shape[1]


@pytest.mark.parametrize("path", [*sorted(LABELLED.glob("*.json")), LEARNT], ids=lambda path: path.stem)
def test_every_picture_that_is_kept_has_a_label_that_is_a_name(path: Path) -> None:
    pictures, labels = load(path)
    assert pictures.shape[0] == len(labels)
    assert pictures.shape[1] == pictures.shape[2]
    known = [{*names, UNCLEAR, UNSAID} for names in (ALL_OBJECTS, COLOURS, ALL_STYLES)]
    for label in labels:
        assert all(said in names for said, names in zip(vars(label.seen).values(), known, strict=True))


def test_there_are_enough_pictures_and_none_is_learnt_from() -> None:
    sheets = [load(path)[0] for path in sorted(LABELLED.glob("*.json"))]
    assert sum(map(len, sheets)) >= 150
    learnt = {picture.tobytes() for picture in load(LEARNT)[0]}
    assert not any(picture.tobytes() in learnt for sheet in sheets for picture in np.asarray(sheet))
