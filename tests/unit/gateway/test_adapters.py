"""The adapters' endpoints: list, preview, upload, removal."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from impasto_client import FakeTransport, ServerFull
from impasto_client.catalogue import Catalogue
from impasto_client.example import EXAMPLE
from impasto_export import manifest
from impasto_gateway import registry as registry_module
from impasto_gateway.callers import Allowance
from impasto_gateway.previews import scene, words_of
from impasto_gateway.settings import GatewaySettings, Limits
from tests.helpers import toy
from tests.helpers.doorway import SETTINGS, adapter, calling, having, key_in, refused, with_adapters
from tests.unit.export.test_registry import lora

INK = adapter("ink", trigger="in ink", prompt="{context} drawn with a pen")
NEON = adapter("neon", kind="bottleneck", fits=False)
WAVE = adapter("wave", kind="vector")
TI = adapter("sks03", kind="embedding", trigger="<sks03>")
MIXED = adapter("mixed", kind="delta")
ALL = (WAVE, NEON, INK, TI, MIXED)
Story = Callable[[httpx.AsyncClient], Awaitable[None]]


def got(path: str, fake: FakeTransport | None = None, **params: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with calling(fake=fake or having(*ALL)) as caller:
            return await caller.get(path, params=params or None)

    return asyncio.run(ask())


def names(**params: str) -> list[str]:
    return [one["name"] for one in got("/v1/adapters", None, **params).json()["data"]]


def test_a_list_by_name() -> None:
    found = got("/v1/adapters").json()
    assert (found["object"], found["has_more"]) == ("list", False)
    assert [one["name"] for one in found["data"]] == ["ink", "mixed", "neon", "sks03", "wave"]
    ink = found["data"][0]
    assert {name: ink[name] for name in ("kind", "trigger", "prompt", "rank", "fits", "digest")} == {
        "kind": "lora",
        "trigger": "in ink",
        "prompt": "{context} drawn with a pen",
        "rank": 4,
        "fits": ["fake"],
        "digest": INK.digest,
    }
    assert ink["preview"] == f"/v1/adapters/ink/preview?digest={INK.digest[:16]}"
    assert [one["name"] for one in found["data"] if one["preview"] is None] == ["mixed", "neon"]


def test_one_of_the_list() -> None:
    assert got("/v1/adapters/ink").json() == got("/v1/adapters", search="pen").json()["data"][0]
    assert refused(got("/v1/adapters/none")) == (404, "adapter_not_found", "name")


def test_a_wrong_method_is_told_all_the_right_ones() -> None:
    async def story(caller: httpx.AsyncClient) -> None:
        answer = await caller.post("/v1/adapters/ink")
        assert answer.status_code == 405
        assert {"GET", "PUT", "DELETE"} <= set(answer.headers["allow"].split(", "))

    through(story, SETTINGS)


def test_a_search_reads_names_and_words() -> None:
    assert names(search="PEN") == ["ink"]
    assert names(search="ink drawn") == ["ink"]
    assert names(search="ink wave") == []
    assert names(bundle="fake") == ["ink", "mixed", "sks03", "wave"]
    assert names(kind="vector", search="w") == ["wave"]


def test_ten_thousand_adapters_come_in_pages() -> None:
    many = [adapter(f"style-{number:05}") for number in range(10_000)]

    async def story() -> None:
        async with calling(fake=having(*reversed(many))) as caller:
            for first in (0, 5000, 9500):
                last = many[first - 1].name if first else ""
                answer = (await caller.get("/v1/adapters", params={"limit": "1000", "after": last})).json()
                assert [one["name"] for one in answer["data"]] == [one.name for one in many[first : first + 1000]]
                assert answer["has_more"] == (first < 9000)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=1e2", "limit"),
        ("limit=²", "limit"),
        ("limit=", "limit"),
        (f"limit=1{'0' * 5000}", "limit"),
        ("bundle=none", "bundle"),
        ("serach=ink", "serach"),
        ("search=a&search=b", "search"),
        ("search=%00", "search"),
        (f"search={'x' * 3000}", "search"),
    ],
)
def test_queries_that_are_refused(query: str, param: str) -> None:
    assert refused(got(f"/v1/adapters?{query}")) == (400, "invalid_value", param)


@pytest.mark.parametrize("one", [INK, WAVE, TI], ids=lambda one: str(one.name))
def test_a_preview_is_painted_once(one: Any) -> None:
    async def story() -> None:
        fake = having(*ALL)
        async with calling(fake=fake) as caller:
            path = f"/v1/adapters/{one.name}/preview"
            answers = await asyncio.gather(*(caller.get(path) for _ in range(5)))
            assert {answer.status_code for answer in answers} == {200}
            assert len({answer.content for answer in answers}) == 1
            assert len(fake.requests) == 1
            again = await caller.get(path, headers={"if-none-match": answers[0].headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert answers[0].headers["content-type"] == "image/webp"
        picture = Image.open(io.BytesIO(answers[0].content))
        assert max(picture.size) <= 192

    asyncio.run(story())


def test_a_preview_shows_the_adapter() -> None:
    sent = {}
    for one in (INK, WAVE, TI):
        fake = having(*ALL)
        assert got(f"/v1/adapters/{one.name}/preview", fake).status_code == 200
        sent[one.name] = fake.requests[0]
    assert sent["ink"]["ADAPTER_NAMES"].tolist() == [b"ink"]
    assert sent["ink"]["PROMPT"].tolist() == [b"a house by a lake drawn with a pen"]
    assert sent["sks03"]["STYLE"].tolist() == [b"sks03"]
    assert Image.open(io.BytesIO(sent["wave"]["IMAGE"].item())).size == scene().size


def test_words_of_a_preview() -> None:
    assert words_of(adapter("ink", trigger="inked")) == "a house by a lake, inked"
    assert words_of(adapter("ink", prompt="{context} in {style} style")) == "a house by a lake in ink style"
    assert words_of(adapter("ink")) == "a house by a lake"


def test_previews_that_there_are_not() -> None:
    assert refused(got("/v1/adapters/nobody/preview")) == (404, "adapter_not_found", "name")
    assert refused(got("/v1/adapters/neon/preview")) == (404, "no_preview", "name")
    assert refused(got("/v1/adapters/mixed/preview")) == (404, "no_preview", "name")
    assert refused(got("/v1/adapters/neon/preview", bundle="fake")) == (400, "invalid_value", "bundle")
    assert refused(got("/v1/adapters/ink/preview", bundle="none")) == (400, "invalid_value", "bundle")


def test_a_preview_that_a_full_server_refuses_is_painted_later() -> None:
    async def story() -> None:
        fake = having(INK)
        async with calling(fake=fake) as caller:
            await caller.get("/v1/adapters")  # the catalogue is known now
            fake.error = ServerFull("full", 3.0)
            answer = await caller.get("/v1/adapters/ink/preview")
            assert refused(answer)[:2] == (429, "server_full")
            assert answer.headers["retry-after"] == "3"
            fake.error = None
            assert (await caller.get("/v1/adapters/ink/preview")).status_code == 200

    asyncio.run(story())


def test_a_preview_counts_when_it_is_painted(tmp_path: Path) -> None:
    async def story() -> None:
        settings = replace(SETTINGS, keys=tmp_path / "keys")
        key = key_in(tmp_path / "keys", "studio", limits=Allowance(requests_per_minute=1))
        async with calling(settings, having(INK, TI), key) as caller:
            for _ in range(3):
                assert (await caller.get("/v1/adapters/ink/preview")).status_code == 200
            assert (await caller.get("/v1/adapters/sks03/preview")).status_code == 429

    asyncio.run(story())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy as the importer takes it: with its digest."""
    folder = toy.write_bundle(tmp_path_factory.mktemp("toy") / "bundle")
    said: Any = toy.manifest()
    for graph in said["graphs"].values():
        graph.setdefault("sites", [])
    toy.write_manifest(folder, {**said, "digest": manifest.digest(said)})
    return folder


