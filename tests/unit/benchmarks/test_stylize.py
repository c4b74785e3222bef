"""What benchmarks/stylize.py makes of its rounds, who it asks, and how it reads memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from threading import Barrier

import numpy as np
import pytest
from benchmarks.parts.stylize.memory import peak_gb, tree
from benchmarks.parts.stylize.peers import Done, Job, painted
from benchmarks.parts.stylize.photos import opened, photo
from benchmarks.parts.stylize.turns import Side, Turn, difference, taken, worst
from benchmarks.stylize import USERS, Case, of_users, over, rates, without_files, without_its_files
from PIL import Image

GREY = Image.new("RGB", (8, 8), (100, 100, 100))


def turns(ours_s: float = 1.0) -> dict[str, Turn]:
    """Eight pictures of ours, and as many of the package's in two seconds, of which files take half a second."""
    return {
        "ours": Turn(8, ours_s, 0.2),
        "lite": Turn(8, 2.0, 0.5),
        "torch": Turn(2, 2.0, 0.1),
        "torch_bf16": Turn(2, 1.0, 0.1),
    }


def test_ratios_are_of_pictures_a_second_in_the_same_round() -> None:
    rounds = [turns(), turns(), turns(0.5)]
    assert over("lite")(rounds) == pytest.approx(2.0)
    assert over("torch")(rounds) == pytest.approx(8.0)
    assert without_files(rounds) == pytest.approx((8 / 0.8) / (8 / 1.5))
    assert without_its_files(rounds) == pytest.approx(8 / (8 / 1.5))


def test_a_case_says_which_way_of_the_package_was_the_better_one() -> None:
    found = of_users("eight_users", "lite_threads", [turns()] * 3)
    assert found["lite_way"] == "threads"
    assert found["eight_users_vs_lite"] == pytest.approx(2.0)
    assert "eight_users_vs_lite_without_its_files" not in found, "in threads nobody knows what files took"
    assert of_users("eight_users", "lite", [turns()] * 3)["eight_users_vs_lite_without_its_files"] > 1
    assert "one_user_vs_lite_without_files" in of_users("one_user", "lite", [turns()] * 3)


def test_a_person_reads_a_row_for_eight_users_and_one_for_a_single_one() -> None:
    found = {**of_users("eight_users", "lite", [turns()] * 3), **of_users("one_user", "lite", [turns(2.0)] * 3)}
    beside = {"parity": {"ours": {"mean": 0.7, "max": 27.0}}, "roofline": {"share_of_peak": 0.52}}
    table = rates({"server": {"switch_ms": 0.05}, "multistyle-256": {**found, **beside}})
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows[0] == ("multistyle-256", "8", "8.00", "4.00", "1.00", "2.00", "2.00 to 2.00", "8.00", "0.70", "52%")
    assert rows[1][1:6] == ("1", "4.00", "4.00", "1.00", "1.00")


def test_eight_users_have_photos_and_styles_of_their_own() -> None:
    styles = [f"style-{number}" for number in range(26)]
    jobs = Case("multistyle", 32, USERS).jobs(styles)
    assert len({job.photo for job in jobs}) == len({job.style for job in jobs}) == USERS == len(jobs)
    assert all(opened(job.photo).size == (32, 32) for job in jobs)


def test_users_ask_at_once_unless_a_side_paints_alone() -> None:
    together = Barrier(3, timeout=60)

    def meets(job: Job) -> Done:
        together.wait()
        return Done(GREY, 0.25)

    turn = taken(Side("ours", meets), [Job(b"", "a")] * 3, users=3)
    assert (turn.pictures, turn.files_s) == (3, 0.75)

    under_way: list[Job] = []

    def alone(job: Job) -> Done:
        under_way.append(job)
        assert len(under_way) == 1
        under_way.clear()
        return Done(GREY, 0.0)

    assert taken(Side("lite", alone, alone=True), [Job(b"", "a")] * 3, users=3).pictures == 3


def test_files_are_read_and_written_around_a_painter_and_timed() -> None:
    class Inverting:
        def paint(self, photo: Image.Image, style: str) -> Image.Image:
            assert style == "negative"
            return Image.fromarray(255 - np.asarray(photo))

    file = photo(0, 32, 32)
    done = painted(Inverting(), Job(file, "negative"))
    assert difference(done.picture, Image.fromarray(255 - np.asarray(opened(file)))) == {"mean": 0.0, "max": 0.0}
    assert done.files_s > 0


def test_differences_are_in_levels_and_the_worst_counts() -> None:
    brighter = Image.new("RGB", (8, 8), (100, 100, 130))
    assert difference(brighter, GREY) == {"mean": 10.0, "max": 30.0}
    assert worst([{"mean": 10.0, "max": 30.0}, {"mean": 1.0, "max": 40.0}]) == {"mean": 10.0, "max": 40.0}


# memory

HELD = 64 << 20
# Holds 64 MiB for a moment only, then has a child do the same, and waits.
GREEDY = f"""
import subprocess, sys
held = b'x' * {HELD}
del held
inner = "held = b'x' * {HELD}; del held; print('held', flush=True); input()"
subprocess.run([sys.executable, '-c', inner])
"""


@pytest.fixture
def greedy() -> Iterator[int]:
    command = [sys.executable, "-c", GREEDY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid


def test_peaks_of_a_process_and_its_children_are_added_though_they_are_over(greedy: int) -> None:
    assert len(tree(greedy)) == 2
    assert 2 * HELD / 1e9 < peak_gb(greedy) < 6 * HELD / 1e9
