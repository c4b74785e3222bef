"""impasto's Triton models, and the choice of those that a server has."""

from __future__ import annotations

from pathlib import Path

from impasto_server.settings import ON_GPU, Settings

MODELS = ("stylize", "stylize_stream", "catalogue")
SCORE = "clip_score"  # only with a scorer
GATE = "gate"  # keeps the others loaded while a server stops; it does no work
COMPUTING = ("stylize", SCORE)  # the others only pass on or read
ON_CPU = "instance_group [ { count: 1 kind: KIND_CPU } ]"


def model_repository() -> Path:
    """The folder of our Triton models: in the package when installed, at the checkout's root when editable."""
    package = Path(__file__).parents[1]
    shipped = package / "model_repository"
    return shipped if shipped.exists() else package.parent.parent / "model_repository"


def working(settings: Settings) -> list[str]:
    """The models of such a server, without the gate."""
    return [*MODELS, SCORE] if settings.scorer else [*MODELS]


def chosen_models(settings: Settings, workspace: Path) -> Path:
    """A repository of the models that these settings need, made of links in `workspace`.

    Triton could instead be told their names, but only in a mode in which clients may unload models.
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
    """The config.pbtxt `config`, with its instance placed on that GPU."""
    assert config.count(ON_CPU) == 1
    return config.replace(ON_CPU, f"instance_group [ {{ count: 1 kind: KIND_GPU gpus: [ {gpu} ] }} ]")


def _place_on_gpu(model: Path, copy: Path, gpu: int) -> None:
    """Link `model` at `copy`, with its own config.pbtxt that places it on the GPU."""
    copy.mkdir()
    (copy / "1").symlink_to(model / "1")
    (copy / "config.pbtxt").write_text(on_gpu((model / "config.pbtxt").read_text(), gpu))
