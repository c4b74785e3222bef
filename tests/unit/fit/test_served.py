"""What is fitted on a checkpoint is taken by the bundle that is linked from it: LoRAs, inversions, drops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load

from impasto_export import link
from impasto_fit.budget import Budget
from impasto_fit.diffusion.inversion import Inversion
from impasto_fit.errors import CheckpointError
from impasto_fit.examples import Seeing
from impasto_fit.lora import Lora
from impasto_fit.masked.drop import Drop, Half
from impasto_fit.recipe import Recipe, Words
from impasto_fit.served import Served, imported
from tests.helpers.fits import Watcher, striped

STUDIO = Path(__file__).parents[3] / "studio"
DIFFUSION, MUSE = STUDIO / "mini-diffusion", STUDIO / "mini-muse"
WORDS = Words(("a red house",), "stripes")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    home = tmp_path_factory.mktemp("bundles")
    for place in (DIFFUSION, MUSE):
        link.link(place, home / place.name)
    return {place: home / place.name for place in (DIFFUSION, MUSE)}


def record(data: bytes) -> dict[str, Any]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: dict[str, Any] = json.loads(header["__metadata__"]["impasto"])
    return found


SMALL = {"batch": 1, "seeing": Seeing(2)}


@pytest.mark.parametrize(
    ("recipe", "place", "kind"),
    [
        (Lora(DIFFUSION, rank=2, alpha=4.0, **SMALL), DIFFUSION, "lora"),
        (Lora(MUSE, rank=2, alpha=2.0, **SMALL), MUSE, "lora"),
        (Inversion(DIFFUSION, **SMALL), DIFFUSION, "embedding"),
        (Drop(MUSE, base=Half(2, True, 1e-3, 1), reach=1), MUSE, "bottleneck"),
    ],
    ids=["lora", "masked lora", "inversion", "drop"],
)
def test_a_bundle_takes_what_was_fitted(recipe: Recipe, place: Path, kind: str, bundles: dict[Path, Path]) -> None:
    served = Served(recipe, bundles[place])
    data = served.fit([striped()], WORDS, Budget(1), Watcher())
    known = record(data)
    assert known["kind"] == kind
    fit = known["source"]["fit"]
    assert (fit["recipe"], fit["steps"], fit["words"]["style"]) == (type(recipe).__name__, 1, "stripes")
    assert served.seed == fit["constants"]["seed"] == 0
    if kind == "lora":
        scales = {float(tensor) for name, tensor in load(data).items() if name.endswith(".scale")}
        assert scales == {recipe.alpha / recipe.rank}  # type: ignore[attr-defined]
        assert known["source"]["assumed"] == []
    if kind == "bottleneck":
        assert known["prompt"] == "{context} in stripes style"


def test_a_bundle_of_another_checkpoint_refuses_it(bundles: dict[Path, Path], twin: dict[str, Path]) -> None:
    data = Lora(twin["sd1"], rank=2, **SMALL).fit([striped()], WORDS, Budget(1), Watcher())
    with pytest.raises(CheckpointError, match="doesn't take what was fitted"):
        imported(data, bundles[DIFFUSION])


def test_a_vanished_bundle_is_seen_before_any_work(tmp_path: Path, twin: dict[str, Path]) -> None:
    watcher = Watcher()
    with pytest.raises(CheckpointError, match=r"bundle: .*gone"):
        Served(Lora(twin["sd1"]), tmp_path / "gone").fit([striped()], WORDS, Budget(1), watcher)
    assert not watcher.losses


def test_a_pair_is_one_adapter(twin: dict[str, Path]) -> None:
    """No bundle of this reduced shape ships, so the importer sees the sites that one would have."""
    from impasto_export.adapters import importer
    from impasto_export.adapters.importer import Said
    from impasto_fit.masked.drop import halves, is_pair, pair_of

    one = Drop(twin["cascade"], base=Half(2, True, 1e-3, 1), fine=Half(2, False, 1e-3, 1), reach=1)
    data = one.fit([striped()], WORDS, Budget(1), Watcher())
    assert is_pair(data)
    pair, folder = pair_of(data), twin["cascade"].parent
    assert pair.fine is not None
    graphs = {}
    for graph, half in (("transformer", pair.base), ("upscaler", pair.fine)):
        sites = [
            {"name": name, "kind": "bottleneck", "in_features": width, "out_features": width}
            for place, names in half.form.sites.items()
            for name in names
            for width in [half.place(place).down.shape[1]]
        ]
        graphs[graph] = {"sites": sites}
    base, second = halves(data)
    (folder / "bottleneck.safetensors").write_bytes(base)
    (folder / "upscaler.safetensors").write_bytes(second or b"")
    manifest = {"family": "masked", "architecture": "a" * 64, "graphs": graphs, "name": "twin"}
    made = importer.convert(folder / "bottleneck.safetensors", manifest, Said(upscaler=folder / "upscaler.safetensors"))
    assert made.record["stages"] == ["base", "upscale"]
    assert made.record["source"]["fit"]["recipe"] == "Drop"
