"""Which tritonserver is taken, and what is refused before it is started."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from impasto_server import tritonserver
from impasto_server.endpoints import Ports
from impasto_server.errors import SetupError
from impasto_server.repository import chosen_models
from impasto_server.serve import serve
from impasto_server.settings import Settings
from impasto_server.tritonserver import PYTHON, STUB, Installation, find


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A folder laid out like /opt/tritonserver, with a stub for this Python."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tritonserver").touch(mode=0o755)
    (tmp_path / "backends/python").mkdir(parents=True)
    (tmp_path / "backends/python" / STUB).write_bytes(f"ELF libpython{PYTHON}.so.1.0".encode())
    return tmp_path


def test_path_comes_first(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(system / "bin"))
    found = find()
    assert (found.binary, found.backends, found.bundled) == (system / "bin/tritonserver", system / "backends", False)
    found.check()


def test_then_the_system_folder(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(tritonserver, "SYSTEM", system)
    assert find().binary == system / "bin/tritonserver"


def test_then_the_one_in_nvidia_pytriton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(tritonserver, "SYSTEM", tmp_path)
    found = find()
    assert found.bundled
    backends = found.prepare(tmp_path / "workspace")
    assert {file.name for file in (backends / "python").iterdir()} >= {STUB, "libtriton_python.so"}


def test_a_stub_for_another_python_is_refused(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (system / "backends/python" / STUB).write_bytes(b"ELF libpython3.1.so.1.0")
    monkeypatch.setenv("PATH", str(system / "bin"))
    with pytest.raises(SetupError, match=r"runs Python 3\.1, this environment is Python .*; make the environment"):
        find().check()


def test_a_missing_stub_is_refused(system: Path) -> None:
    lacking = Installation(system / "bin/tritonserver", system / "backends", (), system / "none", bundled=False)
    with pytest.raises(SetupError, match="has no Python .* backend"):
        lacking.check()


def test_the_bundled_server_stays_on_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(tritonserver, "SYSTEM", tmp_path)
    with pytest.raises(SetupError, match="stays on loopback"), serve(Settings(tmp_path, tmp_path), host="0.0.0.0"):
        pass


def test_ports_stand_side_by_side_or_are_free_ones() -> None:
    ports = Ports.choose("127.0.0.1", 0, http=True)
    assert len({ports.http, ports.grpc, ports.metrics, None}) == 4
    assert Ports.choose("127.0.0.1", 0).http is None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(SetupError, match=f"127.0.0.1:{number} can't be listened on .*--port"):
            Ports.choose("127.0.0.1", number)


def test_only_what_computes_is_placed_on_the_gpu(tmp_path: Path) -> None:
    folder = chosen_models(Settings(tmp_path, tmp_path, "tensorrt", gpu=2), tmp_path)
    assert sorted(model.name for model in folder.iterdir()) == ["stylize", "stylize_stream"]
    assert "kind: KIND_GPU gpus: [ 2 ]" in (folder / "stylize/config.pbtxt").read_text()
    assert (folder / "stylize/1/model.py").is_file()
    assert (folder / "stylize_stream").is_symlink()


def test_an_engine_that_cannot_be_had_is_refused_before_a_server_starts(bundle: Path, tmp_path: Path) -> None:
    settings = Settings(bundle, tmp_path, "onnxruntime-cuda")
    with pytest.raises(SetupError, match="^engine: this onnxruntime .* has no CUDAExecutionProvider"), serve(settings):
        pass
