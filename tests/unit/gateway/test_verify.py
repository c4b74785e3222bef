"""POST /v1/verify: what marks say is repeated, what a signature proves is called ours, and nothing else is."""

from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from impasto_client.marks import Mark, Style, marked
from impasto_gateway import verify
from impasto_gateway.answers import HANDLERS
from impasto_gateway.callers import ANYBODY, Allowance, Caller
from impasto_gateway.rates import Rates
from impasto_gateway.settings import GatewaySettings
from impasto_gateway.signing import Signer
from tests.helpers.certificates import Authority

MARK = Mark(
    {"prompt": "a red boat", "seed": 7},
    7,
    "studio",
    "0" * 64,
    (Style("neon", "1" * 64, 0.5),),
    {"steps": 25},
    "openvino",
    "f32",
    "1.2",
)


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "navy").save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return signer_of(tmp_path_factory.mktemp("own"))


def signer_of(folder: Path) -> Signer:
    authority = Authority.named("Test Authority")
    certificate, key = authority.write(folder, authority.issue("Operator"))
    signer = Signer.of(GatewaySettings((), certificate=certificate, private_key=key))
    assert signer is not None
    return signer


def ask(signer: Signer | None, caller: Caller = ANYBODY, /, **sent: Any) -> httpx.Response:
    app = Starlette(routes=[Route("/v1/verify", verify.verify, methods=["POST"])], exception_handlers=HANDLERS)
    app.state.parts = SimpleNamespace(settings=GatewaySettings(()), signer=signer, rates=Rates())

    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {"caller": caller}}, receive, send)

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(known), base_url="http://gateway") as client:
            return await client.post("/v1/verify", **sent)

    return asyncio.run(asked())


def said(signer: Signer | None, data: bytes) -> Any:
    answer = ask(signer, files={"image": ("boat.png", data)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_picture_that_the_operator_signed_is_ours(signer: Signer) -> None:
    found = said(signer, signer.sign(marked(picture(), MARK), "png"))
    assert found["ours"] is True
    assert found["means"] == verify.OURS
    assert found["signature"]["state"] == "valid"
    assert found["marks"]["impasto"]["request"]["prompt"] == "a red boat"
    assert found["marks"]["impasto"]["adapters"] == [
        {"name": "neon", "digest": "1" * 64, "weight": 0.5, "kind": "adapter"}
    ]
    assert found["marks"]["digital_source_type"] == "trainedAlgorithmicMedia"
    assert found["marks"]["parameters"].startswith("a red boat <lora:neon:0.5>\nSteps: 25")


def test_marks_without_a_signature_are_told_and_not_believed(signer: Signer) -> None:
    """Every text mark is there, and anybody could have written it."""
    found = said(signer, marked(picture(), MARK))
    assert found["ours"] is False
    assert "no signature of this operator's" in found["means"]
    assert "they prove nothing" in found["means"]
    assert found["marks"]["impasto"]["seed"] == 7
    assert found["signature"]["state"] == "none"


def test_a_changed_file_is_not_ours(signer: Signer) -> None:
    signed = signer.sign(marked(picture(), MARK), "png")
    place = signed.index(b"IDAT") + 20
    found = said(signer, signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :])
    assert (found["ours"], found["signature"]["state"]) == (False, "invalid")
    assert "changed after it was signed" in found["means"]


def test_marking_a_signed_file_anew_takes_its_signature(signer: Signer) -> None:
    found = said(signer, marked(signer.sign(picture(), "png"), MARK))
    assert (found["ours"], found["signature"]["state"]) == (False, "none")


def test_another_operators_picture_is_signed_and_not_ours(signer: Signer, tmp_path: Path) -> None:
    found = said(signer, signer_of(tmp_path).sign(picture(), "png"))
    assert (found["ours"], found["signature"]["state"]) == (False, "valid")
    assert "not by this operator's certificate" in found["means"]


def test_an_operator_without_a_certificate_calls_nothing_its_own(signer: Signer) -> None:
    found = said(None, signer.sign(picture(), "png"))
    assert found["ours"] is False
    assert "signs no pictures" in found["means"]


def test_without_the_library_marks_are_read_and_the_signature_is_unknown(
    signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = signer.sign(marked(picture(), MARK), "png")

    monkeypatch.setitem(sys.modules, "c2pa", None)
    found = said(None, signed)
    assert (found["ours"], found["signature"]) == (False, None)
    assert found["marks"]["impasto"]["seed"] == 7


def test_a_plain_picture_has_nothing_to_say(signer: Signer) -> None:
    found = said(signer, picture())
    assert found["marks"] == {"impasto": None, "parameters": None, "digital_source_type": None}
    assert found["ours"] is False


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        ({"files": {"image": ("a.gif", b"GIF89a")}}, "image: this is not a PNG, JPEG or WebP file"),
        ({"files": {"image": ("a.png", picture()[:40])}}, "image: byte 33 of the PNG begins no whole chunk"),
        ({"files": {"photo": ("a.png", picture())}}, "photo: this is not known here; send image alone"),
        ({"files": {"image": ("a", picture())}, "data": {"key": "x"}}, "key: this is not known here"),
        ({"files": [("image", ("a", picture())), ("image", ("b", picture()))]}, "image: there are 2 files"),
        ({"files": {"image": ("a.png", marked(picture(), MARK).replace(b'{"impasto":1', b'{"impasto":2'))}}, "image: "),
    ],
)
def test_what_is_no_picture_is_refused(sent: dict[str, Any], problem: str, signer: Signer) -> None:
    answer = ask(signer, **sent)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(problem)
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("caller", "status"),
    [
        (Caller("importer", frozenset({"adapters"})), 403),
        (Caller("painter", frozenset({"generate"}), Allowance(pixels_per_minute=1)), 200),
    ],
)
def test_it_is_for_those_who_may_generate_and_takes_no_pixels(caller: Caller, status: int) -> None:
    assert ask(None, caller, files={"image": ("a.png", picture())}).status_code == status
