"""A checkpoint by its repository's name, OWNER/REPO[@REVISION]: fetched by huggingface_hub, or found in its cache.

Only what is linked is fetched: configs, tokenizers, and one variant of the weights as safetensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from impasto_export import families
from impasto_export.checkpoints import folders
from impasto_export.checkpoints.checkpoint import Checkpoint, Said
from impasto_export.checkpoints.shards import Names, find
from impasto_export.errors import CheckpointError

# As the hub allows them; of a revision, also a branch with slashes.
NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")
SMALL = ("model_index.json", "*/config.json", "scheduler/scheduler_config.json", "tokenizer*/*", "*.safetensors.index*")


@dataclass(frozen=True)
class Repository:
    """`revision` is a branch, a tag or a commit; None: the hub's default branch."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


def parse(text: str) -> Repository | None:
    """None when it does not look like one."""
    match = NAME.fullmatch(text)
    return Repository(match[1], match[2]) if match else None


def read(repository: Repository, said: Said) -> Checkpoint:
    """Raises CheckpointError when it can neither be fetched nor found, or is not a checkpoint that can be read."""
    folder = fetch(repository, SMALL)
    if not (folder / families.INDEX).is_file():
        fix = "it is not in the diffusers layout; download its .safetensors file, if it has one, and link that"
        raise CheckpointError(f"{repository}: the repository has no {families.INDEX}, so {fix}")
    # The folder is named after the commit, which is what the next calls are to get, too.
    commit = Repository(repository.name, folder.name)
    parts = families.of(folder).parts
    stems = {part: facts.stem for part, facts in parts.items()}
    fetch(commit, _patterns(stems.items(), said.variant))
    lacking = {part: stem for part, stem in stems.items() if not find(folder / part, Names(stem, said.variant))}
    if said.variant and lacking:
        fetch(commit, _patterns(lacking.items(), None))
    absent = [part for part, stem in lacking.items() if not find(folder / part, Names(stem))]
    if absent:
        raise CheckpointError(f"{repository}: {_absence(commit, absent)}")
    found = folders.read(folder, said)
    source = {"checkpoint": repository.name, "repo": repository.name, "revision": folder.name}
    return replace(found, name=repository.name.rpartition("/")[2], source=source)


def _absence(commit: Repository, parts: Sequence[str]) -> str:
    """What to say when no safetensors of these parts could be had."""
    from huggingface_hub import HfApi

    wanted = f"no such safetensors of {', '.join(parts)} are"
    try:
        files = HfApi().list_repo_files(commit.name, revision=commit.revision)
    except Exception:  # of its HTTP client, whichever it is
        return f"{wanted} in the hub's cache, and the hub cannot be reached; link it once with network access"
    held = [name for name in files if name.startswith(tuple(f"{part}/" for part in parts))]
    return (
        f"{wanted} in the repository, which holds {', '.join(held) or 'nothing of them'}; choose --variant accordingly"
    )


def _patterns(stems: Iterable[tuple[str, str]], variant: str | None) -> list[str]:
    return [f"{part}/{pattern}" for part, stem in stems for pattern in Names(stem, variant).patterns]


def fetch(repository: Repository, patterns: Iterable[str]) -> Path:
    """The snapshot's folder, which has the repository's files of these patterns, maybe among others."""
    # Not needed where checkpoints are folders.
    from huggingface_hub import snapshot_download

    with _explained(repository):
        return Path(snapshot_download(repository.name, revision=repository.revision, allow_patterns=list(patterns)))


@contextmanager
def _explained(repository: Repository) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        problem = "gated; accept its terms on the hub's page, and log in with `hf auth login`"
    except errors.RepositoryNotFoundError:
        problem = (
            "neither a folder here nor a repository of the hub; or it is private, then log in with `hf auth login`"
        )
    except errors.RevisionNotFoundError:
        problem = "the repository has no such revision; name a branch, a tag or a commit of it"
    except errors.LocalEntryNotFoundError:
        fix = "link it once with network access (and without HF_HUB_OFFLINE), or give a folder"
        problem = f"not a folder here, nor wholly in the hub's cache, and the hub cannot be reached; {fix}"
    except Exception as error:  # of its HTTP client, whichever it is, or of the disk
        problem = f"the hub's client failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    else:
        return
    raise CheckpointError(f"{repository}: {problem}")