@pytest.fixture
def settings(bundle: Path, tmp_path: Path) -> GatewaySettings:
    """With a registry, and the bundle in the place of the fake's."""
    return replace(
        SETTINGS, registry=tmp_path / "registry", bundles={"fake": bundle}, limits=Limits(adapter_bytes=1 << 20)
    )


def through(story: Story, settings: GatewaySettings, catalogue: Catalogue = EXAMPLE) -> None:
    async def told() -> None:
        async with calling(settings, FakeTransport(catalogue=catalogue)) as caller:
            await asyncio.wait_for(story(caller), 600)

    asyncio.run(told())


def held(settings: GatewaySettings) -> list[str]:
    assert isinstance(settings.registry, Path)
    return sorted(path.stem for path in (settings.registry / "names").glob("*.json"))


def test_an_adapter_is_uploaded_replaced_and_removed(settings: GatewaySettings, bundle: Path, tmp_path: Path) -> None:
    async def story(caller: httpx.AsyncClient) -> None:
        path, params = "/v1/adapters/my.ink-2", {"trigger": "--in ink", "bundle": "fake"}
        first = await caller.put(path, content=lora(bundle, tmp_path).read_bytes(), params=params)
        assert first.status_code == 201, first.text
        made = first.json()
        assert (made["object"], made["name"], made["trigger"]) == ("adapter", "my.ink-2", "--in ink")
        assert [note for note in made["warnings"] if note.startswith("alpha is not stated: alpha = rank")]
        assert "upload" not in first.text
        assert held(settings) == ["my.ink-2"]
        taken = await caller.put(path, content=b"", headers={"if-none-match": "*"})
        assert refused(taken) == (412, "invalid_value", "name")
        second = await caller.put(path, content=lora(bundle, tmp_path, 2.0).read_bytes())
        assert second.status_code == 200
        assert second.json()["digest"] != made["digest"]
        assert (await caller.delete(path)).json() == {"object": "adapter", "name": "my.ink-2", "deleted": True}
        assert held(settings) == []
        gone = await caller.delete(path)
        assert refused(gone) == (404, "adapter_not_found", "name")
        assert str(tmp_path) not in gone.text

    through(story, settings)


