"""The combinations of words that no model trains on, so that pictures of them measure what was learnt."""

from __future__ import annotations

from itertools import product

from studio import painter
from studio.painter import Scene
from studio.painter.scene import is_unseen

Words = tuple[str, str, str, str]


def words(scene: Scene) -> Words:
    return scene.object, scene.colour, scene.background, scene.style


COMBINATIONS = set(product(painter.OBJECTS, painter.COLOURS, painter.BACKGROUNDS, painter.STYLES))
TRAINED = {words(scene) for scene in painter.training_scenes(20_000, seed=1)}
UNSEEN = [words(scene) for scene in painter.unseen_scenes(500, seed=1)]


def test_a_trained_combination_is_never_an_unseen_one() -> None:
    assert not TRAINED & set(UNSEEN)


def test_every_combination_is_one_or_the_other() -> None:
    assert len(TRAINED) > 0.95 * (len(COMBINATIONS) - len(set(UNSEEN)))
    assert TRAINED | set(UNSEEN) <= COMBINATIONS
    assert set(UNSEEN) == {combination for combination in COMBINATIONS if is_unseen(*combination)}


def test_the_split_is_the_same_on_every_machine() -> None:
    assert len(set(UNSEEN)) == 227
    assert is_unseen("boat", "red", "night", "clay")
    assert not is_unseen("boat", "red", "night", "crayon")


def test_an_unseen_combination_comes_again_only_after_all_the_others() -> None:
    assert len(set(UNSEEN[:227])) == 227
    assert UNSEEN[:273] == UNSEEN[227:]


def test_every_word_is_trained_on() -> None:
    trained = [set(column) for column in zip(*TRAINED, strict=True)]
    assert trained == [set(painter.OBJECTS), set(painter.COLOURS), set(painter.BACKGROUNDS), set(painter.STYLES)]


def test_held_out_words_are_in_neither() -> None:
    used = {word for combination in TRAINED | set(UNSEEN) for word in combination}
    assert not used & {*painter.HELD_OUT_OBJECTS, *painter.HELD_OUT_STYLES}


def test_the_seed_decides_the_scenes() -> None:
    assert painter.training_scenes(20, seed=3) == painter.training_scenes(20, seed=3)
    assert painter.training_scenes(20, seed=3) != painter.training_scenes(20, seed=4)
    assert painter.unseen_scenes(20, seed=3) != painter.unseen_scenes(20, seed=4)
