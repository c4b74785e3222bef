"""Requests said in Python: what nobody says is the bundle's to choose, and what it hasn't is one clear error."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from impasto_server.bundle import Manifest, Usual
from impasto_server.errors import InvalidArgument
from impasto_server.families.offers import FIELDS, offer_of
from impasto_server.guidance import ClassifierFree, StyleDrop
from impasto_server.offer import parse
from impasto_server.request import Request
from tests.helpers.asked import request_of
from tests.unit.server.conftest import Open


def test_what_is_said_in_python_is_what_tensors_say(masked_manifest: Manifest) -> None:
    offer = offer_of(masked_manifest)
    asked = offer.request("a boat", {"neon": 0.5}, seed=7, steps=3, temperature=0.5)
    tensors = {
        "PROMPT": np.array(["a boat"], np.object_),
        "ADAPTER_NAMES": np.array(["neon"], np.object_),
        "ADAPTER_WEIGHTS": np.array([0.5], np.float32),
        "SEED": np.array([7], np.int64),
        "STEPS": np.array([3], np.int32),
        "TEMPERATURE": np.array([0.5], np.float32),
    }
    assert asked == parse(tensors, offer, FIELDS)


def test_a_bundle_fills_in_what_nobody_says(manifest: Manifest, masked_manifest: Manifest) -> None:
    plain, masked = (offer_of(one).request("a boat", seed=1) for one in (manifest, masked_manifest))
    assert (plain.sampling.scheduler, plain.sampling.steps, plain.rule) == ("dpmpp_2m", 25, ClassifierFree(3.0))
    assert (masked.sampling.scheduler, masked.sampling.steps, masked.rule) == ("amused", 12, ClassifierFree(10.0))
    assert (plain.own, masked.own["TEMPERATURE"], masked.own["UPSCALE_STEPS"]) == ({}, 2.0, 0)


def test_the_familys_for_a_rule_come_before_the_bundles_and_these_before_the_familys(masked_manifest: Manifest) -> None:
    own = Usual(scheduler="maskgit", steps=4, guidance_scale=1.5)
    offer = offer_of(masked_manifest.model_copy(update={"defaults": own}))
    usual = offer.request("a boat")
    assert (usual.sampling.scheduler, usual.sampling.steps, usual.rule) == ("maskgit", 4, ClassifierFree(1.5))
    dropped = offer.request("a boat", guidance="styledrop", style=("glass",))
    assert (dropped.sampling.steps, dropped.rule) == (36, StyleDrop(2.0, 5.0))
    assert (dropped.own["TEMPERATURE"], dropped.own["UPSCALE_STEPS"]) == (4.5, 0), "this bundle has one stage"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"prompt": " "}, "PROMPT: is missing or blank; say what to paint"),
        ({"scheduler": "amused"}, "SCHEDULER: 'amused' is unknown; pass one of ddim, dpmpp_2m"),
        ({"temperature": 1.0}, "TEMPERATURE: means nothing to a diffusion backbone; leave it out"),
        ({"colour": "red"}, "COLOUR: means nothing to a diffusion backbone; leave it out"),
        ({"gamma": 0.5}, "GAMMA: means nothing to GUIDANCE cfg; leave it out, or pass GUIDANCE styledrop-compose"),
        ({"guidance": "mine"}, "GUIDANCE: 'mine' is unknown; pass one of cfg, dreamstyler"),
        ({"steps": 0}, "STEPS: 0 is out of range; pass 1 to 200"),
        ({"model": "other"}, "MODEL: 'other' is unknown; pass toy, or leave it out"),
        ({"adapters": {f"s{i}": 1.0 for i in range(9)}}, "ADAPTER_NAMES: 9 adapters; pass at most 8"),
        ({"adapters": ["neon"]}, "ADAPTER_NAMES: \"['neon']\" is list; pass weights by name in a dict"),
        ({"adapters": {1: 1.0}}, "ADAPTER_NAMES: '(1,)' is tuple; pass texts in a list or tuple"),
        ({"adapters": {"neon": None}}, "ADAPTER_WEIGHTS: '(None,)' is tuple; pass numbers in a list or tuple"),
        ({"style": "sks03"}, "STYLE: \"'sks03'\" is str; pass texts in a list or tuple"),
        ({"prompt": b"a boat"}, "PROMPT: \"b'a boat'\" is bytes; pass a text"),
        ({"prompt": "\ud800"}, "PROMPT: "),
        ({"steps": "4"}, "STEPS: \"'4'\" is str; pass a whole number"),
        ({"steps": 4.0}, "STEPS: '4.0' is float; pass a whole number"),
        ({"seed": True}, "SEED: 'True' is bool; pass a whole number"),
        ({"guidance_scale": [3.0]}, "GUIDANCE_SCALE: '[3.0]' is list; pass a number"),
        ({"guidance_scale": 10**400}, "GUIDANCE_SCALE: 1000"),
        ({"guidance_ramp": "no"}, "GUIDANCE_RAMP: \"'no'\" is str; pass True or False"),
        ({"guidance": ["cfg"]}, "GUIDANCE: \"['cfg']\" is list; pass a text"),
        ({"image": "photo.jpg"}, "IMAGE: \"'photo.jpg'\" is str; pass an encoded picture, as bytes"),
        ({"timeout_s": "5"}, "TIMEOUT: \"'5'\" is not a valid time; pass seconds, more than 0"),
        ({"timeout_s": float("nan")}, "TIMEOUT: 'nan' is not a valid time"),
    ],
)
def test_what_a_bundle_has_not_is_refused(said: dict[str, Any], message: str, manifest: Manifest) -> None:
    with pytest.raises(InvalidArgument, match=f"^{re.escape(message)}"):
        offer_of(manifest).request(**{"prompt": "a boat", **said})


def other(request: Request, **sampling: Any) -> Request:
    return replace(request, sampling=replace(request.sampling, **sampling))


def test_a_request_for_another_bundle_is_refused(manifest: Manifest, masked_manifest: Manifest) -> None:
    plain, masked = offer_of(manifest), offer_of(masked_manifest)
    asked = plain.request("a boat")
    plain.check(asked)
    for request, message in (
        (asked, "SCHEDULER: 'dpmpp_2m' is unknown; pass one of maskgit, amused"),
        (other(asked, scheduler="amused"), "TEMPERATURE: is missing; make the request from this bundle's offer"),
    ):
        with pytest.raises(InvalidArgument, match=f"^{re.escape(message)}$"):
            masked.check(request)
    with pytest.raises(InvalidArgument, match="^TEMPERATURE: means nothing to a diffusion backbone"):
        plain.check(other(masked.request("a boat"), scheduler="ddim"))


def test_a_pipeline_says_so_too(open_masked: Open) -> None:
    """It was a KeyError, told as INTERNAL."""
    pipeline = open_masked()
    with pytest.raises(InvalidArgument, match="^SCHEDULER: 'dpmpp_2m' is unknown; pass one of maskgit, amused$"):
        pipeline.generate(request_of("a boat", seed=1, width=64, height=32))
    assert pipeline.generate(pipeline.offer.request("a boat", width=64, height=32, steps=2)).image


def test_all_values_make_the_same_request_again(masked_manifest: Manifest) -> None:
    asked = offer_of(masked_manifest).request(
        "a boat", guidance="styledrop-compose", style=("glass",), content="cat", gamma=0.25, image=b"x", timeout_s=2.0
    )
    assert Request.of(asked.values) == asked
    assert (asked.values["GAMMA"], asked.values["timeout_s"]) == (0.25, 2.0)


def test_numpys_numbers_are_numbers(manifest: Manifest) -> None:
    numpys: dict[str, Any] = {"steps": np.int64(4), "guidance_scale": np.float32(2), "guidance_ramp": np.bool_(True)}
    asked = offer_of(manifest).request("a boat", seed=1, **numpys)
    assert asked == offer_of(manifest).request("a boat", seed=1, steps=4, guidance_scale=2.0, guidance_ramp=True)
    assert type(asked.sampling.steps) is int
