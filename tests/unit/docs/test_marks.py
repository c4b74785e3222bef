"""The page on marked pictures: the certificate that its commands make can sign, and its pictures verify."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

import impasto_client
from impasto_client import Client, FakeTransport
from impasto_client.marks import read
from impasto_gateway.manifest import examined
from impasto_gateway.settings import GatewaySettings
from impasto_gateway.signing import Signer
from tests.helpers.pages import page

PAGE = page("docs/marks.md")


def test_its_python_marks_a_picture(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = PAGE.python("From Python")
    monkeypatch.setattr(impasto_client, "Client", lambda url: Client(transport=FakeTransport()))
    exec(block, {})
    mark = read(Path("boat.png").read_bytes())
    assert mark is not None
    assert (mark.prompt, mark.adapters[0].name, mark.seed) == ("a red boat", "stained-glass", 7)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_its_certificate_signs(tmp_path: Path) -> None:
    (commands,) = [block.text for block in PAGE.blocks if block.language == "sh"]
    subprocess.run(["sh", "-e", "-c", commands], cwd=tmp_path, check=True, capture_output=True)
    settings = GatewaySettings((), certificate=tmp_path / "certificate.pem", private_key=tmp_path / "key.pem")
    signer = Signer.of(settings)
    assert signer is not None
    Image.new("RGB", (8, 8)).save(file := io.BytesIO(), "png")
    found = examined(signer.sign(file.getvalue(), "png"), signer.identity)
    assert (found.ours, found.signer, found.issuer) == (True, "Example pictures", "Example")
