"""The Python of README and docs/client.md runs, on the toy backbones."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import impasto_client
from impasto_client import Client, LocalTransport
from impasto_client.wire import Tensors
from tests.helpers.pages import page

CLIENT = page("docs/client.md")
(ASK,) = page("README.md").python("Ask it")
(PHOTOS,) = CLIENT.python("Photos")
GREET, STREAM = CLIENT.python("Sentences")
(WORDS,) = CLIENT.python("Styles as words")
(MASKED,) = CLIENT.python("Masked transformers and StyleDrop")
(LOCAL,) = CLIENT.python("Without a server")

pytestmark = pytest.mark.usefixtures("home")


class Several(LocalTransport):
    """A server of two bundles, as README starts it: photos, and the one that is asked where nothing is said."""

    def __init__(self) -> None:
        super().__init__(Path(".impasto/bundle"))
        self._photos = LocalTransport(Path(".impasto/stylizer"))

    def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        rest = dict(tensors)
        if (model := rest.pop("MODEL", None)) is None:
            return super().infer(rest, timeout_s)
        assert list(model) == [b"photos"]
        return self._photos.infer(rest, timeout_s)

    def stream(self, tensors: Tensors, timeout_s: float | None = None) -> Generator[Tensors, None, None]:
        assert "MODEL" not in tensors
        yield from super().stream(tensors, timeout_s)

    def close(self) -> None:
        self._photos.close()
        super().close()


@pytest.fixture
def diffusion(home: Path) -> Iterator[Client]:
    with Client(transport=LocalTransport(home / ".impasto/bundle")) as client:
        yield client


def test_what_the_readme_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(transport=Several()) as client:
        monkeypatch.setattr(impasto_client, "Client", partial(lambda url: client))
        exec(ASK, {})
    for name in ("painting.png", "boat.png"):
        with Image.open(name) as picture:
            assert picture.size == (64, 64)


def test_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(transport=LocalTransport(Path(".impasto/stylizer"))) as client, Image.open("photo.jpg") as photo:
        monkeypatch.setattr(impasto_client, "Client", partial(lambda url: client))
        names: dict[str, Any] = {"frames": [photo] * 3}
        exec(PHOTOS, names)
    with Image.open("painting.png") as picture:
        assert picture.size == (64, 64)
    assert names["painted"].size == (64, 64)


def test_a_picture_and_its_stream(diffusion: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(impasto_client, "Client", partial(lambda url: diffusion))
    exec(GREET + STREAM, {})
    with Image.open("boat.png") as picture:
        assert picture.size == (64, 64)


def test_styles_as_words(diffusion: Client) -> None:
    exec(WORDS, {"client": diffusion, "Path": Path})


def test_masked_tokens_and_scores(scorer_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPASTO_SCORER", str(scorer_bundle))
    names: dict[str, Any] = {"Path": Path}
    with Client(transport=LocalTransport(Path(".impasto/muse"))) as client:
        exec(MASKED, names | {"client": client})


def test_the_pipeline_itself() -> None:
    names: dict[str, Any] = {}
    exec(LOCAL, names)
    assert names["result"].image
    assert names["again"].image
