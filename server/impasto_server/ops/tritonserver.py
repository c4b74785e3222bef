"""The tritonserver installation: where the binary is, and what it needs to run Python models in this environment."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from impasto_server.errors import SetupError

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
STUB = "triton_python_backend_stub"
SYSTEM = Path("/opt/tritonserver")


Release = tuple[int, int]  # the server's, 2.NN; NVIDIA's images are named after year and month

BUNDLED: Release = (2, 51)  # in nvidia-pytriton 0.7.0, which doesn't say so
# From NVIDIA's security bulletins, what matters most to a server of Python models. The last entry is current enough.
CURES: tuple[tuple[Release, str, str], ...] = (
    ((2, 59), "25.07", "CVE-2025-23319, -23320 and -23334: remote code execution through shared memory"),
    ((2, 67), "26.03", "CVE-2026-24206 and -24207: bypass of the keys of restricted APIs"),
    ((2, 71), "26.07", "other flaws in the bulletins up to 26.07"),
)
CURRENT = CURES[-1][1]


@dataclass(frozen=True)
class Installation:
    """A tritonserver on this machine.

    backends is its backend directory, stub the Python backend's executable for this Python, which may lie elsewhere.
    libraries go onto LD_LIBRARY_PATH. A bundled one comes from nvidia-pytriton: an old release with known CVEs, only
    for development on loopback. release is None where it is unknown.
    """

    binary: Path
    backends: Path
    libraries: tuple[Path, ...]
    stub: Path
    bundled: bool
    release: Release | None = None

    @property
    def source(self) -> str:
        """Where the installation comes from, in words."""
        return f"nvidia-pytriton {importlib.metadata.version('nvidia-pytriton')}" if self.bundled else "system"

    @property
    def flaws(self) -> str:
        """The known flaws of its release, completing the sentence "it …"; empty if there are none."""
        if self.release is None:
            return "doesn't say which release it is"
        lacking = [f"{what} (fixed in image {image})" for fixed, image, what in CURES if self.release < fixed]
        return f"is Triton {self.release[0]}.{self.release[1]}, which has {'; '.join(lacking)}" if lacking else ""

    def prepare(self, workspace: Path) -> Path:
        """A backend directory to start with; made of links in `workspace` where the stub lies elsewhere.

        Raises SetupError when the Python backend can't run this Python.
        """
        self.check()
        if not self.bundled:
            return self.backends
        folder = workspace / "backends" / "python"
        folder.mkdir(parents=True)
        for file in [*(self.backends / "python").glob("*.*"), self.stub]:
            (folder / file.name).symlink_to(file)
        return folder.parent

    def check(self) -> None:
        """Raise SetupError unless the stub exists, is built for this Python, and can load libpython."""
        if not self.stub.exists():
            raise SetupError(
                f"{self.source} tritonserver has no Python {PYTHON} backend ({self.stub}); {_OTHER_PYTHON}"
            )
        built_for = re.search(rb"libpython(\d+\.\d+)\.so", self.stub.read_bytes())
        if built_for and built_for[1].decode() != PYTHON:
            raise SetupError(
                f"{self.stub} runs Python {built_for[1].decode()}, but this environment is {PYTHON}; {_OTHER_PYTHON}"
            )
        if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
            raise SetupError(
                f"Python {PYTHON} at {sys.base_prefix} has no shared libpython, which the Python backend embeds; "
                "use a Python built with --enable-shared (a distribution's, or the official images')"
            )

    def environment(self) -> dict[str, str]:
        """PATH and LD_LIBRARY_PATH under which the stub finds this Python and its packages."""
        paths = [Path(sys.executable).parent, os.environ.get("PATH", "")]
        libraries = [sysconfig.get_config_var("LIBDIR"), *self.libraries, os.environ.get("LD_LIBRARY_PATH", "")]
        return {"PATH": _joined(paths), "LD_LIBRARY_PATH": _joined(libraries)}


_OTHER_PYTHON = "make the environment with a Python version that has a backend"


def find() -> Installation:
    """The tritonserver to use: on PATH, else in /opt/tritonserver, else nvidia-pytriton's. Raises SetupError."""
    on_path = shutil.which("tritonserver")
    candidates = [Path(on_path).resolve()] if on_path else []
    for binary in [*candidates, SYSTEM / "bin/tritonserver"]:
        if binary.exists():
            backends = binary.parent.parent / "backends"
            return Installation(binary, backends, (), backends / "python" / STUB, False, _release(backends.parent))
    return _bundled()


def _bundled() -> Installation:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise SetupError("there is no tritonserver on this machine; run: pip install 'impasto[server]'")
    root = Path(spec.origin).parent / "tritonserver"
    return Installation(
        binary=root / "bin/tritonserver",
        backends=root / "backends",
        libraries=(root.parent.parent / "nvidia_pytriton.libs",),
        stub=root / "python_backend_stubs" / PYTHON / STUB,
        bundled=True,
        release=BUNDLED,
    )


def _release(root: Path) -> Release | None:
    """The release, which NVIDIA's images say in a file and in a variable."""
    file = root / "TRITON_VERSION"
    text = file.read_text() if file.is_file() else os.environ.get("TRITON_SERVER_VERSION", "")
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _joined(paths: Sequence[object]) -> str:
    return os.pathsep.join(str(path) for path in paths if str(path))
