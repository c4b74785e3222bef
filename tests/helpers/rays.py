"""A Ray cluster of this machine alone with the application on it, started and updated as an operator does."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

import httpx

from impasto_gateway.commands import free_port
from impasto_server.stats import INFO

BIN = Path(sys.executable).parent
PATIENCE_S, END_S = 900.0, 15.0
QUIET = {
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
OBJECTS = 100 << 20  # bytes of Ray's object store


@dataclass(frozen=True)
class Fleet:
    """The application. `head` is the pid under which all of Ray's processes are, `serve` is `serve run`."""

    url: str
    address: str
    folder: Path
    args: Mapping[str, Any]
    head: int
    serve: subprocess.Popen[bytes]

    def replicas(self) -> dict[int, int]:
        """The tritonservers by the pids of their replicas; without replicas that are starting."""
        found: dict[int, int] = {}
        for pid in below(self.head):
            if titled(pid).startswith("ray::ServeReplica:impasto:replica"):
                found.update((pid, one) for one in below(pid) if "/tritonserver" in titled(one).partition(" ")[0])
        return found

    def metrics(self) -> dict[str, float]:
        """impasto's counters, summed over the servers."""
        found: dict[str, float] = defaultdict(float)
        for server in self.replicas().values():
            port = titled(server).partition("--metrics-port=")[2].split()[0]
            text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
            for name, value in re.findall(r"^impasto_(\w+){[^}]*} (\S+)$", text, re.MULTILINE):
                if name != INFO:  # which is never still
                    found[name] += float(value)
        return found

    def steady(self) -> dict[str, float]:
        """The metrics once they have stopped changing; servers report them twice a second."""
        seen: dict[str, float] = {}
        now = self.metrics()
        while seen != now:
            time.sleep(1.2)
            seen, now = now, self.metrics()
        return now

    def are_ready(self, count: int) -> bool:
        """Whether so many replicas have a server, and a picture can be had."""
        try:
            return len(self.replicas()) == count and httpx.get(f"{self.url}/ready", timeout=10).status_code == 200
        except (OSError, httpx.HTTPError):
            return False

    def update(self, **args: Any) -> None:
        """Deploy it with other arguments; returns when Ray has taken them."""
        file = written(self.folder, self.url, {**self.args, **args})
        command = [str(BIN / "serve"), "run", "--non-blocking", "--address", self.address, str(file)]
        subprocess.run(command, env={**os.environ, **QUIET}, check=True, capture_output=True, timeout=PATIENCE_S)

    def stop(self) -> None:
        """Ctrl-C; returns when Serve has ended."""
        self.serve.send_signal(signal.SIGINT)
        self.serve.wait(PATIENCE_S)


@contextmanager
def deployed(folder: Path, args: Mapping[str, Any], cores: int = 4) -> Iterator[Fleet]:
    """The application with these arguments. Nothing of it is left afterwards, whatever happens."""
    gcs, http = free_port("127.0.0.1"), free_port("127.0.0.1")
    url, address = f"http://127.0.0.1:{http}", f"127.0.0.1:{gcs}"
    temporary = tempfile.mkdtemp(prefix="ray")  # pytest's paths are too long for Ray's sockets
    start = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=false"),
        *("--port", str(gcs), "--node-ip-address", "127.0.0.1", "--temp-dir", temporary),
        *("--num-cpus", str(cores), "--num-gpus", "0", "--object-store-memory", str(OBJECTS)),
        *("--min-worker-port", "0", "--max-worker-port", "0", "--ray-client-server-port", str(free_port("127.0.0.1"))),
        *("--dashboard-agent-listen-port", "0"),
    ]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        head = stack.enter_context(running(start, folder / "head.log"))
        wait_for(folder / "head.log", "--block", head)
        file = written(folder, url, args)
        # Ctrl-C must work in a background job, too, where a shell lets its children ignore it.
        run = ["env", "--default-signal=INT", str(BIN / "serve"), "run", "--address", address, str(file)]
        serve = stack.enter_context(running(run, folder / "serve.log"))
        yield Fleet(url, address, folder, args, head.pid, serve)


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended, and all that it started; at the latest after PATIENCE_S."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **QUIET})
    watchdog = Timer(PATIENCE_S, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        family = below(process.pid)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        process.kill()
        process.wait()
        end = time.monotonic() + END_S  # in which servers notice that their replicas are gone
        while any(map(titled, family)) and time.monotonic() < end:
            time.sleep(0.1)
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def written(folder: Path, url: str, args: Mapping[str, Any]) -> Path:
    """The file that `serve run` takes: YAML, which JSON is, too."""
    application = {
        "name": "impasto",
        "route_prefix": "/",
        "import_path": "impasto_deploy.ray.app:build",
        "args": dict(args),
    }
    host, _, port = url.removeprefix("http://").partition(":")
    file = folder / "app.yaml"
    file.write_text(json.dumps({"http_options": {"host": host, "port": int(port)}, "applications": [application]}))
    return file


def wait_for(log: Path, words: str, process: subprocess.Popen[bytes]) -> None:
    """Return when the log has these words."""
    while words not in (text := log.read_text()):
        assert process.poll() is None, text[-2000:]
        time.sleep(0.1)


def below(pid: int) -> list[int]:
    """The pids of a process's children, and theirs; by one look at /proc."""
    families: dict[int, list[int]] = defaultdict(list)
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            # "pid (name) state ppid ...": the name may hold anything, so read from its closing bracket on.
            families[int(file.read_text().rpartition(")")[2].split()[1])].append(int(file.parent.name))
    found = list(families[pid])
    for one in found:  # which grows
        found += families[one]
    return found


def titled(pid: int) -> str:
    """The command line of a process, or the title that it gave itself; "" for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
