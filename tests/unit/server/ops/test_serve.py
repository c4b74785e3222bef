"""What `serve` makes of a server that is ready one moment and gone the next."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from errno import ENOSPC
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from impasto_server.errors import SetupError
from impasto_server.ops import commands, serve
from impasto_server.ops.endpoints import Endpoints, Ports
from impasto_server.ops.serve import Plan, Server
from impasto_server.settings import Settings


def test_a_server_that_dies_as_soon_as_it_is_ready_did_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may kill it then; who looks after it has to hear of it as of any other death."""
    monkeypatch.setattr(serve, "is_ready", lambda host, port, server: True)
    with subprocess.Popen([sys.executable, "-c", "print('farewell')"], stdout=subprocess.PIPE, text=True) as process:
        process.wait(60)
        guarded: Any = SimpleNamespace(process=process)
        server = Server(guarded, Ports("127.0.0.1", 1, 2), lambda line: None, "impasto_test_", 1 << 20)
        with pytest.raises(SetupError, match=r"(?s)ended as soon as it was ready.*farewell"):
            server.wait_ready(60)


def test_a_start_that_fails_for_a_full_disk_leaves_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is tried again and again."""

    def full(settings: Settings, workspace: Path) -> Path:
        (workspace / "models").mkdir()
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr(serve, "chosen_models", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    installation: Any = SimpleNamespace(binary=tmp_path / "tritonserver")
    plan = Plan(installation, Settings(tmp_path, tmp_path), Endpoints(Ports("127.0.0.1", 1, 2)))
    with pytest.raises(OSError, match="No space left"):
        plan.start(lambda line: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("bundles", "said"),
    [
        (["photo=a", "photo=b"], "bundle: 'photo' names both a and b; give each bundle a name of its own"),
        (["photo=a", "b"], "bundle: 'b' has no name, but there are several; pass NAME=DIR, e.g. photo=b"),
        (["photo=nowhere"], "bundle: "),
    ],
)
def test_bundles_that_cannot_be_served_are_told_before_anything_starts(bundles: list[str], said: str) -> None:
    app = Typer()
    app.command()(commands.serve)
    options = [word for bundle in bundles for word in ("--bundle", bundle)]
    result = CliRunner().invoke(app, [*options, "--port", "0"])
    assert result.exit_code == 1
    assert " ".join(result.stderr.split()).startswith(f"error {said}")
