"""A mixed gallery from a real Triton: every file says how it was painted, and is painted again to the last byte."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from impasto_client import cli
from impasto_client.marks import bare, found_in, read
from impasto_gateway.app import create_app
from impasto_gateway.settings import GatewaySettings
from impasto_gateway.signing import Signer
from impasto_server.ops.serve import Server, serve
from impasto_server.settings import Settings
from tests.helpers import toy, toy_masked, toy_stylizer
from tests.helpers.certificates import Authority
from tests.helpers.mark_readers import infotext, parameters_of
from tests.helpers.pictures import png

from .conftest import ROOT

PHOTO = png(np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8))
SKY = png(np.repeat(np.array([[255]] * 32 + [[0]] * 32, np.uint8), 80, axis=1))
# Words of `impasto generate` or `impasto stylize`, the file, and the pictures that are sent.
GALLERY: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "plain": ("generate|a red house|--model words", "plain.png", ()),
    "a mix of LoRAs": (
        "generate|a red house|--model words --adapter stained-glass:0.7 --adapter neon:-0.4 --steps 5",
        "mix.png",
        (),
    ),
    "as JPEG": ("generate|a red house|--model words --adapter neon:0.3 --scheduler euler_a", "mix.jpg", ()),
    "as WebP": ("generate|a red house|--model words --adapter neon --negative-prompt dull", "mix.webp", ()),
    "an embedding": (
        "generate|a red house|--model words --style sks03 --guidance-convention paper --steps 6",
        "dreamstyler.png",
        (),
    ),
    "embeddings in stages": (
        "generate|a <my-toy> at night|--model words --style sks03:0-3 --style sks05:4-5 --guidance-convention code",
        "stages.webp",
        (),
    ),
    "from a photo": (
        "generate|a red house|--model words --image photo.png --strength 0.6 --control-scale 0.5 --adapter neon:0.5",
        "photo.jpg",
        ("photo.png",),
    ),
    "candidates": ("generate|a red house|--model words --n 3 --seed 41 --steps 4", "many.png", ()),
    "masked": ("generate|a fish|--model masked --steps 5 --temperature 2.5", "masked.png", ()),
    "StyleDrop": (
        "generate|a fish|--model masked --style glass --guidance styledrop --style-strength 1.5 --steps 5",
        "styledrop.webp",
        (),
    ),
    "composed": (
        "generate|a fish|--model masked --style glass --content cat --guidance styledrop-compose --gamma 0.3 --steps 5",
        "composed.png",
        (),
    ),
    "a stylised photo": (
        "stylize|photo.png|--style ink:0.6 --style mosaic:0.4 --model photo",
        "ink.png",
        ("photo.png",),
    ),
    "a part of a photo": (
        "stylize|photo.png|--style ink --mask sky.png --model photo --detail 2 --preserve-color",
        "sky-ink.webp",
        ("photo.png", "sky.png"),
    ),
    "by a picture's style": (
        "stylize|photo.png|--style-image red.png --model photo --long-side 40 --strength 0.8",
        "red-ink.jpg",
        ("photo.png", "red.png"),
    ),
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of each family."""
    registry = tmp_path_factory.mktemp("gallery") / "registry"
    toy.register(registry, "stained-glass", toy.adapter_bytes(1))
    toy.register(registry, "neon", toy.adapter_bytes(2, rank=3))
    toy.register(registry, "sks03", toy.embedding_bytes(3))
    toy.register(registry, "sks05", toy.embedding_bytes(5, places=2))
    toy.register(registry, "my-toy", toy.embedding_bytes(6, stages=1))
    toy.register(registry, "glass", toy_masked.bottleneck_bytes(1, rank=4, header={"prompt": toy_masked.TEMPLATE}))
    toy.register(registry, "cat", toy_masked.lora_bytes(3, text_encoder=True))
    toy.register(registry, "ink", toy_stylizer.style_bytes(toy_stylizer.style(1)))
    toy.register(registry, "mosaic", toy_stylizer.style_bytes(toy_stylizer.style(2)))
    return registry


