"""Convert a pickle's tensors to a safetensors file in a separate process: `python -m impasto_export.adapters.pickles`.

Only tensors, numbers, strings and dictionaries are built from the pickle (`torch_files`), and the process has little
memory and little time. The caller reads the safetensors file, or one line that says why there is none.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from impasto_export.adapters import torch_files
from impasto_export.adapters.torch_files import ARCHIVE, Forbidden, Parameters, Tensor
from impasto_export.errors import AdapterError
from impasto_export.weights import Header, encode, read_header

# How torch's files begin that are not archives: a pickle of protocol 2 to 5.
PICKLE, PROTOCOLS = 0x80, range(2, 6)
# Large, since a small embedding may be a slice of a whole vocabulary that is saved with it.
MAX_BYTES = 1 << 30
MEMORY_BYTES = 4 << 30
PATIENCE_S = 120
# Joins the keys of nested dictionaries: `string_to_param/*`.
SEPARATOR = "/"
SCALARS = "scalars"
REFUSED = 3


class Unusual(Exception):
    """The file is harmless, but not a dictionary of tensors."""


def is_pickle(path: Path) -> bool:
    """Whether it is a pickle, by its first bytes. The length that begins a safetensors file may look alike, but then
    the header follows."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
    if len(start) == 9 and start.endswith(b"{") and int.from_bytes(start[:8], "little") <= size - 8:
        return False
    return start.startswith(ARCHIVE) or (len(start) > 1 and start[0] == PICKLE and start[1] in PROTOCOLS)


def read(source: Path, folder: Path) -> Header:
    """The pickle's tensors as a safetensors file in `folder`, nested keys joined by "/"; in the header's metadata,
    `scalars` is JSON of the numbers and strings beside them. Raises AdapterError."""
    if source.stat().st_size > MAX_BYTES:
        raise AdapterError(f"{source} has {source.stat().st_size} bytes; pickles of up to {MAX_BYTES} are read")
    target = folder / "tensors.safetensors"
    command = [sys.executable, "-m", __name__, str(source.resolve()), str(target)]
    try:
        # Run in that folder: a numpy.py in the user's folder would be imported.
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise AdapterError(f"{source} was not read within {PATIENCE_S} s; it is not a file of tensors") from None
    if done.returncode == REFUSED:
        raise AdapterError(f"{source}: {done.stdout.strip()}")
    if done.returncode:
        raise AdapterError(f"{source} cannot be read: its reader ended with status {done.returncode}")
    return read_header(target)


def convert(source: Path, target: Path) -> None:
    """Write `target`. Raises Unusual or Forbidden, and other errors for a file that torch did not save."""
    tensors: dict[str, tuple[str, NDArray[Any]]] = {}
    scalars: dict[str, Any] = {}
    for key, value in _flat(torch_files.read(source)):
        if isinstance(value, Tensor):
            tensors[key] = value.dtype, value.array()
        elif value is None or isinstance(value, (bool, int, float, str)):
            scalars[key] = value
        else:
            raise Unusual(f"{key!r} is a {type(value).__name__}; tensors, numbers and strings are read")
    target.write_bytes(encode(tensors, {SCALARS: json.dumps(scalars)}))


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise Unusual(f"it holds a {type(value).__name__}, not a dictionary")
    found = []
    for key, item in value.items():
        path, item = f"{prefix}{key}", _plain(item)
        found += _flat(item, path + SEPARATOR) if isinstance(item, dict) and not prefix else [(path, item)]
    return found


def _plain(value: Any) -> Any:
    return value.held if isinstance(value, Parameters) else value


def reason(error: Exception) -> str:
    if isinstance(error, Forbidden):
        return f"refused: this pickle is more than tensors, it asks for {str(error)!r}"
    if isinstance(error, Unusual):
        return f"refused: {error}"
    return f"not a file of tensors saved by torch, or damaged ({type(error).__name__})"


def main() -> int:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:
        print(reason(error))
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
