"""What is printed never holds up those who say it."""

from __future__ import annotations

from threading import Event

from impasto_server.ops.printer import WAITING, Printer


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