@pytest.fixture(scope="module")
def server(registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A bundle of each family."""
    folder = tmp_path_factory.mktemp("bundles")
    bundles = {
        "words": toy.write_bundle(folder / "words"),
        "masked": toy_masked.write_bundle(folder / "masked"),
        "photo": toy_stylizer.write_bundle(folder / "photo"),
    }
    with serve(Settings(bundles, registry, "onnxruntime", "f32", threads=1)) as server:
        yield server


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMPASTO_URL", server.grpc_url)
    Path("photo.png").write_bytes(PHOTO)
    Path("sky.png").write_bytes(SKY)
    Path("red.png").write_bytes(png(np.full((32, 32, 3), (255, 0, 0), np.uint8)))


def impasto(*args: str) -> Result:
    return CliRunner().invoke(cli.app, args, prog_name="impasto")


def painted(case: str) -> list[Path]:
    """The files of a case."""
    words, out, _ = GALLERY[case]
    command, first, rest = words.split("|")
    result = impasto(command, first, *rest.split(), "--out", out)
    assert result.exit_code == 0, result.output
    return sorted(Path().glob(f"{Path(out).stem}*{Path(out).suffix}")) if "--n " in rest else [Path(out)]


def again(file: Path, case: str) -> Result:
    pictures = [word for picture in GALLERY[case][2] for word in ("--picture", picture)]
    return impasto("reproduce", str(file), "--out", f"again{file.suffix}", "--json", *pictures)


@pytest.mark.parametrize("case", GALLERY)
def test_it_is_painted_again_to_the_last_byte(case: str) -> None:
    files = painted(case)
    assert len(files) == (3 if case == "candidates" else 1)
    for file in files:
        result = again(file, case)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["differences"] == []
        assert json.loads(result.stdout)["identical"] is True
        assert Path(f"again{file.suffix}").read_bytes() == file.read_bytes()


def test_no_two_of_them_are_alike() -> None:
    """Or the test above could pass with half of a request forgotten: as often as it is painted."""
    pictures = [bare(file.read_bytes()) for case in GALLERY for file in painted(case)]
    assert len({*pictures}) == len(pictures)


@pytest.mark.parametrize("case", GALLERY)
def test_its_file_says_how(case: str) -> None:
    file, *_ = painted(case)
    mark = read(file.read_bytes())
    assert mark is not None
    assert (mark.engine, mark.precision) == ("onnxruntime", "f32")
    assert len(mark.digest) == 64
    assert mark.version
    text = infotext(parameters_of(file.read_bytes()))
    assert text.fields["Model hash"] == mark.digest[:10]
    edited = found_in(file.read_bytes()).source == "compositeWithTrainedAlgorithmicMedia"
    assert edited == ("photo.png" in GALLERY[case][2])
    assert impasto("show", str(file)).exit_code == 0


def test_a_photo_that_is_missing_is_asked_for() -> None:
    (file,) = painted("a part of a photo")
    result = impasto("reproduce", str(file), "--picture", "photo.png")
    assert result.exit_code == 1
    assert "MASKS" in result.output
    assert "IMAGE" not in result.output


def test_an_adapter_that_was_replaced_is_named(registry: Path) -> None:
    """And with --anyway its picture is another one."""
    toy.register(registry, "newcomer", toy.adapter_bytes(11))
    result = impasto("generate", "a red house", "--model", "words", "--adapter", "newcomer", "--out", "new.png")
    assert result.exit_code == 0, result.output
    toy.register(registry, "newcomer", toy.adapter_bytes(12))
    refused = impasto("reproduce", "new.png")
    assert refused.exit_code == 1
    assert "adapter: 'newcomer' was " in refused.output
    other = impasto("reproduce", "new.png", "--anyway", "--json")
    assert other.exit_code == 3, other.output
    assert any(line.startswith("pixels: ") for line in json.loads(other.stdout)["differences"])


@pytest.mark.parametrize("words", [["--no-metadata"], []])
def test_the_pixels_are_those_that_the_server_sent(words: Sequence[str]) -> None:
    """Marked or not, the picture's own bytes are the same."""
    for out in ("one.png", "one.jpg", "one.webp"):
        assert impasto("generate", "a house", "--seed", "3", "--model", "words", "--out", out, *words).exit_code == 0
        shutil.move(out, f"kept-{out}")
        assert impasto("generate", "a house", "--seed", "3", "--model", "words", "--out", out).exit_code == 0
        assert bare(Path(out).read_bytes()) == bare(Path(f"kept-{out}").read_bytes())


# through the gateway


SOURCE_OF_AN_EDIT = "compositeWithTrainedAlgorithmicMedia"


def over_http(settings: GatewaySettings, path: str, **sent: Any) -> Any:
    """The answer of a gateway in this process, in front of the real server."""

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080", timeout=60) as client:
            return await client.post(path, **sent)

    answer = asyncio.run(asked())
    assert answer.status_code == 200, answer.text
    return answer.json()


def settings_of(server: Server, **said: Any) -> GatewaySettings:
    return GatewaySettings((server.grpc_url,), **said)


ASKED: dict[str, dict[str, Any]] = {
    "a mix": {"prompt": "a red house <lora:neon:0.4>", "model": "words", "adapters": {"stained-glass": 0.5}, "n": 2},
    "a style": {"prompt": "a fish", "model": "masked", "style": "glass", "guidance": "styledrop", "steps": 5},
    "webp": {"prompt": "a red house", "model": "words", "output_format": "webp", "seed": 4},
    "jpeg": {"prompt": "a red house", "model": "words", "output_format": "jpeg", "steps": 4},
}


@pytest.mark.parametrize("case", ASKED)
def test_a_picture_that_came_over_http_is_painted_again_over_grpc(case: str, server: Server) -> None:
    """To the last byte: the gateway marks as the command does."""
    for place, one in enumerate(over_http(settings_of(server), "/v1/images/generations", json=ASKED[case])["data"]):
        file = Path(f"{place}.{ASKED[case].get('output_format', 'png')}")
        file.write_bytes(base64.b64decode(one["b64_json"]))
        result = impasto("reproduce", str(file), "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["identical"] is True


def test_a_stylised_photo_that_came_over_http_is_painted_again(server: Server) -> None:
    form = {"data": {"model": "photo", "style": "ink"}, "files": {"image": ("photo.png", PHOTO, "image/png")}}
    (one,) = over_http(settings_of(server), "/v1/images/edits", **form)["data"]
    Path("painted.png").write_bytes(base64.b64decode(one["b64_json"]))
    result = impasto("reproduce", "painted.png", "--picture", "photo.png", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["identical"] is True


def test_a_signed_one_is_ours_and_its_picture_is_painted_again(server: Server, tmp_path: Path) -> None:
    """A signature differs each time; the picture and its marks don't."""
    authority = Authority.named("Test Authority")
    certificate, key = authority.write(tmp_path / "own", authority.issue("Operator"))
    settings = settings_of(server, certificate=certificate, private_key=key)
    for format in ("png", "jpeg", "webp"):
        asked = {"prompt": "a red house", "model": "words", "output_format": format}
        (one,) = over_http(settings, "/v1/images/generations", json=asked)["data"]
        data = base64.b64decode(one["b64_json"])
        found = over_http(settings, "/v1/verify", files={"image": ("signed", data)})
        assert found["ours"] is True
        assert found["marks"]["impasto"]["request"]["prompt"] == "a red house"
        Path("signed").write_bytes(data)
        result = impasto("reproduce", "signed", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["differences"] == [
            "beside the picture: a signature, or what another program wrote"
        ]


def test_the_photos_own_manifest_comes_along(server: Server, tmp_path: Path) -> None:
    """A camera, or another operator, signed the photo; the painting says that it was made of it."""
    camera, authority = Authority.named("Camera Authority"), Authority.named("Test Authority")
    photographer = Signer.of(settings_of(server, **named(camera.write(tmp_path / "camera", camera.issue("Camera")))))
    assert photographer is not None
    photo = photographer.sign(PHOTO, "png")
    settings = settings_of(server, **named(authority.write(tmp_path / "own", authority.issue("Operator"))))
    form = {"data": {"model": "photo", "style": "ink"}, "files": {"image": ("photo.png", photo, "image/png")}}
    (one,) = over_http(settings, "/v1/images/edits", **form)["data"]
    found = over_http(settings, "/v1/verify", files={"image": ("painted", base64.b64decode(one["b64_json"]))})
    assert found["ours"] is True
    assert found["signature"]["ingredients"] == 1
    assert found["signature"]["source"] == found["marks"]["digital_source_type"] == SOURCE_OF_AN_EDIT
    Path("photo.png").write_bytes(photo)
    Path("painted.png").write_bytes(base64.b64decode(one["b64_json"]))
    assert impasto("reproduce", "painted.png", "--picture", "photo.png").exit_code == 0


def named(files: tuple[Path, Path]) -> dict[str, Path]:
    return {"certificate": files[0], "private_key": files[1]}


def test_what_a_check_drew_is_told_and_not_painted_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs/examples"))
    settings = settings_of(server, check="checks:corner")
    asked = {"prompt": "a red house", "model": "words", "size": "64x64"}
    (one,) = over_http(settings, "/v1/images/generations", json=asked)["data"]
    Path("corner.png").write_bytes(base64.b64decode(one["b64_json"]))
    result = impasto("reproduce", "corner.png", "--json")
    assert result.exit_code == 3, result.output
    told = " ".join(json.loads(result.stdout)["differences"])
    assert "the gateway's 'checks:corner' changed the picture after it was painted" in told


def test_without_metadata_a_gateway_marks_nothing(server: Server) -> None:
    asked = {"prompt": "a red house", "model": "words"}
    for settings, said in (
        (settings_of(server, metadata=False), asked),
        (settings_of(server), {**asked, "metadata": False}),
    ):
        (one,) = over_http(settings, "/v1/images/generations", json=said)["data"]
        assert read(base64.b64decode(one["b64_json"])) is None
