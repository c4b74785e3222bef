"""Real servers on free loopback ports: one on the toy backbone, one on the studio's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient  # type: ignore[import-untyped]

from impasto_server.ops.process import children
from impasto_server.ops.serve import Server, serve
from impasto_server.settings import Settings
from tests.helpers import toy

PATIENCE_S = 180.0
ROOT = Path(__file__).parents[2]
IMPASTO = str(Path(sys.executable).parent / "impasto")


@dataclass(frozen=True)
class Impasto:
    """`impasto serve`, ready: its process, what it has printed by then, and the pids of what runs under it."""

    process: subprocess.Popen[str]
    ready: str
    guardian: int
    server: int
    stubs: list[int]

    @property
    def pids(self) -> list[int]:
        return [self.guardian, self.server, *self.stubs]

    @property
    def url(self) -> str:
        return self.ready.split()[2]

    def line(self, start: str) -> str:
        """The next that begins so."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith(start):
                return line
        raise AssertionError(f"it ended without a line that begins with {start!r}")


@contextmanager
def impasto_serve(command: Sequence[str]) -> Iterator[Impasto]:
    """It is killed when it isn't wanted any more, or has taken too long."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        watchdog = Timer(PATIENCE_S, process.kill)
        watchdog.start()
        try:
            told: list[str] = []
            while not (told and told[-1].startswith("ready")):
                told.append(line := process.stderr.readline())
                assert line, f"it ended before it was ready, after: {''.join(told[-20:])}"
            ready = told[-1]
            (guardian,) = (pid for pid in children(process.pid) if children(pid))
            (server,) = children(guardian)
            yield Impasto(process, ready, guardian, server, children(server))
        finally:
            watchdog.cancel()
            process.kill()


def shm_of(pid: int) -> list[Path]:
    """Shared memory regions of servers that process `pid` started."""
    return list(Path("/dev/shm").glob(f"impasto_{pid}_*"))


def alive(pid: int) -> bool:
    """A zombie is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def command(toy_bundle: Path, toy_registry: Path) -> list[str]:
    """That serves the toy."""
    folders = ["--bundle", str(toy_bundle), "--registry", str(toy_registry)]
    return [IMPASTO, "serve", *folders, "--engine", "onnxruntime", "--threads", "1", "--port", "0"]


@pytest.fixture
def settings(toy_bundle: Path, toy_registry: Path) -> Settings:
    """Of a server on the toy."""
    return Settings(toy_bundle, toy_registry, "onnxruntime", "f32", threads=1)


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture(scope="session")
def toy_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters and embeddings that work, and one of each kind that must be refused."""
    folder = tmp_path_factory.mktemp("toy") / "registry"
    whole = toy.adapter_bytes(1)
    toy.register(folder, "stained-glass", whole)
    toy.register(folder, "neon", toy.adapter_bytes(2, rank=3))
    toy.register(folder, "sks03", toy.embedding_bytes(3))
    toy.register(folder, "sks05", toy.embedding_bytes(5, places=2))
    toy.register(folder, "my-toy", toy.embedding_bytes(6, stages=1))
    toy.register(folder, "wide", toy.embedding_bytes(width=toy.WIDTH + 4))
    toy.register(folder, "truncated", whole[:-8])
    toy.register(folder, "nan", toy.adapter_bytes(unet__mix__B=np.full((2, toy.CHANNELS), np.nan, np.float32)))
    toy.register(folder, "book", toy.adapter_bytes(header={"prompt": "\N{ROCKET}" * 3000}))
    toy.register(folder, "foreign", whole.replace(b"a" * 64, b"b" * 64))
    return folder


@pytest.fixture(scope="session")
def toy_server(toy_bundle: Path, toy_registry: Path) -> Iterator[Server]:
    with serve(Settings(toy_bundle, toy_registry, "onnxruntime", "f32", threads=1)) as server:
        yield server


@pytest.fixture(scope="session")
def toy_client(toy_server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(toy_server.grpc_url) as client:
        yield client


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The studio's checkpoint, linked as a user would."""
    folder = tmp_path_factory.mktemp("studio") / "bundle"
    subprocess.run([IMPASTO, "link", str(ROOT / "studio/mini-diffusion"), "--out", str(folder)], check=True)
    return folder


@pytest.fixture(scope="session")
def styles() -> dict[str, Path]:
    """The studio's adapters, in the layouts their trainer saved them in."""
    files = [file for kind in ("styles", "objects") for file in (ROOT / "studio" / kind).glob("*/*.safetensors")]
    return {file.parent.name: file.parent for file in sorted(files)}


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory, bundle: Path, styles: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("studio") / "registry"
    for name, file in styles.items():
        options = ["--name", name, "--bundle", str(bundle), "--registry", str(folder)]
        subprocess.run([IMPASTO, "adapters", "import", str(file), *options], check=True)
    return folder


@pytest.fixture(scope="session")
def studio_server(bundle: Path, registry: Path) -> Iterator[Server]:
    with serve(Settings(bundle, registry)) as server:
        yield server
