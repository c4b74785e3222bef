from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import pytest

from impasto_export.adapters import pickles


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """For pickles of the test's own making: a process of its own takes its time to start."""

    def run(command: list[str], **_: object) -> CompletedProcess[str]:
        try:
            pickles.convert(Path(command[-2]), Path(command[-1]))
        except Exception as error:
            return CompletedProcess(command, pickles.REFUSED, pickles.reason(error))
        return CompletedProcess(command, 0)

    monkeypatch.setattr("subprocess.run", run)
