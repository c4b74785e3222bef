"""A stylizer as a folder (config.json, model.safetensors in fp16, predictor.onnx), its styles as files beside it."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from studio.nets.folders import replaced
from studio.nets.predictor import SIDE
from studio.nets.stylizer import EPSILON, Stylizer

FORMAT = "impasto-feedforward"
OPSET = 18
CAST_FROM = 1024  # numbers: smaller weights stay float32 in the predictor


@dataclass(frozen=True)
class StyleFacts:
    """What a file says of its style, beside the numbers; `network` is the SHA-256 of the model's file."""

    name: str
    title: str
    licence: str
    network: str


def save_stylizer(folder: Path, network: Stylizer, predictor: nn.Module, licence: str) -> None:
    """The folder changes as a whole."""
    widths = [int(channels) for channels in network.channels[:3]]
    config = {
        "format": FORMAT,
        "name": folder.name,
        "license": licence,
        "trunk": {
            "layout": "cin",
            "widths": widths,
            "residuals": len(network.residual),
            "padding": "reflect",
            "epsilon": EPSILON,
            "upsampling": "nearest",
            "input": {"scale": 1.0, "order": "RGB"},
            "output": {"activation": "sigmoid", "scale": 1.0},
        },
        "predictor": {"file": "predictor.onnx", "size": SIDE, "embedding": network.expand_embedding.in_features},
    }
    with replaced(folder) as fresh:
        fresh.mkdir(parents=True)
        (fresh / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        weights = {name: value.half().contiguous() for name, value in network.state_dict().items()}
        save_file(weights, fresh / "model.safetensors")
        (fresh / "predictor.onnx").write_bytes(traced(predictor))


def load_stylizer(folder: Path) -> Stylizer:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    trunk, embedding = config["trunk"], config["predictor"]["embedding"]
    network = Stylizer(trunk["widths"], trunk["residuals"], embedding)
    network.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
    return network.eval().requires_grad_(False)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def save_vector(path: Path, vector: Tensor, facts: StyleFacts) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"vector": vector.detach().float().contiguous()}, path, metadata=asdict(facts))


def load_vector(path: Path, network: str) -> tuple[Tensor, StyleFacts]:
    """
    Raises:
        ValueError: the style belongs to another network than the one with this digest.
    """
    with safe_open(path, "pt") as file:
        found: Mapping[str, str] = file.metadata()
        vector: Tensor = file.get_tensor("vector")
    facts = StyleFacts(**{name: found[name] for name in StyleFacts.__annotations__})
    if facts.network != network:
        raise ValueError(
            f"{path}: a style of network {facts.network[:12]}, not of {network[:12]}; "
            "fit it anew with python -m studio.fit vector"
        )
    return vector, facts


def traced(predictor: nn.Module) -> bytes:
    """The predictor as ONNX, its large weights in half precision, widened where they are used."""
    pictures = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about its own internals
        program = torch.onnx.export(
            predictor.eval(),
            (pictures,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("n", min=1, max=1024)},),
            input_names=["picture"],
            output_names=["embedding"],
            verbose=False,
        )
    assert program is not None, "dynamo=True returns a program"
    model = program.model_proto
    _narrow(model.graph)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _narrow(graph: onnx.GraphProto) -> None:
    casts = []
    for weight in graph.initializer:
        array = numpy_helper.to_array(weight)
        if weight.data_type == TensorProto.FLOAT and array.size >= CAST_FROM:
            name = weight.name
            weight.CopyFrom(numpy_helper.from_array(array.astype("float16"), f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
