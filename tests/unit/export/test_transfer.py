"""Bundles to and from an object store, by the commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL

import pytest

from impasto_client.cli import main
from impasto_export import manifest, transfer
from impasto_export.architecture import canonical_json
from impasto_export.stores import Store
from impasto_export.weights import sha256_file
from tests.helpers import toy
from tests.helpers.stores import BUCKET, WebStore, s3_server, web_store
from tests.helpers.waiting import eventually

PATIENCE_S = 60.0
LARGE = "weights.safetensors"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's, with a file of 8 MiB."""
    folder = toy.write_bundle(tmp_path_factory.mktemp("toy") / "bundle")
    (folder / LARGE).write_bytes(bytes(range(256)) * (8 << 12))
    (folder / "calibration.json").write_text("{}")
    record = json.loads((folder / "manifest.json").read_text())
    record["weights"] = {LARGE: {"sha256": sha256_file(folder / LARGE), "bytes": 8 << 20}}
    (folder / "manifest.json").write_bytes(canonical_json({**record, "digest": manifest.digest(record)}))
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`impasto`: its exit status, and what it prints."""

    def run_(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["impasto", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run_


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in transfer.LEFT_OUT}


def pushed(bundle: Path, web: WebStore, folder: Path) -> None:
    """The bundle on a web server."""
    store = Store.anywhere(str(folder))
    transfer.push(bundle, store, transfer.listed(bundle), lambda nbytes: None)
    web.files.update({path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")})
    web.files.update({f"files/{path.name}": path.read_bytes() for path in (folder / "files").iterdir()})


def large(web: WebStore) -> str:
    """The path of the bundle's large file there."""
    return f"files/{json.loads(web.files['files.json'])['files'][LARGE]['sha256']}"


