"""Checkpoints that TensorFlow wrote are read without it; a damaged one gets one error."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from impasto_export.errors import CheckpointError
from impasto_export.feedforward import link, tensorflow
from tests.helpers.trunks import Trunk

HERE = Path(__file__).parent / "checkpoints"
FIRST, SECOND = HERE / "styles-v1.ckpt", HERE / "styles-v2.ckpt"
TABLE = "transformer/expand/conv3/conv/InstanceNorm/gamma"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The second's files, under the same names."""
    for path in HERE.glob("styles-v2*"):
        shutil.copy(path, tmp_path)
    return tmp_path / SECOND.name


def test_both_formats_hold_the_same_variables() -> None:
    first, second = tensorflow.entries(FIRST), tensorflow.entries(SECOND)
    assert first.keys() == second.keys()
    assert len(first) == 25
    for name, entry in first.items():
        assert np.array_equal(tensorflow.read(first, name), tensorflow.read(second, name)), name
        assert entry.shape == second[name].shape


def test_numbers_are_those_that_were_saved() -> None:
    found = tensorflow.read(tensorflow.entries(FIRST), TABLE)
    expected = [[-0.27459937, -1.3971713, -1.5619093], [0.12766452, 0.45281446, -1.5506375]]
    assert np.allclose(found[:2], expected, rtol=1e-6)


def test_what_is_no_float_is_left_out() -> None:
    assert "global_step" not in tensorflow.entries(FIRST)
    assert "global_step" not in tensorflow.entries(SECOND)


@pytest.mark.parametrize("end", ["", ".index", ".data-00000-of-00001"])
def test_a_checkpoint_goes_by_any_of_its_files(end: str, copied: Path) -> None:
    assert tensorflow.prefix(copied.with_name(copied.name + end)) == copied


def test_a_folder_names_its_latest(copied: Path) -> None:
    assert tensorflow.latest(copied.parent) == copied.with_name(copied.name + ".index")
    (copied.parent / "checkpoint").write_text(f'model_checkpoint_path: "/elsewhere/{copied.name}"\n')
    assert tensorflow.latest(copied.parent) == copied
    assert link.read(copied.parent).net.digest == link.read(FIRST).net.digest


def test_a_linked_one_has_its_styles_and_no_optimisers_slots() -> None:
    found = link.read(FIRST)
    assert [*found.vectors] == ["00", "01", "02"]
    assert found.net.vector_size == Trunk((2, 3, 4), 1).size == len(found.vectors["00"])
    assert not any("Adam" in name for name in found.net.tensors)


def test_a_shard_that_is_missing_or_short_is_named(copied: Path) -> None:
    shard = copied.with_name(copied.name + ".data-00000-of-00001")
    shard.write_bytes(shard.read_bytes()[:-64])
    with pytest.raises(CheckpointError, match="is cut short; get the checkpoint again"):
        link.read(copied)
    shard.unlink()
    with pytest.raises(CheckpointError, match="data-00000-of-00001 is missing; it lies beside styles-v2.ckpt.index"):
        link.read(copied)


def problem(place: Path) -> str:
    """What is wrong with it, "" for nothing; no other exception comes of it, whatever its bytes say."""
    try:
        link.read(place)
    except CheckpointError as error:
        return str(error)
    return ""


def test_a_damaged_table_gets_one_error_or_none(tmp_path: Path) -> None:
    drawn, place = np.random.default_rng(0), tmp_path / "net.ckpt"
    whole, problems = FIRST.read_bytes(), set()
    for end in (len(whole), 3000, 500) * 100:
        data = bytearray(whole)
        data[len(data) - 8 - drawn.integers(1, end - 8)] ^= int(drawn.integers(1, 256))
        place.write_bytes(data)
        problems.add(problem(place))
    assert all("net.ckpt" in said for said in problems if said)
    assert any("cannot be read as a TensorFlow checkpoint" in said for said in problems)


def test_a_compressed_table_is_refused(tmp_path: Path) -> None:
    data = bytearray(FIRST.read_bytes())
    index = len(data) - tensorflow.FOOTER - tensorflow.TRAILER
    assert not data[index], "the last block's kind stands behind it"
    data[index] = 1
    (tmp_path / "net.ckpt").write_bytes(data)
    assert "a block is compressed" in problem(tmp_path / "net.ckpt")


def test_what_only_ends_like_one_is_none(tmp_path: Path) -> None:
    (tmp_path / "net.ckpt").write_bytes(b"short")
    assert tensorflow.prefix(tmp_path / "net.ckpt") is None
    assert tensorflow.prefix(tmp_path / "absent.ckpt") is None
    assert tensorflow.latest(tmp_path) is None
