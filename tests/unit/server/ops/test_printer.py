"""What is printed never holds up those who say it."""

from __future__ import annotations

from errno import ENOSPC
from io import StringIO
from threading import Event

from rich.console import Console

from impasto_server.ops.commands import unfailing
from impasto_server.ops.printer import WAITING, Printer
from tests.helpers.waiting import eventually


def test_lines_are_printed_in_their_order() -> None:
    printed: list[str] = []
    printer = Printer(printed.append)
    for line in ("one", "two", "three"):
        printer.say(line)
    printer.close()
    assert printed == ["one", "two", "three"]


def test_who_reads_too_slowly_misses_lines_and_is_told_how_many() -> None:
    printed: list[str] = []
    entered, may = Event(), Event()

    def write(line: str) -> None:
        entered.set()
        assert may.wait(60)
        printed.append(line)

    printer = Printer(write)
    printer.say("first")
    assert entered.wait(60)
    for number in range(WAITING + 3):
        printer.say(f"line {number}")
    may.set()
    while len(printed) < WAITING + 1:
        assert not Event().wait(0.01)
    printer.say("last")
    printer.close()
    assert printed[1] == "line 0"
    assert printed[-2:] == ["(3 lines were dropped, since nobody read them)", "last"]


class Disk(StringIO):
    """Full or not."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(ENOSPC, "No space left on device")
        return super().write(text)


def test_a_full_disk_takes_lines_and_nothing_else() -> None:
    disk = Disk()
    printer = Printer(unfailing(Console(file=disk)))
    for _ in range(WAITING):
        printer.say("is lost")
    eventually(lambda: not printer._lines.qsize())
    disk.full = False
    printer.say("is there")
    printer.close()
    assert disk.getvalue().endswith("is there\n")