def test_what_the_importer_refuses(settings: GatewaySettings, bundle: Path, tmp_path: Path) -> None:
    """In its words, without our paths; and nothing is left of it."""

    async def story(caller: httpx.AsyncClient) -> None:
        whole = lora(bundle, tmp_path).read_bytes()
        bad = {
            "mix: down holds NaN": lora(bundle, tmp_path, float("nan")).read_bytes(),
            "bytes": whole[:-4],
        }
        for problem, content in bad.items():
            answer = await caller.put("/v1/adapters/ink", content=content)
            assert refused(answer) == (400, "adapter_refused", "file")
            assert problem in answer.json()["error"]["message"]
            assert "impasto-upload" not in answer.text
            assert str(tmp_path) not in answer.text
        for alpha in ("much", "nan", "inf"):
            answer = await caller.put("/v1/adapters/ink", content=whole, params={"alpha": alpha})
            assert refused(answer) == (400, "invalid_value", "alpha")
        assert held(settings) == []

    through(story, settings)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04\x95",
        b"PK\x03\x04" + bytes(100),
        b"\x80\x02}q\x00(X" + bytes(100),
        (1 << 40).to_bytes(8, "little") + b"{",
        bytes(8) + b"{}",
        (2).to_bytes(8, "little") + b"[]",
    ],
)
def test_what_is_no_safetensors_never_reaches_the_importer(
    content: bytes, settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "_IMPASTO", ("false",))

    async def story(caller: httpx.AsyncClient) -> None:
        answer = await caller.put("/v1/adapters/ink", content=content)
        assert refused(answer) == (400, "adapter_refused", "file")
        assert "not a safetensors file" in answer.json()["error"]["message"]

    through(story, settings)


