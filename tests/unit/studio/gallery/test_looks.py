"""Looks change a photograph and leave its content; wishes say what was done; what is held out is never drawn."""

from __future__ import annotations

import numpy as np
import pytest
from studio.gallery.looks.examples import PLAIN, wished
from studio.gallery.looks.names import COLOURS, LOOKS, Look, Wish, held_out, named
from studio.gallery.textures import blurred, brightness, floats
from studio.painter.arrays import Floats

SIDE = 64


def photo() -> Floats:
    """A bright disc on a dark ground with a slope of colour."""
    y, x = np.indices((SIDE, SIDE), np.float32) / SIDE
    disc = (np.hypot(y - 0.5, x - 0.5) < 0.28).astype(np.float32)
    return floats(np.stack([0.15 + 0.75 * disc, 0.2 + 0.6 * disc * y, 0.3 + 0.4 * disc * x], 2))


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: str(look.name))
def test_a_look_is_drawn_alike_for_a_seed_and_unlike_the_photograph(look: Look) -> None:
    first, again = (Wish(look).painted(photo(), np.random.default_rng(3)) for _ in range(2))
    assert first.shape == (SIDE, SIDE, 3)
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() <= 1
    assert np.array_equal(first, again)
    assert np.abs(first - photo()).mean() > 0.02


def test_there_are_forty_names_and_more_without_a_double() -> None:
    words = [word for look in LOOKS for word in look.words]
    assert len(LOOKS) >= 40
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("name", ["fire", "bricks", "gold leaf", "pencil sketch", "clouds", "thermal camera"])
def test_the_content_stays_visible(name: str) -> None:
    """The disc is still told from the ground by its mean brightness."""
    drawn = blurred(brightness(Wish(named(name)).painted(photo(), np.random.default_rng(1))), 2.0)
    disc = photo()[..., 0] > 0.5
    assert abs(float(drawn[disc].mean() - drawn[~disc].mean())) > 0.08


def test_a_colour_tints_whatever_it_was() -> None:
    blue = Wish(named("fire"), colour="blue").painted(photo(), np.random.default_rng(0))
    plain = Wish(named("fire")).painted(photo(), np.random.default_rng(0))
    assert blue[..., 2].mean() > blue[..., 0].mean()
    assert plain[..., 2].mean() < plain[..., 0].mean()


def test_wishes_say_what_was_asked() -> None:
    wish = Wish(named("waves"), "blue", "dark", "large")
    assert wish.said("ocean waves") == "large dark blue ocean waves"


def test_held_out_combinations_are_never_drawn() -> None:
    rng = np.random.default_rng(0)
    drawn = [wished(LOOKS[i % len(LOOKS)], rng) for i in range(3000)]
    assert not [wish for wish in drawn if wish.colour and held_out(wish.look, wish.colour)]
    assert {wish.colour for wish in drawn} == {"", *COLOURS}
    assert wished(PLAIN, rng) == Wish(PLAIN)


def test_an_unknown_look_is_named_with_those_there_are() -> None:
    with pytest.raises(KeyError, match=r"got 'velvet'; there are pencil sketch"):
        named("velvet")
