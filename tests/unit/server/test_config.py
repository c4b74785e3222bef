"""config.pbtxt is what a client sees; request.FIELDS is what the server reads. They say the same."""

from __future__ import annotations

from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2  # type: ignore[import-untyped]

from impasto_server.request import FIELDS
from impasto_server.serve import model_repository


def config() -> Any:
    text = (model_repository() / "stylize/config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def dtype(number: int) -> str:
    """Triton's name on the wire for a config's data type."""
    name = str(model_config_pb2.DataType.Name(number)).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def test_inputs_are_the_request_parsers_fields() -> None:
    inputs = {one.name: (dtype(one.data_type), list(one.dims), one.optional) for one in config().input}
    many = {True: [-1], False: [1]}
    assert inputs == {name: (field.dtype, many[field.many], not field.required) for name, field in FIELDS.items()}


def test_outputs() -> None:
    outputs = {one.name: (dtype(one.data_type), list(one.dims)) for one in config().output}
    assert outputs == {"IMAGE": ("BYTES", [1]), "SEED": ("INT64", [1]), "META": ("BYTES", [1])}


def test_the_model_is_unary_and_unbatched() -> None:
    assert config().max_batch_size == 0
    assert not config().model_transaction_policy.decoupled
