"""A tritonserver on our model repository, watched while it runs and gone without a trace when it stops.

with serve(settings) as server:
    ...  # gRPC clients talk to server.grpc_url
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

from impasto_server.bundle import Bundle
from impasto_server.calibration import Calibration
from impasto_server.engines.engine import check
from impasto_server.errors import SetupError
from impasto_server.process import children, is_child, kill_group, start_tied
from impasto_server.score import ScorerBundle
from impasto_server.settings import ON_GPU, Settings
from impasto_server.tritonserver import Installation, find

MODELS = ("stylize", "stylize_stream")
SCORE = "clip_score"  # with a scorer alone
COMPUTING = ("stylize", SCORE)  # the other passes on
ON_CPU = "instance_group [ { count: 1 kind: KIND_CPU } ]"
LOOPBACK = ("127.0.0.1", "localhost")
DRAIN_S = 30  # how long requests in flight may take once the server is told to stop
TAIL_LINES = 30


class ServerDied(Exception):
    """The server, or the Python process that runs its model, ended without being asked to."""


@dataclass(frozen=True)
class Ports:
    """Where the three endpoints listen, on one host."""

    host: str
    http: int
    grpc: int
    metrics: int

    @classmethod
    def choose(cls, host: str, grpc: int) -> Ports:
        """gRPC on `grpc`, HTTP below and metrics above it, as Triton has it; 0 picks free ones. Raises SetupError."""
        with ExitStack() as held:
            wanted = [0, 0, 0] if grpc == 0 else [grpc - 1, grpc, grpc + 1]
            http, grpc, metrics = [_free_port(held, host, port) for port in wanted]
        return cls(host, http, grpc, metrics)


@dataclass
class Server:
    """A running tritonserver. Made by `serve`."""

    process: subprocess.Popen[str]
    ports: Ports
    on_log: Callable[[str], None]
    shm_prefix: str
    stubs: list[int] = field(default_factory=list)
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))

    def __post_init__(self) -> None:
        self._reader = Thread(target=self._read_log, name="triton-log", daemon=True)
        self._reader.start()

    @property
    def grpc_url(self) -> str:
        """host:port, as gRPC clients want it."""
        return f"{self.ports.host}:{self.ports.grpc}"

    @property
    def http_url(self) -> str:
        """http://host:port."""
        return f"http://{self.ports.host}:{self.ports.http}"

    def wait_ready(self, timeout_s: float) -> None:
        """Return once every model is loaded. Raises SetupError, with the log's end, when that doesn't come about."""
        deadline = monotonic() + timeout_s
        while not self._is_ready():
            if self.process.poll() is not None:
                self._reader.join(5)
                raise SetupError(f"the server did not start; the end of its log:\n{self._tail_text()}")
            if monotonic() > deadline:
                raise SetupError(
                    f"the server was not ready after {timeout_s:g} s; its log so far:\n{self._tail_text()}"
                )
            sleep(0.1)
        self.stubs = children(self.process.pid)

    def check(self) -> None:
        """Raise ServerDied unless the server and the processes that run its models are alive."""
        # Triton itself goes on reporting ready when the process that runs a Python model is gone.
        gone = [pid for pid in self.stubs if not is_child(pid, self.process.pid)]
        if gone:  # perhaps of a server that dies: its children seem gone a moment before it is dead itself
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.5)
        if self.process.poll() is not None:
            self._reader.join(5)
            raise ServerDied(f"tritonserver ended with status {self.process.returncode}:\n{self._tail_text()}")
        if gone:
            raise ServerDied(
                f"the Python process of a model (pid {gone[0]}) is gone; its memory or its log may say why"
            )

    def stop(self) -> None:
        """End it: in order when it works, by force when it doesn't; nothing is left running or in /dev/shm."""
        try:
            self.check()
        except ServerDied:
            kill_group(self.process.pid)
        if not self.stubs:  # never became ready: nothing is in flight
            kill_group(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(DRAIN_S + 10)
        kill_group(self.process.pid)
        self.process.wait()
        self._reader.join(5)
        for region in Path("/dev/shm").glob(f"{self.shm_prefix}*"):
            region.unlink(missing_ok=True)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.http_url}/v2/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def _read_log(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.on_log(line.rstrip())
                if line[0] not in "|+\n":  # Triton's tables
                    self.tail.append(line.rstrip().replace("\\n", "\n"))

    def _tail_text(self) -> str:
        return "\n".join(self.tail)


@contextmanager
def serve(
    settings: Settings,
    *,
    host: str = LOOPBACK[0],
    port: int = 0,
    on_log: Callable[[str], None] = lambda line: None,
    ready_timeout_s: float = 300.0,
) -> Iterator[Server]:
    """Start a server, wait until it is ready, and stop it on the way out.

    port is gRPC's; 0 picks free ones. on_log gets every line of the server's log, from another thread. Call it from a
    thread that outlives the server. Raises SetupError when the server can't start.
    """
    installation = find()
    if installation.bundled and host not in LOOPBACK:
        raise SetupError(
            f"host {host}: the tritonserver of nvidia-pytriton has known CVEs and stays on loopback; "
            "serve from NVIDIA's current Triton image, or put a proxy in front"
        )
    settings = _resolved(settings)
    # The models would say the same, but out of the depths of a log.
    Calibration.read(Bundle.open(settings.bundle))
    if settings.scorer:
        ScorerBundle.open(settings.scorer)
    check(settings)
    ports = Ports.choose(host, port)
    workspace = Path(tempfile.mkdtemp(prefix="impasto-"))
    try:
        server = _start(installation, settings, ports, workspace, on_log)
        try:
            server.wait_ready(ready_timeout_s)
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(workspace)


def _resolved(settings: Settings) -> Settings:
    """Its paths as another process sees them."""
    found = {field: getattr(settings, field) for field in ("bundle", "registry", "scorer", "cache_dir")}
    return replace(settings, **{field: path and path.resolve() for field, path in found.items()})


def model_repository() -> Path:
    """Our Triton models: inside the package when installed, at the repository's root in an editable install."""
    package = Path(__file__).parent
    shipped = package / "model_repository"
    return shipped if shipped.exists() else package.parent.parent / "model_repository"


def _chosen_models(settings: Settings, workspace: Path) -> Path:
    """A repository of those models that these settings make a server of, linked together in `workspace`.

    Triton could be told their names, but only in a mode in which its clients may unload them.
    """
    folder = workspace / "models"
    folder.mkdir()
    for name in (*MODELS, SCORE) if settings.scorer else MODELS:
        if settings.engine in ON_GPU and name in COMPUTING:
            _place_on_gpu(model_repository() / name, folder / name, settings.gpu)
        else:
            (folder / name).symlink_to(model_repository() / name)
    return folder


def _place_on_gpu(model: Path, copy: Path, gpu: int) -> None:
    """`model`, linked, but for the instance that its config asks for."""
    copy.mkdir()
    (copy / "1").symlink_to(model / "1")
    (copy / "config.pbtxt").write_text(on_gpu((model / "config.pbtxt").read_text(), gpu))


def on_gpu(config: str, gpu: int) -> str:
    """config.pbtxt of a model whose instance computes on that GPU."""
    assert config.count(ON_CPU) == 1
    return config.replace(ON_CPU, f"instance_group [ {{ count: 1 kind: KIND_GPU gpus: [ {gpu} ] }} ]")


def _start(
    installation: Installation, settings: Settings, ports: Ports, workspace: Path, on_log: Callable[[str], None]
) -> Server:
    shm_prefix = f"impasto_{os.getpid()}_{secrets.token_hex(4)}_"
    command = [
        str(installation.binary),
        f"--model-repository={_chosen_models(settings, workspace)}",
        f"--backend-directory={installation.prepare(workspace)}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",  # would start a Python process of its own to ask what config.pbtxt says
        f"--exit-timeout-secs={DRAIN_S}",
        f"--http-address={ports.host}",
        f"--http-port={ports.http}",
        f"--grpc-address={ports.host}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-address={ports.host}",
        f"--metrics-port={ports.metrics}",
        "--log-format=ISO8601",
    ]
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # CUDA then numbers GPUs as nvidia-smi does
    environment = {**os.environ, **installation.environment(), **order, **settings.to_env()}
    return Server(start_tied(command, environment), ports, on_log, shm_prefix)


def _free_port(held: ExitStack, host: str, port: int) -> int:
    """`port`, or for 0 a free one; kept busy until `held` closes, so that the next call can't pick it too."""
    listener = held.enter_context(socket.socket())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise SetupError(f"{host}:{port} can't be listened on ({error.strerror}); pass another --port, or 0") from None
    return int(listener.getsockname()[1])
