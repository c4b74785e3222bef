"""The registry, by its functions and through the commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from impasto_export import atomic, cli, manifest
from impasto_export.adapters.registry import Registry, default_place
from impasto_export.errors import RegistryError
from impasto_export.weights import encode

RECORD = json.dumps({"format": 1, "rank": 2, "sites": 1})


def adapter(value: float) -> bytes:
    return encode({"unet.x.A": ("F32", np.full((3, 2), value, "<f4"))}, {"impasto": RECORD})


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def objects(registry: Registry) -> list[str]:
    return sorted(path.stem for path in (registry.folder / "objects").iterdir())


def test_names_are_pointers_to_content(registry: Registry) -> None:
    first, second = registry.put("one", adapter(1)), registry.put("two", adapter(1))
    assert first == second
    assert objects(registry) == [first]
    assert registry.names() == ["one", "two"]
    assert registry.show("one").record["rank"] == 2
    registry.remove("one")
    assert registry.show("two").digest == first
    registry.remove("two")
    assert (registry.names(), objects(registry)) == ([], [])


def test_putting_again_moves_the_name_and_keeps_what_a_server_may_be_about_to_read(registry: Registry) -> None:
    first = registry.put("one", adapter(1))
    second = registry.put("one", adapter(2))
    assert registry.show("one").digest == second
    assert objects(registry) == sorted([first, second])
    registry.put("two", adapter(2))
    registry.remove("one")
    assert objects(registry) == [second]


@pytest.mark.parametrize("name", ["", "Upper", "../up", "a/b", ".hidden", "x" * 65, "é"])
def test_bad_names(registry: Registry, name: str) -> None:
    with pytest.raises(RegistryError, match="is not an adapter's name"):
        registry.put(name, adapter(1))
    with pytest.raises(RegistryError, match="is not an adapter's name"):
        registry.show(name)


def test_an_unknown_name_gets_the_nearest(registry: Registry) -> None:
    registry.put("stained-glass", adapter(1))
    with pytest.raises(RegistryError, match="did you mean stained-glass"):
        registry.show("staned-glass")


def test_an_interrupted_put_changes_nothing(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = registry.put("one", adapter(1))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        registry.put("one", adapter(2))
    assert registry.show("one").digest == digest
    assert not [path for path in registry.folder.rglob(".*") if path.is_file()]


def test_an_interrupted_folder_leaves_nothing(tmp_path: Path) -> None:
    def half(target: Path) -> None:
        with atomic.folder(target) as draft:
            (draft / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_environment_names_the_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPASTO_REGISTRY", "/some/where")
    assert default_place() == "/some/where"
    monkeypatch.delenv("IMPASTO_REGISTRY")
    assert default_place() == str(Path.home() / ".local/share/impasto/registry")


def lora(bundle: Path, folder: Path, value: float = 1.0) -> Path:
    """A one-site LoRA in diffusers' layout for the bundle's first UNet site."""
    site = manifest.load(bundle)["graphs"]["unet"]["sites"][0]
    a, b = np.full((2, site["in_features"]), value, "<f4"), np.ones((site["out_features"], 2), "<f4")
    key = f"unet.{site['name']}"
    path = folder / "lora.safetensors"
    path.write_bytes(encode({f"{key}.lora_A.weight": ("F32", a), f"{key}.lora_B.weight": ("F32", b)}, {}))
    return path


def test_commands_from_import_to_rm(bundle: Path, tmp_path: Path) -> None:
    run, store = CliRunner(), ["--registry", str(tmp_path / "registry")]
    source = str(lora(bundle, tmp_path))
    made = run.invoke(
        cli.adapters, ["import", source, "--name", "s", "--bundle", str(bundle), "--trigger", "w", *store]
    )
    assert made.exit_code == 0, made.output
    assert "note: alpha is not stated" in made.output
    (listed,) = json.loads(run.invoke(cli.adapters, ["list", "--json", *store]).output)
    assert (listed["name"], listed["trigger"], listed["sites"]) == ("s", "w", 1)
    assert "rank: 2" in run.invoke(cli.adapters, ["show", "s", *store]).output
    assert run.invoke(cli.adapters, ["check", "s", "--bundle", str(bundle), *store]).output == "s: ok\n"
    assert run.invoke(cli.adapters, ["rm", "s", *store]).exit_code == 0
    assert run.invoke(cli.adapters, ["list", "--json", *store]).output == "[]\n"


def test_the_same_file_by_another_name_is_the_same_adapter(bundle: Path, tmp_path: Path) -> None:
    run, store = CliRunner(), ["--bundle", str(bundle), "--registry", str(tmp_path / "registry")]
    source = lora(bundle, tmp_path)
    for file in (source.name, "\u00e9" * 120 + ".safetensors"):
        source = source.rename(tmp_path / file)
        made = run.invoke(cli.adapters, ["import", str(source), "--name", f"of-{len(file)}", *store])
        assert made.exit_code == 0, made.output
    one, two = map(Registry(tmp_path / "registry").show, ("of-16", "of-132"))
    assert one.digest == two.digest
    assert (one.record["source"]["file"], two.record["source"]["file"]) == ("lora.safetensors", source.name)


def test_an_older_object_says_itself_what_its_file_was_called(registry: Registry) -> None:
    record = json.dumps({"format": 1, "source": {"file": "old.safetensors"}})
    data = encode({"unet.x.A": ("F32", np.zeros((3, 2), "<f4"))}, {"impasto": record})
    registry.put("old", data)
    assert registry.show("old").record["source"] == {"file": "old.safetensors"}


def test_a_list_of_no_registry_says_so(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    found = CliRunner().invoke(cli.adapters, ["list", "--registry", str(missing)])
    assert (found.exit_code, found.stdout) == (1, "")
    assert found.stderr == f"error: no registry at {missing}; set IMPASTO_REGISTRY or pass --registry\n"


def test_an_import_says_what_it_replaces(bundle: Path, tmp_path: Path) -> None:
    store = Registry(tmp_path / "registry")

    def imported(value: float) -> str:
        source = str(lora(bundle, tmp_path, value))
        place = ["--name", "ink", "--bundle", str(bundle), "--registry", str(store.folder)]
        made = CliRunner().invoke(cli.adapters, ["import", source, *place])
        assert made.exit_code == 0, made.output
        return made.output

    assert "was" not in imported(1)
    first = store.show("ink").digest
    assert "was" not in imported(1)
    shown = imported(2)
    second = store.show("ink").digest
    assert f"note: ink: was {first[:12]} (rank 2, 1 sites), now {second[:12]}\n" in shown
    (store.folder / "objects" / f"{second}.safetensors").write_bytes(b"no adapter")
    assert f"note: ink: was damaged, now {first[:12]}\n" in imported(1)


def test_check_finds_changed_bytes(registry: Registry) -> None:
    digest = registry.put("one", adapter(1))
    (registry.folder / "objects" / f"{digest}.safetensors").write_bytes(adapter(2))
    found = CliRunner().invoke(cli.adapters, ["check", "one", "--registry", str(registry.folder)])
    assert found.exit_code == 1
    assert "do not match its digest" in found.output


def test_check_finds_an_adapter_of_another_backbone(registry: Registry, bundle: Path) -> None:
    registry.put("one", adapter(1))
    found = CliRunner().invoke(
        cli.adapters, ["check", "one", "--json", "--bundle", str(bundle), "--registry", str(registry.folder)]
    )
    assert found.exit_code == 1
    problems = [
        "it was imported for another architecture, or by an older impasto; import its source again",
        "unet.x.A: the bundle has no such site",
    ]
    assert json.loads(found.output)["problems"] == problems


def test_errors_are_one_line_without_a_traceback(bundle: Path, tmp_path: Path) -> None:
    source, store = str(lora(bundle, tmp_path, float("nan"))), ["--registry", str(tmp_path / "registry")]
    failed = CliRunner().invoke(cli.adapters, ["import", source, "--name", "s", "--bundle", str(bundle), *store])
    assert failed.exit_code == 1
    assert failed.output.startswith("error: ")
    assert "proj_in: down holds NaN" in failed.output
    assert not (tmp_path / "registry").exists()
