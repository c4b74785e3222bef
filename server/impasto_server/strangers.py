"""What strangers wrote, in files and JSON: its kind and its size are looked at before a byte of it is read.

Symbolic links are followed, since a registry or a bundle may be put together of them; what they lead to is looked at.
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
    """A file that isn't read, or JSON that can't be; the message says why, as in "it {message}"."""


@contextmanager
def opened(path: Path, most: int) -> Iterator[BinaryIO]:
    """A regular file of at most `most` bytes. Opening a FIFO would wait for its writer; this doesn't.

    Raises Unfit for what is larger, or no regular file, and OSError.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise Unfit("is no regular file")
        if found.st_size > most:
            raise Unfit(f"has {found.st_size} bytes, and {most} are the most that it can need")
        yield file


def read_file(path: Path, most: int) -> bytes:
    """All of it. Raises as `opened`."""
    with opened(path, most) as file:
        return file.read(most)


def read_json(data: bytes | str) -> Any:
    """Its value. Raises Unfit for what is no JSON, and for what is nested so deeply that reading it overflows."""
    try:
        return json.loads(data)
    except RecursionError:
        raise Unfit("is nested too deeply") from None
    except ValueError as error:
        raise Unfit(f"is no JSON ({error})") from None
