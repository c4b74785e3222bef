"""What benchmarks/realsize.py is made of, on a stand-in of a few megabytes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.parts.realsize import children
from benchmarks.parts.realsize.backbones import (
    BACKBONES,
    MINI,
    PUBLIC,
    STAND_INS,
    random_values,
    write_checkpoint,
    write_weights,
)
from benchmarks.parts.realsize.children import ADAPTER, BUNDLE, CHECKPOINT, LORA, REGISTRY
from benchmarks.parts.realsize.feeds import ALPHA, LANES, RANK, banks, deltas, feeds, write_lora
from benchmarks.parts.realsize.figures import Bar, Report, compared, difference, held_against_bars, missed, worst
from benchmarks.parts.realsize.process import Unmeasured, check_disk, check_memory, own_peak, run
from benchmarks.realsize import different_files

from impasto_export import manifest
from impasto_export.adapters import importer
from impasto_export.adapters.registry import Registry
from impasto_export.link import link
from impasto_export.weights import read_header, read_tensor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mini-diffusion as the benchmark has a backbone: random, linked, with its LoRA."""
    place = tmp_path_factory.mktemp("realsize")
    write_checkpoint(MINI, place / CHECKPOINT)
    link(place / CHECKPOINT, place / BUNDLE)
    write_lora(MINI.architecture(), place / LORA)
    made = importer.convert(place / LORA, manifest.load(place / BUNDLE), importer.Said(alpha=ALPHA))
    Registry(place / REGISTRY).put(ADAPTER, made.data)
    return place


def test_noise_goes_through_a_matrix_without_growing() -> None:
    draw = np.random.default_rng(0)
    matrix = random_values("conv.weight", (256, 64, 3, 3), draw).reshape(256, -1)
    through = matrix @ draw.standard_normal(matrix.shape[1])
    assert np.std(through) == pytest.approx(1, rel=0.2)


def test_norms_and_biases_are_almost_what_they_begin_as() -> None:
    draw = np.random.default_rng(0)
    norm, bias = (random_values(name, (1000,), draw) for name in ("norm.weight", "norm.bias"))
    assert norm.mean() == pytest.approx(1, abs=0.02)
    assert bias.mean() == pytest.approx(0, abs=0.02)
    assert norm.std() == pytest.approx(0.1, abs=0.01) == bias.std()


def test_weights_are_fp16_and_the_same_again(tmp_path: Path) -> None:
    shapes = {"b.weight": (8, 4), "a.bias": (8,), "a.weight": (8,)}
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        write_weights(tmp_path / name, shapes, seed)
    header = read_header(tmp_path / "one")
    assert {name: tensor.shape for name, tensor in header.tensors.items()} == shapes
    assert {tensor.dtype for tensor in header.tensors.values()} == {"F16"}
    assert np.abs(read_tensor(header, "a.weight") - 1).max() < 0.2
    assert (tmp_path / "one").read_bytes() == (tmp_path / "again").read_bytes()
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()


def test_every_shipped_backbone_is_measured() -> None:
    assert {path.name for path in PUBLIC.iterdir()} == set(BACKBONES)


@pytest.mark.parametrize("name", STAND_INS)
def test_a_graph_is_fed_all_it_takes(name: str) -> None:
    backbone = STAND_INS[name]
    for key, graph in backbone.architecture().graphs.items():
        fed = feeds(backbone, key)
        assert {port.name: (port.dtype, len(port.shape)) for port in graph.inputs} == {
            port: (str(array.dtype), array.ndim) for port, array in fed.items()
        }


def test_texts_end_before_they_are_full() -> None:
    ids = feeds(STAND_INS["mini-muse"], "text_encoder")["input_ids"]
    end = STAND_INS["mini-muse"].architecture().components["text_encoder"].config["eos_token_id"]
    assert {int(np.argmax(text == end)) for text in ids} == {16}


def test_the_second_row_is_the_lora(folder: Path) -> None:
    graph = MINI.architecture().graphs["unet"]
    registry = Registry(folder / REGISTRY)
    adapter = registry.file(registry.show(ADAPTER).digest)
    rows = banks(folder / BUNDLE / graph.file, graph, "unet", adapter)
    added = deltas(folder / LORA, "unet")
    assert len(added) > 3
    for layer, delta in added.items():
        a, b = rows[f"{layer}.lora_A"], rows[f"{layer}.lora_B"]
        assert len(a) == len(b) == LANES * RANK
        assert not a[:RANK].any()
        np.testing.assert_allclose(b[RANK:].T @ a[RANK:], delta, atol=1e-5)
    assert not any(rows[f"{site.name}.lora_A"].any() for site in graph.sites if site.name not in added)


