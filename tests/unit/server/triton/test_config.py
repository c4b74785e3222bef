"""config.pbtxt is what a client sees; the table of fields says what the server reads. They say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2  # type: ignore[import-untyped]

from impasto_server.families.offers import FIELDS, STREAM_FIELDS
from impasto_server.fields import Field
from impasto_server.ops.repository import COMPUTING, model_repository, on_gpu
from impasto_server.scoring import comparison

PICTURES = {"IMAGE": ("BYTES", [-1]), "SEED": ("INT64", [-1]), "SCORE": ("FP32", [-1]), "META": ("BYTES", [1])}
LISTED = {"CATALOGUE": ("BYTES", [1])}
SCORES = {"SCORE": ("FP32", [-1])}
STEP = {"STEP": ("INT32", [1]), "STEPS": ("INT32", [1]), "ETA_S": ("FP32", [1]), "PREVIEW": ("BYTES", [-1])}


def config(model: str) -> Any:
    text = (model_repository() / model / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def dtype(number: int) -> str:
    """Triton's name on the wire for a config's data type."""
    name = str(model_config_pb2.DataType.Name(number)).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


@pytest.mark.parametrize(
    ("model", "fields"),
    [("stylize", FIELDS), ("stylize_stream", STREAM_FIELDS), ("clip_score", comparison.FIELDS), ("catalogue", {})],
)
def test_inputs_are_the_request_parsers_fields(model: str, fields: Mapping[str, Field]) -> None:
    inputs = {one.name: (dtype(one.data_type), list(one.dims), one.optional) for one in config(model).input}
    many = {True: [-1], False: [1]}
    assert inputs == {name: (field.dtype, many[field.many], not field.required) for name, field in fields.items()}


@pytest.mark.parametrize(
    ("model", "outputs"),
    [("stylize", PICTURES), ("stylize_stream", STEP | PICTURES), ("clip_score", SCORES), ("catalogue", LISTED)],
)
def test_outputs(model: str, outputs: Mapping[str, object]) -> None:
    assert {one.name: (dtype(one.data_type), list(one.dims)) for one in config(model).output} == outputs


@pytest.mark.parametrize(
    ("model", "decoupled"), [("stylize", False), ("stylize_stream", True), ("clip_score", False), ("catalogue", False)]
)
def test_only_the_stream_has_many_responses(model: str, decoupled: bool) -> None:
    assert config(model).max_batch_size == 0
    assert config(model).model_transaction_policy.decoupled == decoupled


@pytest.mark.parametrize("model", COMPUTING)
def test_on_a_gpu_nothing_changes_but_the_instance(model: str) -> None:
    text = on_gpu((model_repository() / model / "config.pbtxt").read_text(), 3)
    found, usual = text_format.Parse(text, model_config_pb2.ModelConfig()), config(model)
    (instance,) = found.instance_group
    assert (instance.kind, list(instance.gpus), instance.count) == (instance.KIND_GPU, [3], 1)
    found.ClearField("instance_group")
    usual.ClearField("instance_group")
    assert found == usual