def test_a_bundle_goes_to_an_s3_and_comes_back(
    run: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        address, out = f"s3://{BUCKET}/bundles/toy", tmp_path / "new" / "bundle"
        status, said, _ = run("push", bundle, address, "--json")
        made = json.loads(said)
        assert (status, made["sent"], made["nbytes"]) == (0, made["nbytes"], sum(map(len, contents(bundle).values())))
        assert json.loads(run("push", bundle, address, "--json")[1])["sent"] == 0
        status, said, _ = run("pull", address, "--out", out, "--json")
        assert (status, json.loads(said)["sent"]) == (0, made["nbytes"])
        assert contents(out) == contents(bundle)
        assert not (out / "calibration.json").exists()
        assert [path.name for path in out.parent.iterdir()] == ["bundle"]
        assert json.loads(run("pull", address, "--out", out, "--json")[1])["sent"] == 0
        (out / LARGE).write_bytes(b"")
        assert run("pull", address, "--out", out)[0] == 0
        assert contents(out) == contents(bundle)


def test_a_folder_does_as_well(run: Run, bundle: Path, tmp_path: Path) -> None:
    status, said, _ = run("push", bundle, tmp_path / "share")
    assert (status, "8.4 MB sent" in said or "MB sent" in said) == (0, True)
    status, said, _ = run("pull", tmp_path / "share", "--out", tmp_path / "bundle")
    assert status == 0
    assert said.startswith(f"{tmp_path / 'bundle'}: ")
    assert contents(tmp_path / "bundle") == contents(bundle)


def test_a_pull_that_was_killed_goes_on_where_it_was(run: Run, bundle: Path, tmp_path: Path) -> None:
    with web_store() as web:
        pushed(bundle, web, tmp_path / "share")
        out, place = tmp_path / "bundle", tmp_path / ".bundle.pull"
        draft = place / f"{Path(large(web)).name}.part"
        web.mode, web.after = "stalls", 6 << 20
        code = "from impasto_client.cli import main; main()"
        command = [sys.executable, "-c", code, "pull", web.address, "--out", str(out)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            eventually(lambda: draft.exists() and draft.stat().st_size >= 4 << 20)
            assert run("pull", tmp_path / "share", "--out", out)[2].endswith("is under way; wait for its end\n")
            process.send_signal(SIGKILL)
        assert not out.exists()
        had = draft.stat().st_size
        web.mode = "fine"
        status, said, _ = run("pull", web.address, "--out", out, "--json")
        moved = json.loads(said)
        assert status == 0
        assert moved["sent"] <= moved["nbytes"] - had
        assert contents(out) == contents(bundle)
        assert not place.exists()


def test_a_damaged_beginning_is_got_again(run: Run, bundle: Path, tmp_path: Path) -> None:
    with web_store() as web:
        pushed(bundle, web, tmp_path / "share")
        place = tmp_path / ".bundle.pull"
        place.mkdir()
        for name, damage in ((Path(large(web)).name, b"?" * 1000), ("0" * 64, b"")):
            (place / f"{name}.part").write_bytes(damage)
        assert run("pull", web.address, "--out", tmp_path / "bundle")[0] == 0
        assert contents(tmp_path / "bundle") == contents(bundle)


def test_wrong_bytes_are_refused_and_what_was_there_stays(run: Run, bundle: Path, tmp_path: Path) -> None:
    with web_store() as web:
        pushed(bundle, web, tmp_path / "share")
        out, path = tmp_path / "bundle", large(web)
        whole = web.files[path]
        assert run("pull", web.address, "--out", out)[0] == 0
        (out / LARGE).write_bytes(b"mine")
        before = contents(out)
        for wrong in (whole[:-1], whole + b"?", whole[:-1] + b"?"):
            web.files[path] = wrong
            status, _, told = run("pull", web.address, "--out", out)
            assert (status, told) == (
                1,
                f"error: {web.address}: {LARGE} has other bytes than files.json says; push the bundle again\n",
            )
            assert contents(out) == before
        del web.files[path]
        assert "is in files.json, but not in the store" in run("pull", web.address, "--out", out)[2]
        web.files[path] = whole
        assert run("pull", web.address, "--out", out)[0] == 0
        assert contents(out) == contents(bundle)


def test_what_a_list_may_not_say(run: Run, bundle: Path, tmp_path: Path) -> None:
    with web_store() as web:
        pushed(bundle, web, tmp_path / "share")
        whole = json.loads(web.files["files.json"])
        entry = whole["files"]["manifest.json"]
        damages = {
            "'../up' is not a file's name": {**whole, "files": {"../up": entry}},
            "'/etc/x' is not a file's name": {**whole, "files": {"/etc/x": entry}},
            r"'a\x00b' is not a file's name": {**whole, "files": {"a\0b": entry}},
            r"'\ud800' is not a file's name": {**whole, "files": {"\ud800": entry}},
            "has no digest or size": {**whole, "files": {"a": {"sha256": "x", "bytes": 1}}},
            "has the format 2": {**whole, "format": 2},
            "is another bundle's": {**whole, "digest": "0" * 64},
            "is not a bundle": {**whole, "files": {}},
        }
        for problem, document in damages.items():
            web.files["files.json"] = json.dumps(document).encode()
            status, _, told = run("pull", web.address, "--out", tmp_path / "bundle")
            assert (status, problem in told) == (1, True), told
        web.files["files.json"] = b"{"
        assert "can't be read" in run("pull", web.address, "--out", tmp_path / "bundle")[2]
        del web.files["files.json"]
        assert "write one with `impasto push`" in run("pull", web.address, "--out", tmp_path / "bundle")[2]
        assert not (tmp_path / "bundle").exists()


def test_what_is_refused_before_anything_is_sent(run: Run, bundle: Path, tmp_path: Path) -> None:
    assert "is not a bundle" in run("push", tmp_path, tmp_path / "share")[2]
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    (damaged / LARGE).write_bytes(b"")
    assert f"{LARGE} isn't what the manifest says; link the bundle again" in run("push", damaged, tmp_path / "share")[2]
    (damaged / LARGE).unlink()
    assert f"{LARGE} is missing" in run("push", damaged, tmp_path / "share")[2]
    assert not (tmp_path / "share" / "files.json").exists()
    assert "can only be read" in run("push", bundle, "https://host/bundle")[2]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("")
    assert run("push", bundle, tmp_path / "share")[0] == 0
    assert "exists and is not a bundle" in run("pull", tmp_path / "share", "--out", tmp_path / "mine")[2]


def test_obstore_may_be_missing(run: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    assert run("push", bundle, tmp_path)[2].endswith("install it with pip install 'impasto[store]'\n")
