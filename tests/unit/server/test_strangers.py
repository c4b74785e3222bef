from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from impasto_server.strangers import Unfit, read_file, read_json


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_a_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("fifo"))
    path.symlink_to(path.with_name("fifo"))


@pytest.mark.parametrize("made", [fifo, link_to_a_device, link_to_a_fifo])
def test_what_is_no_regular_file_is_refused_without_waiting_for_it(made: type, tmp_path: Path) -> None:
    made(tmp_path / "file")
    with pytest.raises(Unfit, match="^is not a regular file$"):
        read_file(tmp_path / "file", 100)


def test_a_folder_and_a_socket_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path, 100)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match="No such device"):
            read_file(tmp_path / "socket", 100)


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"words")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link", 5) == b"words"


def test_a_size_is_looked_at_before_a_byte_is_read(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(6 << 30)
    with pytest.raises(Unfit, match="^has 6442450944 bytes, more than the 100"):
        read_file(tmp_path / "file", 100)


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b'{"digest"', b"\xff", b"1" * 100_000])
def test_json_that_cannot_be_read_is_one_kind_of_error(text: bytes) -> None:
    with pytest.raises(Unfit, match="^is (nested too deeply|not JSON)"):
        read_json(text)


def test_json_that_can_be_read() -> None:
    assert read_json(b'{"digest": ["\xc3\xa9"]}') == read_json('{"digest": ["é"]}') == {"digest": ["é"]}
