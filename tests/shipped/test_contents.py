"""The wheel holds what the packages are made of, and nothing else; a source distribution makes the same wheel."""

from __future__ import annotations

import tarfile
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

from impasto_client.commit import of_checkout

from .conftest import PROJECT, ROOT, Built, build

# Where in a wheel the folders of the repository lie.
FOLDERS = {
    "clients/impasto_client": "impasto_client",
    "export/impasto_export": "impasto_export",
    "export/impasto_fit": "impasto_fit",
    "model_repository": "impasto_server/model_repository",
    "server/impasto_gateway": "impasto_gateway",
    "server/impasto_server": "impasto_server",
}
RECORD = "impasto_client/commit.txt"


def files() -> set[str]:
    """What is to be in a wheel beside what describes it."""
    found = {
        f"{inside}/{path.relative_to(ROOT / folder)}"
        for folder, inside in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    return found | ({RECORD} if commit() else set())


def commit() -> str:
    """That of the checkout, "" for a folder that is none."""
    return of_checkout(ROOT) or ""


def test_a_wheel_has_every_file_of_the_packages_and_no_other(built: Built) -> None:
    with ZipFile(built.wheel) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        described = set(wheel.namelist()) - held
    assert held == files()
    assert {Path(name).name for name in described} == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "LICENSE"}


def test_what_is_no_python_is_among_them() -> None:
    """Or the test above could hold one empty set against another."""
    for name in (
        "impasto_export/graphs/sdxl/unet.onnx",
        "impasto_export/checkpoints/vocabulary/clip_merges.txt.gz",
        "impasto_server/model_repository/stylize/config.pbtxt",
        "impasto_server/model_repository/stylize/1/model.py",
        "impasto_client/py.typed",
        "impasto_gateway/static/page.js",
    ):
        assert name in files()


def test_its_version_and_its_commit(built: Built) -> None:
    with ZipFile(built.wheel) as wheel:
        told = message_from_bytes(wheel.read(f"impasto-{PROJECT['version']}.dist-info/METADATA"))
        assert told["Version"] == PROJECT["version"]
        assert not commit() or wheel.read(RECORD).decode().strip() == commit()


def test_a_source_distribution_makes_the_same_wheel(built: Built, tmp_path: Path) -> None:
    """Outside a checkout, where git has nothing to say."""
    with tarfile.open(built.sdist) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    build(source, tmp_path / "dist", "wheel")
    (again,) = (tmp_path / "dist").iterdir()
    assert contents(again) == contents(built.wheel)


def contents(wheel: Path) -> dict[str, bytes]:
    """But for the record, which has all of them with their hashes in the order in which they were met."""
    with ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist() if not name.endswith(".dist-info/RECORD")}


def test_documents_are_in_a_source_distribution_and_weights_are_not(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "docs/operating.md"} <= held
    assert not [name for name in held if name.endswith(".safetensors")]
