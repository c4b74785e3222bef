"""Link a transformers CLIPModel into a scorer's bundle: its architecture, how pictures are prepared, no torch.

The bundle has one file of weights and two graphs, `image_encoder` and `text_encoder`, whose outputs have unit length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from impasto_export import bundles, matching, splice
from impasto_export import link as linking
from impasto_export.architecture import SHIPPED, Architecture, Json, read_json
from impasto_export.bundles import Content, Linked
from impasto_export.checkpoints import folders, hub, resolve, tokenizer
from impasto_export.checkpoints.checkpoint import Weights, label
from impasto_export.checkpoints.hub import CONFIG, Repository
from impasto_export.checkpoints.tokenizer import Vocabulary
from impasto_export.errors import CheckpointError
from impasto_export.families import PARTS, class_of
from impasto_export.files import Progress, silent
from impasto_export.floats import float32
from impasto_export.weights import Header, read_header, read_tensor

FAMILY = NAME = "clip"
CLASS = "CLIPModel"
LOGIT_SCALE = "logit_scale"
# What each tower's graph depends on, with transformers' defaults: a config omits keys that equal them.
TEXT: Json = {
    "eos_token_id": 49407,
    "hidden_act": "quick_gelu",
    "hidden_size": 512,
    "intermediate_size": 2048,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 77,
    "num_attention_heads": 8,
    "num_hidden_layers": 12,
    "vocab_size": 49408,
}
VISION: Json = {
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "image_size": 224,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-5,
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_hidden_layers": 12,
    "patch_size": 32,
}
PROJECTION: Json = {"projection_dim": 512}
# CLIPImageProcessor's defaults, for keys that preprocessor_config.json leaves out.
PREPARATION: Json = {
    "size": 224,
    "crop_size": 224,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "rescale_factor": 1 / 255,
    "resample": 3,
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
}
# Its settings of which the server knows one value only.
FIXED = ("rescale_factor", "resample", "do_resize", "do_center_crop", "do_rescale", "do_normalize")


def recognises(checkpoint: str | Path) -> bool:
    """Whether it is a CLIPModel, not a checkpoint that paints. Raises CheckpointError when it can't be found."""
    place = resolve.locate(checkpoint)
    folder = hub.fetch(place, [CONFIG]) if isinstance(place, Repository) else place
    return (folder / CONFIG).is_file() and class_of(read_json(folder / CONFIG)) == CLASS


def facts(config: Json) -> Json:
    """The settings that determine the graphs, complete and flat: `text.hidden_size`, `vision.patch_size` …

    Raises CheckpointError for another class, and for settings that no graph is made for.
    """
    if class_of(config) != CLASS:
        raise CheckpointError(f"{CONFIG} is of a {class_of(config)}; a scorer is made of a {CLASS}")
    # Old configs state a tower twice, and the *_dict counts.
    text, vision = (config.get(f"{key}_dict") or config.get(key) or {} for key in ("text_config", "vision_config"))
    found = {
        **_stated("", PROJECTION, config),
        **_stated("text.", TEXT, text),
        **_stated("vision.", VISION, vision),
    }
    for key in ("text.eos_token_id", "vision.image_size", "vision.patch_size"):
        if not isinstance(found[key], int):
            raise CheckpointError(f"{key} is {found[key]!r}; one whole number is expected")
    if found["vision.num_channels"] != 3:
        raise CheckpointError(f"vision.num_channels is {found['vision.num_channels']}; it must be 3, as pictures have")
    return found


def _stated(prefix: str, defaults: Json, config: Mapping[str, Any]) -> Json:
    return {prefix + key: config.get(key, default) for key, default in defaults.items()}


def link(
    checkpoint: str | Path,
    out: Path,
    graphs: Sequence[Path] = (),
    variant: str | None = None,
    progress: Progress = silent,
) -> Linked:
    """Make the scorer bundle `out` from a CLIPModel's folder or repository; the arguments are those of `link.link`.

    Raises UnknownArchitecture, MisfitCheckpoint, CheckpointError, DiskFull, or BundleError when `out` is something
    else.
    """
    bundles.check_target(out)
    folder, source = _opened(checkpoint, variant)
    config = {"_class_name": CLASS, **facts(read_json(folder / CONFIG))}
    place, found = matching.match({NAME: config}, [*graphs, SHIPPED], "clip FOLDER")
    models = {name: splice.read(place / graph.file) for name, graph in found.graphs.items()}
    held, notes = folders.weights({NAME: folder}, {NAME: PARTS[CLASS].stem}, variant)
    slots = {key: slot for model in models.values() for key, slot in splice.placeholders(model).items()}
    tensors = linking.fit(held[NAME], {**slots, LOGIT_SCALE: splice.Slot(())})
    vocabulary = tokenizer.read(folder)
    content = Content(
        name=source["checkpoint"].rpartition("/")[2],
        family=FAMILY,
        architecture=found.digest,
        facts={**_facts(folder, found, vocabulary, held[NAME]), "source": source},
        graphs=found.graphs,
        weights=held[NAME].files,
        files={
            **{graph.file: splice.point(models[name], tensors) for name, graph in found.graphs.items()},
            "tokenizer.json": vocabulary.data,
        },
    )
    return bundles.write(out, content, progress, notes)


