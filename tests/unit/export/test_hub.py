"""A checkpoint by its repository's name: out of the hub's cache, offline; and what is said when it can't be had."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import pytest
import typer
from huggingface_hub import constants, errors
from typer.testing import CliRunner

from impasto_export import cli, manifest
from impasto_export.checkpoints import hub, resolve
from impasto_export.checkpoints.checkpoint import Said
from impasto_export.errors import CheckpointError
from impasto_export.link import link
from tests.helpers.stored import values

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/some-model"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's client, and no network."""
    folder = tmp_path / "home" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def keep(cache: Path, checkpoint: Path, ref: str = "main") -> Path:
    """Put a checkpoint into the cache as the client does: blobs by their content, and a snapshot of links to them."""
    repository = cache / f"models--{REPO.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    for file in (path for path in checkpoint.rglob("*") if path.is_file()):
        data, link_ = file.read_bytes(), snapshot / file.relative_to(checkpoint)
        large = file.suffix == ".safetensors"  # by the sha256 that LFS knows, others by git's sha1
        blob = repository / "blobs" / (hashlib.sha256 if large else hashlib.sha1)(data).hexdigest()
        for folder in (blob.parent, link_.parent):
            folder.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link_.symlink_to(blob)
    (snapshot / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (repository / "refs").mkdir()
    (repository / "refs" / ref).write_text(COMMIT)
    return snapshot


@pytest.mark.parametrize("name", [REPO, f"{REPO}@main", f"{REPO}@{COMMIT}"])
def test_is_linked_out_of_the_cache(name: str, cache: Path, checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    snapshot = keep(cache, checkpoint)
    made = link(name, tmp_path / "bundle")
    record = manifest.load(made.folder)
    assert values(made.folder) == values(bundle)
    assert record["name"] == "some-model"
    assert record["source"] == {"checkpoint": REPO, "repo": REPO, "revision": COMMIT}
    blob = (snapshot / "unet" / "diffusion_pytorch_model.safetensors").resolve()
    assert (made.folder / "unet.safetensors").samefile(blob)
    assert record["weights"] == manifest.load(bundle)["weights"]
    assert record["weights"]["unet.safetensors"]["sha256"] == blob.name


def test_another_revision_is_another_bundle(cache: Path, checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    keep(cache, checkpoint, ref="v2")
    assert link(f"{REPO}@v2", tmp_path / "bundle").digest != manifest.load(bundle)["digest"]
    with pytest.raises(
        CheckpointError, match=r"^someone/some-model: not a folder here, not complete in the hub's cache"
    ):
        link(REPO, tmp_path / "bundle")


def test_a_cache_without_the_weights(cache: Path, checkpoint: Path, tmp_path: Path) -> None:
    snapshot = keep(cache, checkpoint)
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no such safetensors of unet are in the hub's cache, and the hub cannot"):
        link(REPO, tmp_path / "bundle")


def test_a_clip_model_is_a_scorer(cache: Path, clip_checkpoint: Path, scorer_bundle: Path, tmp_path: Path) -> None:
    snapshot = keep(cache, clip_checkpoint)
    (snapshot / "model_index.json").unlink()
    app = typer.Typer()
    app.command()(cli.link)
    done = CliRunner().invoke(app, [f"{REPO}@main", "--out", str(tmp_path / "bundle")])
    assert f"{tmp_path / 'bundle'}: bundle some-model " in done.output
    record = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert (record["family"], record["source"]["revision"]) == ("clip", COMMIT)
    assert (tmp_path / "bundle" / "clip.safetensors").samefile((snapshot / "model.safetensors").resolve())
    known = json.loads((scorer_bundle / "manifest.json").read_text())
    assert {key: record[key] for key in ("weights", "files")} == {key: known[key] for key in ("weights", "files")}


def test_the_same_name_as_a_folder_here_is_the_folder(
    cache: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "someone").mkdir()
    (tmp_path / REPO).symlink_to(checkpoint)
    monkeypatch.chdir(tmp_path)
    assert manifest.load(link(REPO, tmp_path / "bundle").folder)["source"] == {"checkpoint": checkpoint.name}


@pytest.mark.parametrize(
    "text", ["one", "a/b/c", "/a/b", "./a", "a/b@", "a b/c", "-/../x", "models/x.safetensors/", "models/x.safetensors"]
)
def test_what_no_repository_is_called(text: str, tmp_path: Path) -> None:
    assert hub.parse(text) is None
    with pytest.raises(CheckpointError, match="there is no such file or folder; give a folder"):
        resolve.checkpoint(text, [], Said())


def refused(kind: type[errors.HfHubHTTPError]) -> errors.HfHubHTTPError:
    return kind("the hub said no\nin many words", response=Mock())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refused(errors.GatedRepoError), "gated; accept its terms on the hub's page, and log in"),
        (refused(errors.RepositoryNotFoundError), "neither a folder here nor a public repository of the hub"),
        (refused(errors.RevisionNotFoundError), "no such revision"),
        (errors.LocalEntryNotFoundError("offline"), "the hub cannot be reached; link it once with network access"),
        (refused(errors.HfHubHTTPError), "the hub's client failed: HfHubHTTPError: the hub said no$"),
        (OSError(28, "No space left on device"), "OSError: .* No space left on device"),
    ],
)
def test_what_the_client_says_becomes_one_sentence(
    error: Exception, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Mock(side_effect=error))
    with pytest.raises(CheckpointError, match=f"^a/b@c: .*{message}"):
        link("a/b@c", tmp_path / "bundle")


def test_no_more_is_fetched_than_is_linked(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configs first; then the variant's weights; then plain ones, but only of the parts that lack the variant."""
    asked: list[list[str]] = []
    folder = shutil.copytree(checkpoint, tmp_path / COMMIT)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    plain = "unet/diffusion_pytorch_model.safetensors"
    (folder / plain).rename(folder / plain.replace("model.", "model.fp16."))

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert (name, revision) == (REPO, COMMIT if asked else None)
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = hub.read(hub.Repository(REPO), Said("fp16"))
    assert [note.partition(" ")[0] for note in found.notes] == ["text_encoder", "vae"]
    _, varied, rest = asked
    assert all("fp16" in pattern and pattern.startswith(("text_encoder/", "unet/", "vae/")) for pattern in varied)
    assert not [pattern for pattern in rest if "fp16" in pattern or pattern.startswith("unet/")]
    assert "vae/diffusion_pytorch_model.safetensors" in rest
