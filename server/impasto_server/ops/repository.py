"""Our Triton models, and those of them that a server has."""

from __future__ import annotations

from pathlib import Path

from impasto_server.settings import ON_GPU, Settings

MODELS = ("stylize", "stylize_stream", "catalogue")
SCORE = "clip_score"  # with a scorer alone
GATE = "gate"  # keeps them while a server stops; no work is done in it
COMPUTING = ("stylize", SCORE)  # the others pass on, and read
ON_CPU = "instance_group [ { count: 1 kind: KIND_CPU } ]"


def model_repository() -> Path:
    """Our Triton models: inside the package when installed, at the repository's root in an editable install."""
    package = Path(__file__).parents[1]
    shipped = package / "model_repository"
    return shipped if shipped.exists() else package.parent.parent / "model_repository"


def working(settings: Settings) -> list[str]:
    """The models of such a server that do its work."""
    return [*MODELS, SCORE] if settings.scorer else [*MODELS]


def chosen_models(settings: Settings, workspace: Path) -> Path:
    """A repository of those models that these settings make a server of, linked together in `workspace`.

    Triton could be told their names, but only in a mode in which its clients may unload them.
    """
    folder = workspace / "models"
    folder.mkdir()
    for name in (*working(settings), GATE):
        if settings.engine in ON_GPU and name in COMPUTING:
            _place_on_gpu(model_repository() / name, folder / name, settings.gpu)
        else:
            (folder / name).symlink_to(model_repository() / name)
    return folder


def on_gpu(config: str, gpu: int) -> str:
    """config.pbtxt of a model whose instance computes on that GPU."""
    assert config.count(ON_CPU) == 1
    return config.replace(ON_CPU, f"instance_group [ {{ count: 1 kind: KIND_GPU gpus: [ {gpu} ] }} ]")


def _place_on_gpu(model: Path, copy: Path, gpu: int) -> None:
    """`model`, linked, but for the instance that its config asks for."""
    copy.mkdir()
    (copy / "1").symlink_to(model / "1")
    (copy / "config.pbtxt").write_text(on_gpu((model / "config.pbtxt").read_text(), gpu))
