"""A pickle's tensors as a safetensors file, by a process of its own: `python -m impasto_export.adapters.pickles`.

Nothing but tensors, numbers, strings and dictionaries is built from the pickle (torch's `weights_only`), in a process
with little memory that is given little time. The one who asks reads safetensors, and one line of why there is none.
"""

from __future__ import annotations

import importlib.util
import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from impasto_export.errors import AdapterError
from impasto_export.weights import Header, read_header

# How a file begins that torch saved: an archive, or a pickle of the protocols 2 to 5.
ARCHIVE, PICKLE, PROTOCOLS = b"PK\x03\x04", 0x80, range(2, 6)
# A small embedding may lie in a file with the whole vocabulary it is a slice of.
MAX_BYTES = 1 << 30
MEMORY_BYTES = 4 << 30
PATIENCE_S = 120
# A dictionary in the dictionary: `string_to_param/*`.
SEPARATOR = "/"
SCALARS = "scalars"
FORBIDDEN = re.compile(r"GLOBAL (\S+)")
REFUSED = 3


class Unusual(Exception):
    """The file is harmless, but no dictionary of tensors."""


def is_pickle(path: Path) -> bool:
    """By its first bytes. Those of a safetensors file, its header's length, may look alike, but a header follows."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
    if len(start) == 9 and start.endswith(b"{") and int.from_bytes(start[:8], "little") <= size - 8:
        return False
    return start.startswith(ARCHIVE) or (len(start) > 1 and start[0] == PICKLE and start[1] in PROTOCOLS)


def read(source: Path, folder: Path) -> Header:
    """The pickle's tensors as a safetensors file in `folder`, nested keys joined by "/"; in the header's metadata,
    `scalars` is JSON of the numbers and strings beside them. Raises AdapterError."""
    if importlib.util.find_spec("torch") is None:
        fix = "install it with `pip install 'impasto[export]'`, or convert the file to safetensors elsewhere"
        raise AdapterError(f"{source} is a pickle, and only torch opens it safely, which is not installed; {fix}")
    if source.stat().st_size > MAX_BYTES:
        raise AdapterError(f"{source} has {source.stat().st_size} bytes; adapters of up to {MAX_BYTES} are read")
    target = folder / "tensors.safetensors"
    command = [sys.executable, "-m", __name__, str(source.resolve()), str(target)]
    try:
        # In that folder, or else a torch.py that happens to lie in the user's would be imported.
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise AdapterError(f"{source} was not read within {PATIENCE_S} s; it is no adapter") from None
    if done.returncode == REFUSED:
        raise AdapterError(f"{source}: {done.stdout.strip()}")
    if done.returncode:
        raise AdapterError(f"{source} cannot be read: its reader ended with status {done.returncode}")
    return read_header(target)


def convert(source: Path, target: Path) -> None:
    """Write `target`. Raises Unusual, and whatever torch raises for a file that is more than tensors."""
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    scalars: dict[str, Any] = {}
    # A ParameterDict runs nothing when it is built. An open file has no suffix, which torch would go by.
    with torch.serialization.safe_globals([torch.nn.ParameterDict]), source.open("rb") as file:
        content = torch.load(file, map_location="cpu", weights_only=True)
    for key, value in _flat(content):
        if isinstance(value, torch.Tensor):
            tensors[key] = value.detach().clone().contiguous()
        elif value is None or isinstance(value, (bool, int, float, str)):
            scalars[key] = value
        else:
            raise Unusual(f"{key!r} is a {type(value).__name__}; tensors, numbers and strings are read")
    save_file(tensors, target, {SCALARS: json.dumps(scalars)})


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise Unusual(f"it holds a {type(value).__name__}, not a dictionary")
    found = []
    for key, item in value.items():
        path, item = f"{prefix}{key}", _plain(item)
        found += _flat(item, path + SEPARATOR) if isinstance(item, dict) and not prefix else [(path, item)]
    return found


def _plain(value: Any) -> Any:
    """A ParameterDict of any torch as a dictionary: of those before 1.12, today's own methods find nothing."""
    from torch.nn import ParameterDict

    return dict(value.named_parameters(recurse=False)) if isinstance(value, ParameterDict) else value


def reason(error: Exception) -> str:
    """In our words: torch's own advise to load the file without the check."""
    forbidden = FORBIDDEN.search(str(error))
    if forbidden:
        return f"refused: this pickle is more than tensors, it asks for {forbidden[1]!r}"
    if isinstance(error, Unusual):
        return f"refused: {error}"
    return f"not a file of tensors that torch reads safely ({type(error).__name__})"


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
