"""The whole way on the studio's own model: checkpoint → bundle → tritonserver → client → picture."""

from __future__ import annotations

import asyncio
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from studio.reading.psnr import psnr_db

from impasto_client import AdapterNotFound, AsyncClient, Client, InvalidRequest
from impasto_server.ops.serve import Server

from .conftest import IMPASTO

PROMPT = "a red boat by the sea"
STEPS = 4
COLOURS = ("red", "blue", "pink")


@pytest.fixture(scope="module")
def client(studio_server: Server) -> Client:
    return Client(studio_server.grpc_url)


def test_the_same_seed_paints_the_same_picture(client: Client) -> None:
    one = client.generate(PROMPT, steps=STEPS, seed=7)
    assert one.image.size == (128, 128)
    assert one.seed == 7
    assert one.data == client.generate(PROMPT, steps=STEPS, seed=7).data
    assert one.data != client.generate(PROMPT, steps=STEPS, seed=8).data


def test_a_drawn_seed_is_answered_and_repeats_the_picture(client: Client) -> None:
    drawn = client.generate(PROMPT, steps=STEPS)
    assert client.generate(PROMPT, steps=STEPS, seed=drawn.seed).data == drawn.data


@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp_2m", "euler"])
@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_schedulers_and_formats(client: Client, scheduler: str, format: str) -> None:
    answer = client.generate(PROMPT, steps=2, seed=1, scheduler=scheduler, format=format, width=64, height=96)
    assert answer.image.size == (64, 96)
    assert answer.image.format in (None, format.upper())
    assert answer.meta["scheduler"] == scheduler


def test_every_style_changes_the_picture_and_leaves_no_trace(client: Client, styles: dict[str, Path]) -> None:
    assert len(styles) >= 5
    plain = client.generate(PROMPT, steps=STEPS, seed=7)
    for style in styles:
        styled = client.generate(PROMPT, adapters={style: 0.9}, steps=STEPS, seed=7)
        assert styled.data != plain.data, style
    assert client.generate(PROMPT, steps=STEPS, seed=7).data == plain.data


def test_errors_are_typed(client: Client) -> None:
    with pytest.raises(AdapterNotFound, match="ADAPTER_NAMES: no adapter 'oil'"):
        client.generate(PROMPT, adapters="oil")
    with pytest.raises(InvalidRequest, match="STEPS: 0 is out of range") as caught:
        client.generate(PROMPT, steps=0)
    assert caught.value.field == "STEPS"


def test_strangers_share_the_server(client: Client) -> None:
    """Requests that differ in everything, in flight together, paint what they paint alone: 40 dB where bf16 rounds."""

    def paint(number: int) -> Image.Image:
        return client.generate(f"a {COLOURS[number]} fish", steps=3 + number, seed=number).image

    alone = [paint(number) for number in range(len(COLOURS))]
    with ThreadPoolExecutor(len(COLOURS)) as pool:
        together = list(pool.map(paint, range(len(COLOURS))))
    for one, other in zip(alone, together, strict=True):
        assert psnr_db(one, other) >= 40


def test_asyncio(studio_server: Server, client: Client) -> None:
    async def paint() -> bytes:
        async with AsyncClient(studio_server.grpc_url) as asynchronous:
            return (await asynchronous.generate(PROMPT, steps=STEPS, seed=7)).data

    assert asyncio.run(paint()) == client.generate(PROMPT, steps=STEPS, seed=7).data


def test_the_command_line(studio_server: Server, tmp_path: Path) -> None:
    out = tmp_path / "boat.png"
    options = ["--url", studio_server.grpc_url, "--steps", str(STEPS), "--seed", "7", "--out", str(out), "--json"]
    done = subprocess.run([IMPASTO, "generate", PROMPT, *options], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["seed"] == 7
    with Image.open(out) as image:
        assert image.size == (128, 128)
