from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from impasto_server.engines.profiles import MOST_RANK, Profile, Shape, Shapes, bucket, most_lanes, profiles_for
from impasto_server.errors import SetupError
from impasto_server.families import open_bundle
from tests.helpers import toy

TABLES = {"mix.lora_A": (80, toy.CHANNELS), "mix.lora_B": (80, toy.CHANNELS)}


def of(folder: Path, lanes: int, tables: Shapes) -> tuple[Profile, ...]:
    """The UNet's."""
    return profiles_for(folder / "unet.onnx", lanes, tables, open_bundle(folder).manifest.sides)


def changed(bundle: Path, folder: Path, **image: int) -> Path:
    """The bundle with another image size, in a folder of its own."""
    copy = Path(shutil.copytree(bundle, folder / "changed"))
    record = json.loads((copy / "manifest.json").read_text())
    record["image"].update(image)
    (copy / "manifest.json").write_text(json.dumps(record))
    return copy


def ranges(profile: Profile, name: str) -> tuple[Shape, Shape, Shape]:
    """What an input is at least, usually and at most."""
    return profile.least[name], profile.usual[name], profile.most[name]


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (5, 6), (7, 8), (9, 10), (10, 10)])
def test_a_batch_is_padded_up_to_one_of_a_few_sizes(rows: int, size: int) -> None:
    assert bucket(rows, 10) == size


def test_a_server_of_few_lanes_still_scores_whole_batches() -> None:
    assert (most_lanes(0), most_lanes(2), most_lanes(48)) == (16, 16, 48)


def test_the_usual_picture_has_a_profile_of_its_own_and_all_share_another(bundle: Path) -> None:
    usual, every = of(bundle, 24, TABLES)
    assert (usual.least["sample"], usual.usual["sample"], usual.most["sample"]) == (
        (1, 4, 8, 8),
        (8, 4, 8, 8),
        (24, 4, 8, 8),
    )
    assert (every.least["sample"], every.usual["sample"], every.most["sample"]) == (
        (1, 4, 2, 2),
        (8, 4, 8, 8),
        (24, 4, 16, 16),
    )
    assert usual.most["timestep"] == (24,)
    assert usual.most["encoder_hidden_states"] == (24, toy.LENGTH, toy.WIDTH)


def test_tables_are_as_they_are_and_lanes_have_as_much_rank_as_a_bank_allows(bundle: Path) -> None:
    usual, _ = of(bundle, 8, TABLES)
    assert ranges(usual, "mix.lora_A") == ((80, 4),) * 3
    assert ranges(usual, "lora_rows") == ranges(usual, "lora_weights") == ((1, 1), (8, 16), (16, MOST_RANK))


def test_a_profile_holds_what_lies_between(bundle: Path) -> None:
    usual, every = of(bundle, 8, {})
    small, long = ({"sample": shape} for shape in ((3, 4, 4, 4), (3, 4, 2, 32)))
    assert (usual.holds(small), every.holds(small), every.holds(long)) == (False, True, False)
    assert usual.holds({"down_residual_0": (3, 4, 8, 8), "timestep": (16,)})


def test_pictures_of_one_size_need_one_profile(bundle: Path, tmp_path: Path) -> None:
    folder = changed(bundle, tmp_path, multiple_of=64, max_pixels=64 * 64)
    assert len(of(folder, 8, {})) == 1


def test_a_graph_without_a_picture_has_one_profile(scorer_bundle: Path) -> None:
    (profile,) = profiles_for(scorer_bundle / "text_encoder.onnx", 0, {})
    assert isinstance(profile, Profile)
    assert {shape[0] for shape in profile.most.values()} == {16}


@pytest.mark.parametrize(("file", "problem"), [("other.onnx", "has no graph other.onnx"), ("unet.onnx", "'depth'")])
def test_a_graph_of_which_too_little_is_known_is_refused(bundle: Path, tmp_path: Path, file: str, problem: str) -> None:
    folder = changed(bundle, tmp_path)
    record: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    record["graphs"]["unet"]["inputs"][0]["shape"][2] = "depth"
    (folder / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(SetupError, match=f"^bundle: .*{problem}.*; .*again"):
        profiles_for(folder / file, 8, {}, open_bundle(bundle).manifest.sides)


def test_a_graph_outside_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"has no manifest.json that can be read; link"):
        profiles_for(tmp_path / "unet.onnx", 8, {})
