"""Which tritonserver is taken, and what is refused before it is started."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from impasto_server.errors import SetupError
from impasto_server.ops import tritonserver
from impasto_server.ops.endpoints import Endpoints, Ports, is_loopback
from impasto_server.ops.repository import chosen_models
from impasto_server.ops.serve import Plan, serve
from impasto_server.ops.tritonserver import CURES, PYTHON, STUB, Installation, find
from impasto_server.settings import Settings

CURRENT_RELEASE = CURES[-1][0]


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A folder laid out like /opt/tritonserver of a current image, with a stub for this Python."""
    (tmp_path / "TRITON_VERSION").write_text(f"{CURRENT_RELEASE[0]}.{CURRENT_RELEASE[1]}.0\n")
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
    with pytest.raises(SetupError, match=r"runs Python 3\.1, but this environment is .*; make the environment"):
        find().check()


def test_a_missing_stub_is_refused(system: Path) -> None:
    lacking = Installation(system / "bin/tritonserver", system / "backends", (), system / "none", bundled=False)
    with pytest.raises(SetupError, match="has no Python .* backend"):
        lacking.check()


def test_the_bundled_server_stays_on_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(tritonserver, "SYSTEM", tmp_path)
    with pytest.raises(SetupError, match="on loopback"), serve(Settings(tmp_path, tmp_path), host="0.0.0.0"):
        pass


def test_a_current_release_may_listen_anywhere(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(system / "bin"))
    assert (find().release, find().flaws) == (CURRENT_RELEASE, "")
    with pytest.raises(SetupError, match="^bundle: "), serve(Settings(system, system), host="0.0.0.0"):
        pass


@pytest.mark.parametrize(
    ("said", "flaw"),
    [
        ("2.58.0", "is Triton 2.58, which has CVE-2025-23319"),
        ("2.66.1", "is Triton 2.66, which has CVE-2026-24206"),
        ("2.70.0", "which has other flaws in the bulletins up to 26.07 \\(fixed in image 26.07\\)"),
        ("", "doesn't say which release it is"),
    ],
)
def test_an_old_release_stays_on_loopback(said: str, flaw: str, system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (system / "TRITON_VERSION").write_text(said)
    monkeypatch.setenv("PATH", str(system / "bin"))
    with pytest.raises(SetupError, match=f"^host: 0.0.0.0 .* {flaw}.*on loopback"):
        Plan.of(Settings(system, system), Endpoints(Ports("0.0.0.0", 1, 2)))
    with pytest.raises(SetupError, match="^bundle: "):
        Plan.of(Settings(system, system), Endpoints(Ports("127.0.0.1", 1, 2)))


def test_an_image_may_say_its_release_in_a_variable(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (system / "TRITON_VERSION").unlink()
    monkeypatch.setenv("PATH", str(system / "bin"))
    monkeypatch.setenv("TRITON_SERVER_VERSION", "2.61.0")
    assert find().release == (2, 61)


def test_loopback_is_told_from_other_addresses() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "localhost", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"))


def test_ports_stand_side_by_side_or_are_free_ones() -> None:
    ports = Ports.choose("127.0.0.1", 0, http=True)
    assert len({ports.http, ports.grpc, ports.metrics, None}) == 4
    assert Ports.choose("127.0.0.1", 0).http is None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(SetupError, match=f"127.0.0.1:{number} can't be bound .*--port"):
            Ports.choose("127.0.0.1", number)


def test_only_what_computes_is_placed_on_the_gpu(tmp_path: Path) -> None:
    folder = chosen_models(Settings(tmp_path, tmp_path, "tensorrt", gpu=2), tmp_path)
    assert sorted(model.name for model in folder.iterdir()) == ["catalogue", "gate", "stylize", "stylize_stream"]
    assert "kind: KIND_GPU gpus: [ 2 ]" in (folder / "stylize/config.pbtxt").read_text()
    assert (folder / "stylize/1/model.py").is_file()
    assert (folder / "stylize_stream").is_symlink()


def test_an_engine_that_cannot_be_had_is_refused_before_a_server_starts(bundle: Path, tmp_path: Path) -> None:
    settings = Settings(bundle, tmp_path, "onnxruntime-cuda")
    with pytest.raises(SetupError, match="^engine: this onnxruntime .* has no CUDAExecutionProvider"), serve(settings):
        pass
