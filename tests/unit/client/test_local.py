"""Painting without a server: the same client, words, pictures and errors."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.helpers import toy
from typer.testing import CliRunner

from impasto_client import (
    AdapterNotFound,
    Client,
    DeadlineExceeded,
    Generation,
    InvalidRequest,
    LocalTransport,
    Progress,
    ServerError,
    local,
)
from impasto_client.cli import app
from impasto_client.wire import Tensors
from impasto_server.engines.onnxruntime import OnnxRuntimeEngine


class Refused(Exception):
    """As the server's own errors are."""

    code = "INVALID_ARGUMENT"


class Scorer:
    """Has scores for two pictures, and for no others."""

    def __init__(self, bundle: Path) -> None:
        pass

    def score(self, tensors: Tensors) -> Tensors:
        if len(tensors["IMAGE"]) != 2:
            raise Refused("IMAGE: holds 1 picture; pass 2")
        return {"SCORE": np.array([0.5, 0.25], np.float32)}

    def close(self) -> None:
        pass


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toy.register(tmp_path / "registry", "neon", toy.adapter_bytes(1))
    monkeypatch.setenv("IMPASTO_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("IMPASTO_ENGINE", "onnxruntime")
    return toy.write_bundle(tmp_path / "bundle")


def test_a_picture_without_a_server(bundle: Path) -> None:
    with Client(transport=LocalTransport(bundle)) as client:
        assert client.is_ready()
        plain = client.generate("a red boat", steps=2, seed=7)
        styled = client.generate("a red boat", steps=2, seed=7, adapters={"neon": 0.5})
    assert plain.image.size == (64, 64)
    assert plain.seed == 7
    assert styled.data != plain.data


def test_errors_are_the_clients_own(bundle: Path) -> None:
    with Client(transport=LocalTransport(bundle)) as client:
        with pytest.raises(InvalidRequest, match="pass 1 to 200") as caught:
            client.generate("a boat", steps=0)
        assert caught.value.field == "STEPS"
        with pytest.raises(AdapterNotFound, match="did you mean 'neon'"):
            client.generate("a boat", adapters="neo")
        assert client.generate("a boat", steps=1).data


def test_steps_and_previews_without_a_server(bundle: Path) -> None:
    with Client(transport=LocalTransport(bundle)) as client:
        *steps, last = client.stream("a red boat", steps=3, seed=7, preview_every=2)
        alone = client.generate("a red boat", steps=3, seed=7)
    told = [part for part in steps if isinstance(part, Progress)]
    assert [(part.step, part.steps, part.image is not None) for part in told] == [
        (1, 3, False),
        (2, 3, True),
        (3, 3, False),
    ]
    assert isinstance(last, Generation)
    assert last.data == alone.data


def test_a_stream_that_is_left_is_cancelled(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its steps would take ten seconds; those that are left out take none."""
    passes: list[float] = []
    run = OnnxRuntimeEngine.run

    def slow(self: OnnxRuntimeEngine, feeds: Tensors) -> list[NDArray[Any]]:
        if "timestep" in feeds:
            passes.append(float(feeds["timestep"][0]))
            sleep(0.05)
        return run(self, feeds)

    with Client(transport=LocalTransport(bundle)) as client:
        monkeypatch.setattr(OnnxRuntimeEngine, "run", slow)
        for _ in client.stream("a red boat", steps=200):
            break
    assert 0 < len(passes) < 200


def test_deadlines_and_errors_of_a_stream_are_the_clients_own(bundle: Path) -> None:
    with Client(transport=LocalTransport(bundle)) as client:
        with pytest.raises(DeadlineExceeded):
            list(client.stream("a red boat", steps=200, timeout=0.001))
        with pytest.raises(DeadlineExceeded):
            client.generate("a red boat", steps=200, timeout=0.001)
        with pytest.raises(InvalidRequest, match="STEPS"):
            list(client.stream("a boat", steps=0))


def test_scores_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("stylize", f"{__name__}:Scorer", local.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda entry: Scorer)
    monkeypatch.setattr(local, "entry_points", lambda group, name: [entry])
    with Client(transport=LocalTransport(tmp_path)) as client:
        assert client.score([b"a", b"b"], text="a fish") == [0.5, 0.25]
        with pytest.raises(InvalidRequest, match="pass 2") as caught:
            client.score(b"a", text="a fish")
    assert caught.value.field == "IMAGE"


def test_a_bundle_that_is_none_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="impasto link"):
        LocalTransport(tmp_path)


def test_the_command_line_says_local(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "boat.png"
    words = ["generate", "a red boat", "--local", "--bundle", str(bundle), "--steps", "2", "--out", str(out)]
    result = CliRunner().invoke(app, [*words, "--previews", str(tmp_path), "--preview-every", "1"])
    assert result.exit_code == 0, result.output
    assert out.stat().st_size > 0
    assert (tmp_path / "preview-001.png").stat().st_size > 0
