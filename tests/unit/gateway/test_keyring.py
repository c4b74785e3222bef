"""Keys at rest: lines of hashes, read again when the file changes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from impasto_gateway.callers import Allowance, Caller
from impasto_gateway.keyring import BadKey, Key, Keys, append, digest, made
from impasto_gateway.settings import GatewaySettings
from tests.helpers.doorway import key_in

HASH = f"sha256:{'0' * 64}"


def keys_of(file: Path) -> Keys:
    return Keys.of(GatewaySettings(urls=(), keys=file), {})


def test_a_key_is_kept_as_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    secret = key_in(file, "studio", "generate", "adapters")
    assert re.fullmatch(r"impasto_[\w-]{43}", secret)
    assert secret not in file.read_text()
    assert digest(secret) in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert keys_of(file).caller(secret) == Caller("studio", frozenset({"generate", "adapters"}))


def test_two_keys_are_different() -> None:
    caller = Caller("studio", frozenset({"generate"}))
    assert made(caller)[0] != made(caller)[0]


def test_a_line_says_what_it_was_made_of() -> None:
    limits = Allowance(requests_per_minute=60, pixels_per_minute=0, concurrent=4)
    key = Key(Caller("studio", frozenset({"adapters", "generate"}), limits), "0" * 64)
    assert key.line() == f"studio {HASH} roles=generate,adapters requests_per_minute=60 concurrent=4"
    assert Key.of(key.line()) == key
    assert "0000" not in repr(key)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("../studio " + HASH, "'../studio' is no name"),
        ("studio", "after the name comes sha256:"),
        ("studio impasto_secret", "after the name comes sha256:"),
        (f"studio {HASH[:-1]}", "after the name comes sha256:"),
        (f"studio {HASH} roles=root", "unknown role"),
        (f"studio {HASH} roles=", "unknown role"),
        (f"studio {HASH} concurrent=-1", "concurrent=-1 is no whole number"),
        (f"studio {HASH} concurrent=1 concurrent=2", "can't stand here"),
        (f"studio {HASH} colour=red", "can't stand here"),
    ],
)
def test_a_line_that_is_no_key(line: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# keys\n\n{line}\n")
    with pytest.raises(BadKey, match=r"keys: line 3: .*") as refused:
        keys_of(file)
    assert problem in str(refused.value)


def test_comments_and_empty_lines(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# who may paint\n\n  studio   sha256:{digest('secret')} # until May\n")
    found = keys_of(file).caller("secret")
    assert found is not None
    assert found.name == "studio"


def test_two_keys_of_one_name(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key_in(file, "studio")
    with pytest.raises(BadKey, match="has a key of this name"):
        append(file, Key(Caller("studio", frozenset({"generate"})), "1" * 64))
    file.write_text(f"one {HASH}\ntwo {HASH}\n")
    with pytest.raises(BadKey, match="line 2: two: there are two of this name, or of this hash"):
        keys_of(file)


def test_a_last_line_without_an_end_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"one {HASH}")
    key_in(file, "two")
    assert file.read_text().splitlines()[0] == f"one {HASH}"
    assert len(file.read_text().splitlines()) == 2


def test_a_key_is_withdrawn_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    first, second = key_in(file, "first"), key_in(file, "second")
    keys = keys_of(file)
    assert keys.caller(first)
    assert keys.caller(second)
    file.write_text(file.read_text().splitlines()[1] + "\n")
    assert keys.caller(first) is None
    assert keys.caller(second)
    third = key_in(file, "third")
    assert keys.caller(third)


def test_what_breaks_later_lets_nobody_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    good = key_in(file, "good")
    keys = keys_of(file)
    file.write_text(file.read_text() + "broken sha256:12\n")
    assert keys.caller(good)
    assert "line 2: broken" in caplog.text
    assert "lets nobody in" in caplog.text
    file.unlink()
    assert keys.caller(good) is None
    assert "nobody is let in" in caplog.text
    again = key_in(file, "again")
    assert keys.caller(again)


def test_keys_of_the_environment() -> None:
    lines = f"one sha256:{digest('1')};two sha256:{digest('2')} roles=adapters\nthree sha256:{digest('3')}"
    keys = Keys.of(GatewaySettings(urls=()), {"IMPASTO_KEYS": lines})
    found = [keys.caller(secret) for secret in "1234"]
    assert [caller and caller.name for caller in found] == ["one", "two", "three", None]


def test_an_empty_variable_lets_nobody_in() -> None:
    keys = Keys.of(GatewaySettings(urls=()), {"IMPASTO_KEYS": ""})
    assert keys.are_asked_for
    assert keys.caller("") is None


def test_without_keys_nobody_is_asked() -> None:
    assert not Keys.of(GatewaySettings(urls=()), {}).are_asked_for
