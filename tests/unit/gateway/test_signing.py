"""Signed pictures: they verify, one changed byte doesn't, and only the operator's own certificate is "ours"."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import c2pa  # type: ignore[import-untyped]
import numpy as np
import pytest
from PIL import Image

from impasto_client.errors import ImpastoError, MissingExtra
from impasto_client.marks import Mark, marked, read
from impasto_client.xmp import PAINTED, SOURCES
from impasto_gateway.errors import Refusal
from impasto_gateway.manifest import Manifest, examined
from impasto_gateway.settings import GatewaySettings
from impasto_gateway.signing import Signer
from tests.helpers.certificates import KEYS, Authority

FORMATS = ("png", "jpeg", "webp")
MARK = Mark({"prompt": "a red boat", "seed": 7}, 7, "studio", "0" * 64, version="1.2")
OPTIONS: dict[str, dict[str, object]] = {"png": {}, "jpeg": {"quality": 95}, "webp": {"lossless": True}}


def picture(fmt: str, seed: int = 0) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(file, fmt, **OPTIONS[fmt])
    return file.getvalue()


def settings_of(files: tuple[Path, Path]) -> GatewaySettings:
    return GatewaySettings(("localhost:8001",), certificate=files[0], private_key=files[1])


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.named("Test Authority")


@pytest.fixture(scope="module")
def signer(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Signer:
    files = authority.write(tmp_path_factory.mktemp("own"), authority.issue("Operator"))
    signer = Signer.of(settings_of(files))
    assert signer is not None
    return signer


def test_without_a_certificate_nothing_is_signed() -> None:
    assert Signer.of(GatewaySettings(("localhost:8001",))) is None


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_signed_picture_is_ours_and_keeps_its_marks(fmt: str, signer: Signer) -> None:
    plain = marked(picture(fmt), MARK)
    signed = signer.sign(plain, fmt)
    assert examined(signed, signer.identity) == Manifest(
        "valid", ours=True, signer="Operator", issuer="Tests", source="trainedAlgorithmicMedia"
    )
    assert read(signed) == MARK
    assert pixels(signed) == pixels(plain)


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_library_itself_says_that_it_is_valid(fmt: str, signer: Signer) -> None:
    """Without any of our settings: the signature holds, and nobody it knows has issued the certificate."""
    with c2pa.Reader(f"image/{fmt}", io.BytesIO(signer.sign(picture(fmt), fmt))) as reader:
        assert reader.get_validation_state() == "Valid"


@pytest.mark.parametrize("fmt", FORMATS)
def test_one_changed_pixel_breaks_the_signature(fmt: str, signer: Signer) -> None:
    signed = signer.sign(picture(fmt), fmt)
    place = signed.rindex(PIXELS[fmt]) + 300  # well inside the pixels' bytes; a signature may hold such bytes by chance
    broken = signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :]
    found = examined(broken, signer.identity)
    assert (found.state, found.ours) == ("invalid", False)
    assert "assertion.dataHash.mismatch" in found.problems


PIXELS = {"png": b"IDAT", "jpeg": b"\xff\xda", "webp": b"VP8L"}


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_changed_mark_breaks_it_too(fmt: str, signer: Signer) -> None:
    """The pixels are the signed ones, and another prompt stands beside them."""
    signed = signer.sign(marked(picture(fmt), MARK), fmt)
    forged = signed.replace(b'"a red boat"', b'"a rat, bad"')
    assert forged != signed
    assert examined(forged, signer.identity).state == "invalid"


def test_another_certificate_of_the_same_authority_is_not_ours(
    authority: Authority, signer: Signer, tmp_path: Path
) -> None:
    other = Signer.of(settings_of(authority.write(tmp_path, authority.issue("Operator", serial=3))))
    assert other is not None
    found = examined(other.sign(picture("png"), "png"), signer.identity)
    assert (found.state, found.ours, found.signer) == ("valid", False, "Operator")


def test_a_certificate_that_says_the_same_from_another_authority_is_not_ours(signer: Signer, tmp_path: Path) -> None:
    """The same names, the same number; another hand."""
    forger = Authority.named("Test Authority")
    other = Signer.of(settings_of(forger.write(tmp_path, forger.issue("Operator"))))
    assert other is not None
    found = examined(other.sign(picture("png"), "png"), signer.identity)
    assert (found.state, found.ours, found.signer, found.issuer) == ("valid", False, "Operator", "Tests")


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_photo_that_was_edited_is_an_ingredient_with_its_manifest(fmt: str, signer: Signer) -> None:
    photo = signer.sign(picture(fmt, seed=1), fmt)
    signed = signer.sign(picture(fmt, seed=2), fmt, photo)
    found = examined(signed, signer.identity)
    assert (found.ours, found.source, found.ingredients) == (True, "compositeWithTrainedAlgorithmicMedia", 1)
    with c2pa.Reader(f"image/{fmt}", io.BytesIO(signed)) as reader:
        active = reader.get_active_manifest()
        assert active is not None
        (ingredient,) = active["ingredients"]
        assert reader.get_manifest(ingredient["active_manifest"]) is not None, "the photo's own came along"


def test_a_photo_without_a_manifest_is_an_ingredient_too(signer: Signer) -> None:
    found = examined(signer.sign(picture("png"), "png", picture("jpeg")), signer.identity)
    assert (found.ours, found.ingredients) == (True, 1)


def test_an_ingredient_that_is_no_picture_is_refused(signer: Signer) -> None:
    with pytest.raises(Refusal, match="image: its C2PA manifest can't be read .*; send the picture without it"):
        signer.sign(picture("png"), "png", b"GIF89a")


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_every_kind_sign(kind: str, authority: Authority, tmp_path: Path) -> None:
    assert Signer.of(settings_of(authority.write(tmp_path, authority.issue("Operator", kind)))) is not None


def test_the_key_is_not_shown(signer: Signer) -> None:
    assert "PRIVATE" not in repr(signer)


def test_what_cannot_sign_is_refused_when_the_gateway_starts(authority: Authority, tmp_path: Path) -> None:
    issued, other = authority.issue("Operator"), authority.issue("Other")
    certificate, key = authority.write(tmp_path / "good", issued)
    alone, strange, junk = tmp_path / "alone.pem", tmp_path / "strange.pem", tmp_path / "junk.pem"
    alone.write_text(issued.pem)
    strange.write_text(other.key_pem)
    junk.write_text("nothing")
    bad = authority.write(tmp_path / "bad", authority.issue("Operator", usage=False))
    for files, said in {
        (alone, key): "certificate: '.*alone.pem' holds one certificate; append those of its issuers",
        (junk, key): "certificate: '.*junk.pem' is no PEM certificate",
        (certificate, strange): "private key: it is not the certificate's",
        (certificate, junk): "private key: it can't be read",
        (certificate, tmp_path / "none.pem"): "private key: '.*none.pem' can't be read",
        bad: "certificate: (it can't sign|its signatures don't verify)",
    }.items():
        with pytest.raises(ImpastoError, match=said):
            Signer.of(settings_of(files))
    with pytest.raises(ImpastoError, match="certificate: it needs its private key"):
        Signer.of(GatewaySettings(("localhost:8001",), certificate=certificate))


def test_without_the_library_the_error_names_the_extra(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(MissingExtra, match=r"pip install 'impasto\[c2pa\]'"):
        Signer.of(settings_of(authority.write(tmp_path, authority.issue("Operator"))))


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_damaged_file_is_unreadable_and_no_exception(fmt: str, signer: Signer) -> None:
    signed = signer.sign(picture(fmt), fmt)
    for length in range(16, len(signed), 97):
        assert examined(signed[:length], signer.identity).ours is False


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """A url of this machine, and a list of who called it; callers are hung up on."""
    calls: list[str] = []

    def listen() -> None:
        while True:
            connection, address = server.accept()
            connection.close()
            calls.append(str(address))
            if calls[-1] == str(last):
                return

    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        last, thread = end.getsockname(), Thread(target=listen)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/manifest.c2pa", calls
        end.connect(server.getsockname())  # who came before was heard before
        thread.join()
        calls.remove(str(last))


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_strangers_file_makes_the_gateway_call_nobody(fmt: str, signer: Signer) -> None:
    """Its manifest is said to lie at a url: the library would fetch it, from wherever that is."""
    with listening() as (url, calls):
        file = elsewhere(fmt, url, signer)
        assert url.encode() in file
        assert examined(file, signer.identity).ours is False
        with contextlib.suppress(Refusal):
            signer.sign(picture("png"), "png", file)
    assert not calls


def elsewhere(fmt: str, url: str, signer: Signer) -> bytes:
    """A picture whose manifest is at the url."""
    own, out = signer.identity, io.BytesIO()
    info = c2pa.C2paSignerInfo(own.algorithm, own.chain.encode(), own.key.encode(), None)
    created = {"action": "c2pa.created", "digitalSourceType": f"{SOURCES}{PAINTED}"}
    manifest = {"assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}]}
    with c2pa.Builder.from_json(json.dumps(manifest)) as builder, c2pa.Signer.from_info(info) as native:
        builder.set_no_embed()
        builder.set_remote_url(url)
        builder.sign(native, f"image/{fmt}", io.BytesIO(picture(fmt)), out)
    return out.getvalue()


def test_a_plain_picture_has_no_manifest(signer: Signer) -> None:
    assert examined(picture("png"), signer.identity) == Manifest("none")


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.tobytes()
