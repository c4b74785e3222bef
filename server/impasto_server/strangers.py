"""Reading of untrusted files and JSON: a file's kind and size are checked before a byte of it is read.

Symbolic links are followed, since a registry or a bundle may consist of them; their targets are checked.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


class Unfit(ValueError):
    """A file that is refused, or JSON that can't be read. The message completes the sentence "it …"."""


@contextmanager
def opened(path: Path, most: int) -> Iterator[BinaryIO]:
    """Open a regular file of at most `most` bytes, without waiting for a writer if it is a FIFO.

    Raises Unfit for a larger file or one that isn't regular, and OSError.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise Unfit("is not a regular file")
        if found.st_size > most:
            raise Unfit(f"has {found.st_size} bytes, more than the {most} that it can need")
        yield file


def read_file(path: Path, most: int) -> bytes:
    """The whole file. Raises as `opened`."""
    with opened(path, most) as file:
        return file.read(most)


def read_json(data: bytes | str) -> Any:
    """The JSON value. Raises Unfit for anything else, and for JSON nested too deeply to be read."""
    try:
        return json.loads(data)
    except RecursionError:
        raise Unfit("is nested too deeply") from None
    except ValueError as error:
        raise Unfit(f"is not JSON ({error})") from None
