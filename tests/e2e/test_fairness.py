"""Requests that ask for much hold up none that ask for little, and take no more memory than is said.

Proven by the order in which a real server answers, not by its speed: whoever asks for little asks last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from queue import SimpleQueue
from time import monotonic

import pytest
from PIL import Image
from tritonclient.grpc import InferenceServerClient, InferResult  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from impasto_server.ops.serve import Server, serve
from impasto_server.settings import Settings
from tests.helpers import toy
from tests.helpers.wire import Tensor, floats, inputs, ints, texts

PATIENCE_S = 300.0
SIDE = 512


@pytest.fixture(scope="module")
def server(scorer_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The toy paints 512 pixels a side here; one of its embeddings has as many stages as there may be."""
    folder = tmp_path_factory.mktemp("fair")
    bundle, registry = toy.write_bundle(folder / "bundle"), folder / "registry"
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["image"]["max_pixels"] = SIDE * SIDE
    toy.write_manifest(bundle, manifest)
    toy.register(registry, "staged", toy.embedding_bytes(1, stages=64))
    with serve(Settings(bundle, registry, "onnxruntime", "f32", threads=1, scorer=scorer_bundle)) as server:
        yield server


@dataclass
class Crowd:
    """Requests under way at once, by name, and what is answered, in that order."""

    client: InferenceServerClient
    answers: SimpleQueue[tuple[str, InferResult | InferenceServerException]] = field(default_factory=SimpleQueue)
    asked: int = 0

    def ask(self, name: str, tensors: Mapping[str, Tensor]) -> int:
        """Returns how many had been answered by then: a client that is slow to ask meets fewer."""

        def told(result: InferResult, error: InferenceServerException | None) -> None:
            self.answers.put((name, error or result))

        self.asked += 1
        before = self.answers.qsize()
        self.client.async_infer("stylize", inputs(tensors), told)
        return before

    def order(self) -> list[str]:
        """The names of all, in the order of their answers, which are pictures."""
        deadline, found = monotonic() + PATIENCE_S, []
        for _ in range(self.asked):
            name, answer = self.answers.get(timeout=max(0.0, deadline - monotonic()))
            assert isinstance(answer, InferResult), answer
            assert answer.as_numpy("IMAGE")[0]
            found.append(name)
        return found


@pytest.fixture
def crowd(server: Server) -> Iterator[Crowd]:
    with InferenceServerClient(server.grpc_url) as client:
        yield Crowd(client)


BOAT = {"PROMPT": texts("a boat"), "STEPS": ints(1)}


def picture(side: int) -> bytes:
    """Of one colour: a small file, and as much to decode as any other."""
    file = BytesIO()
    Image.new("RGB", (side, side), "red").save(file, "png", compress_level=1)
    return file.getvalue()


def test_a_picture_is_answered_before_many_candidates_that_take_long_to_encode(crowd: Crowd) -> None:
    many = {**BOAT, "N": ints(16), "FORMAT": texts("webp"), "WIDTH": ints(SIDE), "HEIGHT": ints(SIDE)}
    for _ in range(8):
        crowd.ask("many", many)
    before = crowd.ask("one", BOAT)
    order = crowd.order()
    assert order.index("one") - before < 4, order


def test_a_plain_prompt_is_answered_before_long_ones_in_64_stages(crowd: Crowd) -> None:
    for number in range(40):
        long = f"{number} " + "a red boat at night " * 400
        crowd.ask("long", {**BOAT, "PROMPT": texts(long[:8000]), "STYLE": texts("staged"), "GUIDANCE": texts("cfg")})
    before = crowd.ask("plain", {**BOAT, "STEPS": ints(10)})
    order = crowd.order()
    assert order.index("plain") - before < 20, order


def test_a_small_picture_is_answered_before_large_ones(crowd: Crowd) -> None:
    large = texts(picture(3500))
    for _ in range(10):
        crowd.ask("large", {**BOAT, "IMAGE": large, "DEPTH": large, "STRENGTH": floats(1)})
    before = crowd.ask("small", {**BOAT, "IMAGE": texts(picture(64)), "STRENGTH": floats(1)})
    order = crowd.order()
    assert order.index("small") - before < 5, order


def test_style_pictures_under_way_are_not_kept_in_the_size_they_were_sent_in(server: Server, crowd: Crowd) -> None:
    """Twenty-four of them are 450 MB of pixels."""
    stub = next(pid for pid in server.stubs if "stylize" in name_of(pid) and "stream" not in name_of(pid))
    before = memory(stub, "VmRSS")
    styled = {**BOAT, "RERANK": texts("style"), "STYLE_IMAGE": texts(picture(2500)), "STEPS": ints(200), "N": ints(16)}
    for _ in range(24):
        crowd.ask("styled", {**styled, "WIDTH": ints(128), "HEIGHT": ints(128)})
    crowd.order()
    assert memory(stub, "VmHWM") - before < 250 << 20


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def memory(pid: int, what: str) -> int:
    """Bytes: VmRSS now, VmHWM at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) << 10