def test_both_sides_compute_the_same(folder: Path) -> None:
    graphs = compared(children.reference(MINI, folder), children.ours(MINI, folder))
    assert graphs.keys() == MINI.architecture().graphs.keys()
    errors = worst(graphs)
    assert errors["relative_error"] < 1e-5
    assert errors["adapted_error"] < 1e-5
    assert graphs["unet"]["adapter_effect"] > 0.05


def test_a_difference_is_relative_and_of_integers_a_share() -> None:
    assert difference(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == pytest.approx(0.1)
    assert difference(np.array([1, 2, 3, 5]), np.array([1, 2, 3, 4])) == 0.25


def test_the_worst_output_counts_and_lanes_are_told_apart() -> None:
    one, two = np.ones((2, 4)), np.full((2, 4), 2.0)
    reference = {
        "text/embeds": np.concatenate([one[:1], two[:1]]),
        "text/embeds/plain": one[:1],
        "vae/a": two,
        "vae/b": one,
    }
    ours = {"text/embeds": np.concatenate([1.1 * one[:1], 2.4 * one[:1]]), "vae/a": 2.2 * one, "vae/b": 1.3 * one}
    found = compared(reference, ours)
    assert found["text"] == {
        "relative_error": pytest.approx(0.1), "adapted_error": pytest.approx(0.2), "adapter_effect": pytest.approx(1)
    }  # fmt: skip
    assert found["vae"] == {"relative_error": pytest.approx(0.3)}
    assert worst(found) == {"relative_error": pytest.approx(0.3), "adapted_error": pytest.approx(0.2)}


def test_what_is_not_a_number_is_the_worst_and_meets_no_bar() -> None:
    lost = {"vae/a": np.array([np.nan]), "vae/b": np.ones(1)}
    found = worst(compared({"vae/a": np.ones(1), "vae/b": np.ones(1)}, lost))
    (row,) = held_against_bars({"sd1": found}, [Bar("relative_error", 1e-4)])
    assert not row["met"]


def test_only_what_was_measured_is_held_against_bars() -> None:
    figures: dict[str, Report] = {
        "sd1": {"link": {"seconds": 30.0}, "failed": {"parity": "no memory"}},
        "sdxl": {"link": {"seconds": 12.5}, "failed": {}},
    }
    bars = [Bar("link.seconds", 10, ("sdxl",)), Bar("relative_error", 1e-4)]
    assert [(row["backbone"], row["met"]) for row in held_against_bars(figures, bars)] == [("sdxl", False)]
    assert missed(figures) == ["sdxl: link.seconds is 12.5, the bar 10", "sd1: parity failed: no memory"]


def test_files_that_differ_or_are_missing_are_named(tmp_path: Path) -> None:
    for folder, files in {
        "ours": {"a": "1", "b": "2", "new": ""},
        "shipped": {"a": "1", "b": "3", "old": "", "original.json": "{}"},
    }.items():
        (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / folder / name).write_text(text)
    assert different_files(tmp_path / "ours", tmp_path / "shipped") == ["b", "new", "old"]


def test_a_child_tells_its_memory() -> None:
    """Above this process's own, which is what it begins with."""
    size = own_peak() + 100_000_000
    small, large = (run("python", [sys.executable, "-c", f"bytearray({taken})"]) for taken in (1, size))
    assert small.peak_bytes < size < large.peak_bytes
    assert small.seconds > 0


def test_a_child_that_fails_has_its_last_words_told() -> None:
    with pytest.raises(Unmeasured, match="link: exit status 3: error: no such checkpoint"):
        run("link", [sys.executable, "-c", "import sys; print('error: no such checkpoint'); sys.exit(3)"])


def test_what_there_is_no_room_for_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(Unmeasured, match=r"1000000\.0 GB are needed"):
        check_disk(tmp_path, 10**15)
    with pytest.raises(Unmeasured, match=r"ours: 1000000\.0 GB of memory are needed"):
        check_memory("ours", 10**15)
