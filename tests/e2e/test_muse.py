"""The whole way on the studio's masked transformer: checkpoint, drops and CLIP → tritonserver → client → pictures."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from io import BytesIO

import pytest
from PIL import Image

from impasto_client import Client, Compose, Generation, InvalidRequest, Progress, StyleDrop
from impasto_server.ops.serve import serve
from impasto_server.settings import Settings

from .conftest import IMPASTO, ROOT

PROMPT = "a red fish by the sea"
ROCKET = "a red rocket by the sea"
STEPS = 6
DROPS = {"glass": "studio/drops/glass/round1", "rocket": "studio/drops/rocket"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("muse")
    bundle, scorer, registry = (folder / name for name in ("bundle", "scorer", "registry"))
    impasto("link", "studio/mini-muse", "--out", str(bundle))
    impasto("link", "studio/mini-clip", "--out", str(scorer))
    for name, source in DROPS.items():
        impasto("adapters", "import", source, "--name", name, "--bundle", str(bundle), "--registry", str(registry))
    with serve(Settings(bundle, registry, scorer=scorer)) as server, Client(server.grpc_url) as found:
        yield found


def impasto(*arguments: str) -> None:
    subprocess.run([IMPASTO, *arguments], cwd=ROOT, check=True, capture_output=True)


def test_the_same_seed_paints_the_same_picture(client: Client) -> None:
    one = client.generate(PROMPT, steps=STEPS, seed=7, guidance_scale=3)
    assert one.image.size == (128, 128)
    assert one.data == client.generate(PROMPT, steps=STEPS, seed=7, guidance_scale=3).data
    assert one.data != client.generate(PROMPT, steps=STEPS, seed=8, guidance_scale=3).data


def test_candidates_come_best_first_with_the_scores_of_clip_score(client: Client) -> None:
    compose = Compose(gamma=0.5, style_strength=1, text_strength=3)
    made = client.generate(
        ROCKET, style="glass", content="rocket", guidance=compose, steps=STEPS, seed=7, n=3, rerank="text"
    )
    scores = [candidate.score for candidate in made.candidates]
    assert scores == sorted(scores, key=lambda score: -(score or 0))
    assert sorted(candidate.seed for candidate in made.candidates) == [7, 8, 9]
    assert client.score([candidate.data for candidate in made.candidates], text=ROCKET) == pytest.approx(
        scores, abs=1e-5
    )


def test_a_style_and_a_content_each_change_the_picture(client: Client) -> None:
    plain = client.generate(PROMPT, steps=STEPS, seed=7, guidance_scale=3)
    dropped = client.generate(PROMPT, style="glass", guidance=StyleDrop(1, 3), steps=STEPS, seed=7)
    composed = [
        client.generate(PROMPT, style="glass", content="rocket", guidance=Compose(gamma, 1, 3), steps=STEPS, seed=7)
        for gamma in (0.0, 0.5, 1.0)
    ]
    assert composed[0].data == dropped.data
    assert len({made.data for made in (plain, *composed)}) == 4
    assert dropped.meta["guidance"] == "styledrop"


def test_previews_show_every_candidates_tokens(client: Client) -> None:
    *steps, made = client.stream(PROMPT, steps=STEPS, seed=7, guidance_scale=3, n=2, preview_every=2)
    assert isinstance(made, Generation)
    shown = [step.previews for step in steps if isinstance(step, Progress) and step.previews]
    assert [len(previews) for previews in shown] == [2] * (STEPS // 2 - 1)
    assert {Image.open(BytesIO(preview)).size for previews in shown for preview in previews} == {(16, 16)}


def test_what_only_diffusion_has_is_refused(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="SCHEDULER: 'dpmpp_2m' is unknown; pass one of maskgit, amused"):
        client.generate(PROMPT, scheduler="dpmpp_2m")
    with pytest.raises(InvalidRequest, match="GAMMA: 1.5 is out of range"):
        client.generate(PROMPT, style="glass", content="rocket", guidance=Compose(gamma=1.5))
