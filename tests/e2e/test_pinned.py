"""From foreign files to served pictures without training or export: merged, pinned and hot, through a real Triton."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from studio.reading.psnr import psnr_db

from impasto_client import Client, Generation, InvalidRequest
from impasto_server.ops.serve import serve
from impasto_server.settings import Settings
from tests.helpers.lora_files import kohya, loha, write

from .conftest import IMPASTO

STYLE, FOREIGN = "stained-glass", "loha"
WEIGHT, NEARLY = 0.9, 0.900001
# Of the middle block, kohya's way of naming them; no bank carries what LoHa does to them.
LAYERS = {"unet": {"mid_block.resnets.0.conv1": (192, 192, 3, 3), "mid_block.resnets.1.conv2": (192, 192, 3, 3)}}


def run(*arguments: str) -> str:
    return subprocess.run([IMPASTO, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def client(bundle: Path, styles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Of a server whose bundle has a style and a LoHa pinned, each by itself."""
    folder = tmp_path_factory.mktemp("pinned")
    where = ["--registry", str(folder / "registry")]
    write(folder / "loha.safetensors", kohya(LAYERS, loha))
    for name, file in ((STYLE, styles[STYLE]), (FOREIGN, folder / "loha.safetensors")):
        said = run("adapters", "import", str(file), "--name", name, "--bundle", str(bundle), *where)
        assert ("impasto export merge" in said) == (name == FOREIGN), said
    one, two = folder / "one", folder / "two"
    run("export", "merge", str(bundle), "--pin", "--adapter", f"{STYLE}:{WEIGHT}", "--out", str(one), *where)
    run("export", "merge", str(one), "--pin", "--adapter", FOREIGN, "--out", str(two), *where)
    with serve(Settings(two, folder / "registry", precision="f32")) as server:
        yield Client(server.grpc_url)


def painted(client: Client, adapters: str | dict[str, float] | None = None) -> Generation:
    return client.generate("a red boat by the sea", adapters=adapters, steps=4, seed=7)


def test_a_pinned_mix_paints_what_lanes_paint(client: Client) -> None:
    pinned = painted(client, {STYLE: WEIGHT})
    by_lanes = painted(client, {STYLE: NEARLY})
    plain = painted(client)
    assert (pinned.meta["pinned"], by_lanes.meta["pinned"], plain.meta["pinned"]) == (True, False, False)
    assert psnr_db(pinned.image, by_lanes.image) > 50
    assert psnr_db(pinned.image, plain.image) < 30


def test_what_no_lane_carries_is_served_where_it_is_pinned_and_refused_elsewhere(client: Client) -> None:
    foreign = painted(client, FOREIGN)
    assert foreign.meta["pinned"] is True
    assert foreign.data != painted(client).data
    with pytest.raises(InvalidRequest, match=r"loha.*impasto export merge"):
        painted(client, {FOREIGN: 0.5})