def _opened(checkpoint: str | Path, variant: str | None) -> tuple[Path, Json]:
    """The checkpoint's folder, and the manifest's entry on its origin."""
    place = resolve.locate(checkpoint)
    if isinstance(place, Repository):
        folder = hub.model(place, PARTS[CLASS], variant)
        return folder, hub.source(place, folder)
    return place, {"checkpoint": label(place.resolve().name)}


def _facts(folder: Path, found: Architecture, vocabulary: Vocabulary, weights: Weights) -> Json:
    """The manifest's entries beside graphs and files."""
    config = found.components[NAME].config
    vocabulary.check_end(config["text.eos_token_id"], config["text.vocab_size"], "text_config's eos_token_id")
    vocabulary.check_size(config["text.vocab_size"])
    path = weights.files[weights.tensors[LOGIT_SCALE].file]
    assert isinstance(path, Path), "a folder's weights are files"
    return {
        LOGIT_SCALE: logit_scale(read_header(path)),
        "image": preparation(folder, config["vision.image_size"]),
        "tokenizer": vocabulary.facts("tokenizer.json", config["text.max_position_embeddings"]),
    }


def logit_scale(header: Header) -> float:
    """The factor from cosines to logits; the checkpoint has its logarithm."""
    stored = read_tensor(header, LOGIT_SCALE).reshape(1)  # NumPy can't view a scalar's bits as a wider type
    return math.exp(float32(stored, header.tensors[LOGIT_SCALE].dtype)[0])


def preparation(folder: Path, size: int) -> Json:
    """How pictures are prepared for an image encoder of `size` pixels. Raises CheckpointError for unserved settings."""
    path = folder / "preprocessor_config.json"
    if path.is_file():
        config = read_json(path)
    else:  # as transformers' own processors save it since 5.0
        path = folder / "processor_config.json"
        config = read_json(path).get("image_processor") or {}
    found = {key: config.get(key, default) for key, default in PREPARATION.items()}
    odd = [key for key in FIXED if found[key] != PREPARATION[key]]
    if odd:
        said = ", ".join(f"{key} {found[key]!r}" for key in odd)
        fix = "a scorer resizes pictures (bicubic), crops them, divides by 255 and normalises"
        raise CheckpointError(f"{path}: {said}; {fix}")
    shortest, crop = _side(path, "size", found["size"]), _side(path, "crop_size", found["crop_size"])
    if crop != size or crop > shortest:
        problem = f"size is {shortest} and crop_size {crop} pixels; the crop must be {size}, as the image encoder takes"
        raise CheckpointError(f"{path}: {problem}")
    mean, std = (_colours(path, key, found[key]) for key in ("image_mean", "image_std"))
    return {"size": shortest, "crop": crop, "mean": mean, "std": std, "resample": "bicubic"}


def _colours(path: Path, key: str, values: Any) -> list[float]:
    """One number for each of red, green and blue."""
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(value, (int, float)) for value in values):
        raise CheckpointError(f"{path}: {key} is {values!r}; three numbers are expected")
    if not all(map(math.isfinite, values)) or (key == "image_std" and min(values) <= 0):
        raise CheckpointError(f"{path}: {key} is {values!r}; finite numbers are expected, of image_std above 0")
    return values


def _side(path: Path, key: str, value: Any) -> int:
    """`size` may be an int or {"shortest_edge": int}, `crop_size` an int or {"height": int, "width": the same}."""
    names = {"shortest_edge"} if key == "size" else {"height", "width"}
    sides = list(value.values()) if isinstance(value, dict) and value.keys() == names else [value]
    if not (all(type(side) is int for side in sides) and len(set(sides)) == 1):
        raise CheckpointError(f"{path}: {key} is {value!r}; one side in pixels is expected, the shortest or a square's")
    return int(sides[0])
