from __future__ import annotations

import pytest

from impasto_fit.jobs import plan
from tests.unit.fit.jobs.stub import Stub


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """`gatys` is the stub."""
    monkeypatch.setitem(plan.MADE, "gatys", lambda given: Stub())
