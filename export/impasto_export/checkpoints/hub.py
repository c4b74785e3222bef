"""Read a checkpoint by its repository's name, OWNER/REPO[@REVISION]: huggingface_hub fetches it, or has it cached.

Only what is linked is fetched: configs, tokenizers, and one variant of the weights as safetensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from impasto_export import families
from impasto_export.architecture import Json
from impasto_export.checkpoints import folders
from impasto_export.checkpoints.checkpoint import Checkpoint, Said
from impasto_export.checkpoints.shards import Names, find
from impasto_export.errors import CheckpointError

# The names that the hub allows; a revision may be a branch with slashes.
NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")
CONFIG = "config.json"
SMALL = ("model_index.json", "*/config.json", "scheduler/scheduler_config.json", "tokenizer*/*", "*.safetensors.index*")
# The same for a repository that holds one model.
TOKENS = ("tokenizer*", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")
BESIDE = (CONFIG, "p*processor_config.json", *TOKENS, "*.safetensors.index*")


@dataclass(frozen=True)
class Repository:
    """A repository of the hub; `revision` is a branch, a tag or a commit, None the default branch."""

    name: str
    revision: str | None = None

    @property
    def label(self) -> str:
        """The name without its owner."""
        return self.name.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


def parse(text: str) -> Repository | None:
    """The repository that `text` names; None when it does not look like one, or is a file's name."""
    match = None if text.endswith(".safetensors") else NAME.fullmatch(text)
    return Repository(match[1], match[2]) if match else None


def read(repository: Repository, said: Said) -> Checkpoint:
    """The repository's checkpoint. Raises CheckpointError when it can neither be fetched nor found in the cache, or
    cannot be read."""
    folder = _opened(repository, SMALL, families.INDEX, "a checkpoint")
    parts = families.of(folder).parts
    _fetch_weights(repository, folder, {f"{part}/": facts.stem for part, facts in parts.items()}, said.variant)
    return replace(folders.read(folder, said), name=repository.label, source=source(repository, folder))


def model(repository: Repository, part: families.Part, variant: str | None) -> Path:
    """The folder of a repository that holds one model alone. Raises CheckpointError as `read` does."""
    folder = _opened(repository, BESIDE, CONFIG, f"a {part.class_name}")
    _fetch_weights(repository, folder, {"": part.stem}, variant)
    return folder


def source(repository: Repository, folder: Path) -> Json:
    """The manifest's entry on its origin. The snapshot's folder is named after the commit."""
    return {"checkpoint": repository.name, "repo": repository.name, "revision": folder.name}


def _opened(repository: Repository, small: Iterable[str], first: str, what: str) -> Path:
    """The folder with the repository's small files, `first` among them."""
    folder = fetch(repository, small)
    if not (folder / first).is_file():
        problem = f"the repository has no {first}, so it is not {what} in the diffusers layout"
        raise CheckpointError(f"{repository}: {problem}; if it has a .safetensors file, download and give that")
    return folder


def _fetch_weights(repository: Repository, folder: Path, stems: Mapping[str, str], variant: str | None) -> None:
    """Fetch weights into `folder`, plain ones where the variant is lacking; `stems`: path prefix -> stem."""
    commit = Repository(repository.name, folder.name)  # that of the small files
    fetch(commit, _patterns(stems, variant))
    lacking = {place: stem for place, stem in stems.items() if not find(folder / place, Names(stem, variant))}
    if variant and lacking:
        fetch(commit, _patterns(lacking, None))
        lacking = {place: stem for place, stem in lacking.items() if not find(folder / place, Names(stem))}
    if lacking:
        raise CheckpointError(f"{repository}: {_absence(commit, [*lacking])}")


def _absence(commit: Repository, places: Sequence[str]) -> str:
    """The error's text when these places have no safetensors."""
    from huggingface_hub import HfApi

    parts = ", ".join(place.removesuffix("/") for place in places)
    wanted = f"no such safetensors{f' of {parts}' if parts else ''} are"
    try:
        files = HfApi().list_repo_files(commit.name, revision=commit.revision)
    except Exception:  # of its HTTP client, whichever it is
        return f"{wanted} in the hub's cache, and the hub cannot be reached; link it once with network access"
    held = [name for name in files if name.startswith(tuple(places))]
    return (
        f"{wanted} in the repository, which holds {', '.join(held) or 'nothing of them'}; choose --variant accordingly"
    )


def _patterns(stems: Mapping[str, str], variant: str | None) -> list[str]:
    return [f"{place}{pattern}" for place, stem in stems.items() for pattern in Names(stem, variant).patterns]


def fetch(repository: Repository, patterns: Iterable[str]) -> Path:
    """The snapshot's folder, with at least the repository's files that match these patterns."""
    # Imported here, since folders don't need it.
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
            "neither a folder here nor a public repository of the hub; if it is private, log in with `hf auth login`"
        )
    except errors.RevisionNotFoundError:
        problem = "the repository has no such revision; name a branch, a tag or a commit of it"
    except errors.LocalEntryNotFoundError:
        fix = "link it once with network access (and without HF_HUB_OFFLINE), or give a folder"
        problem = f"not a folder here, not complete in the hub's cache, and the hub cannot be reached; {fix}"
    except Exception as error:  # of its HTTP client, whichever it is, or of the disk
        problem = f"the hub's client failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    else:
        return
    raise CheckpointError(f"{repository}: {problem}")