@pytest.mark.parametrize(
    "name", ["Ink", ".ink", "-ink", "..%2f..%2fetc", "%2e%2e", "ink%00", "ink%0a", "x" * 65, "%C3%A9", "a%5Cb"]
)
def test_names_that_are_paths_or_none(name: str, settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_IMPASTO", ("false",))

    async def story(caller: httpx.AsyncClient) -> None:
        for method in ("PUT", "DELETE"):
            answer = await caller.request(method, f"/v1/adapters/{name}", content=b"")
            assert answer.status_code in (400, 404)
            assert answer.json()["error"]["code"] in ("invalid_value", "not_found")
        assert (await caller.get(f"/v1/adapters/{name}/preview")).status_code in (400, 404)

    through(story, settings)
    assert isinstance(settings.registry, Path)
    assert not settings.registry.exists()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("s3://styles: the store does not answer (no route to 10.0.0.1); try again", (503, "registry_down", None)),
        ("s3://styles: the store refuses this (key AKIA1234); check", (503, "registry_down", None)),
        ("another writer has pointed ink to 0123 meanwhile, so it was left at that", (409, "name_changed", "name")),
        ("ink is taken; choose another name, or import without --new", (412, "invalid_value", "name")),
        ("https://styles can only be read, since it is a web server's", (501, "no_registry", None)),
    ],
)
def test_what_a_registry_in_a_store_refuses(
    said: str,
    told: tuple[int, str, str | None],
    settings: GatewaySettings,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it lies, and under which key, is in the log."""
    monkeypatch.setattr(registry_module, "_IMPASTO", ("sh", "-c", f'echo "error: {said}" >&2; exit 1'))

    async def story(caller: httpx.AsyncClient) -> None:
        answer = await caller.put("/v1/adapters/ink", content=lora(bundle, tmp_path).read_bytes())
        assert refused(answer) == told
        assert not {"10.0.0.1", "AKIA1234", "s3://"} & set(answer.text.replace('"', " ").split())

    through(story, replace(settings, registry="s3://styles"))


def test_an_upload_is_bounded_while_it_arrives(settings: GatewaySettings) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield (1 << 20).to_bytes(8, "little") + b"{"
        while True:
            sent += 1 << 16
            yield bytes(1 << 16)

    async def story(caller: httpx.AsyncClient) -> None:
        assert refused(await caller.put("/v1/adapters/ink", content=endless())) == (413, "body_too_large", None)
        assert sent <= 2 << 20

    through(story, settings)


def test_uploads_at_once(
    settings: GatewaySettings, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each name, and a few in all; those that end make room."""
    monkeypatch.setattr(registry_module, "_IMPASTO", ("sh", "-c", "echo '{}'"))
    whole = lora(bundle, tmp_path).read_bytes()

    async def story(caller: httpx.AsyncClient) -> None:
        gate = asyncio.Event()
        begun: asyncio.Queue[None] = asyncio.Queue()

        async def slowly() -> AsyncIterator[bytes]:
            yield whole[:100]
            begun.put_nowait(None)
            await gate.wait()
            yield whole[100:]

        def put(name: str) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(caller.put(f"/v1/adapters/{name}", content=slowly()))

        running = [put(f"ink-{number}") for number in range(registry_module.UPLOADS)]
        for _ in running:
            await begun.get()
        same, more = await put("ink-0"), await put("other")
        assert refused(same) == (409, "upload_under_way", "name")
        assert refused(more) == (429, "uploads_full", None)
        assert same.headers["retry-after"] == more.headers["retry-after"] == "2"
        gate.set()
        assert {(await one).status_code for one in running} == {201}
        assert (await caller.put("/v1/adapters/other", content=whole)).status_code == 201

    through(story, settings)


def test_who_leaves_during_an_import_leaves_nothing_behind(
    settings: GatewaySettings, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    monkeypatch.setattr(
        registry_module, "_IMPASTO", ("sh", "-c", f"sleep 0.5; echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600")
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    async def story(caller: httpx.AsyncClient) -> None:
        upload = asyncio.create_task(caller.put("/v1/adapters/ink", content=lora(bundle, tmp_path).read_bytes()))
        while not pid.exists():
            await asyncio.sleep(0.01)
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)
        assert not [*tmp_path.glob("impasto-upload-*")]

    through(story, settings)


def test_what_an_importer_may_not_see(
    settings: GatewaySettings, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        registry_module, "_IMPASTO", ("sh", "-c", 'printf \'{"name":"ink","seen":"%s"}\' "$IMPASTO_KEYS"')
    )

    async def story(caller: httpx.AsyncClient) -> None:
        monkeypatch.setenv("IMPASTO_KEYS", "one sha256:…")
        answer = await caller.put("/v1/adapters/ink", content=lora(bundle, tmp_path).read_bytes())
        assert answer.json()["seen"] == ""

    through(story, settings)


def test_an_importer_that_breaks_is_our_fault(
    settings: GatewaySettings,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = lora(bundle, tmp_path).read_bytes()

    async def story(caller: httpx.AsyncClient) -> None:
        answer = await caller.put("/v1/adapters/ink", content=content)
        assert refused(answer)[:2] == (500, "server_error")
        assert "secret" not in answer.text

    for script in ("echo Traceback secret >&2; exit 1", "echo secret >&2; exit 2", "kill -9 $$"):
        monkeypatch.setattr(registry_module, "_IMPASTO", ("sh", "-c", script))
        through(story, settings)
    assert "secret" in caplog.text


def test_a_file_of_many_styles(
    settings: GatewaySettings, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = json.dumps([{"name": "monet", "digest": "1"}, {"name": "degas", "digest": "2"}])
    monkeypatch.setattr(registry_module, "_IMPASTO", ("sh", "-c", f"echo '{made}'"))

    async def story(caller: httpx.AsyncClient) -> None:
        answer = await caller.put("/v1/adapters/monet", content=lora(bundle, tmp_path).read_bytes())
        assert answer.json() == {"object": "adapter", "name": "monet", "digest": "1", "also": ["degas"], "warnings": []}

    through(story, settings)


def test_requests_that_are_no_upload(settings: GatewaySettings) -> None:
    async def story(caller: httpx.AsyncClient) -> None:
        path = "/v1/adapters/ink"
        form = await caller.put(path, files={"file": b"x"})
        assert refused(form) == (415, "invalid_value", "content-type")
        assert refused(await caller.put(path, params={"bundle": "none"})) == (400, "invalid_value", "bundle")
        assert refused(await caller.put(path, params={"registry": "/etc"})) == (400, "invalid_value", "registry")

    through(story, settings)
    elsewhere = replace(settings, bundles={"other": Path("/nowhere")})

    async def unknown(caller: httpx.AsyncClient) -> None:
        answer = await caller.put("/v1/adapters/ink")
        assert refused(answer) == (400, "invalid_value", "bundle")
        assert "start it with --bundle fake=DIR" in answer.json()["error"]["message"]

    through(unknown, elsewhere)


def test_without_a_registry() -> None:
    async def story(caller: httpx.AsyncClient) -> None:
        for method in ("PUT", "DELETE"):
            answer = await caller.request(method, "/v1/adapters/ink")
            assert refused(answer) == (501, "no_registry", None)
            assert "--registry" in answer.json()["error"]["message"]

    through(story, SETTINGS, with_adapters(INK))
