"""A transformers CLIPModel as a scorer: its architecture, how pictures are prepared for it, its bundle. No torch.

One file of weights and two graphs, `image_encoder` and `text_encoder`, whose outputs have unit length.
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
# What each tower's graph depends on, with transformers' defaults: a config leaves out what equals them.
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
# CLIPImageProcessor's, and what a key that preprocessor_config.json leaves out means.
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
# Settings of it that the server knows in one way only.
FIXED = ("rescale_factor", "resample", "do_resize", "do_center_crop", "do_rescale", "do_normalize")


def recognises(checkpoint: str | Path) -> bool:
    """Whether it is a CLIPModel's, and not a checkpoint that paints. Raises CheckpointError for what can't be found."""
    place = resolve.locate(checkpoint)
    folder = hub.fetch(place, [CONFIG]) if isinstance(place, Repository) else place
    return (folder / CONFIG).is_file() and class_of(read_json(folder / CONFIG)) == CLASS


def facts(config: Json) -> Json:
    """What determines the graphs, complete and flat: `text.hidden_size`, `vision.patch_size`, `projection_dim` …

    Raises CheckpointError for another class, and for what no graph is made for.
    """
    if class_of(config) != CLASS:
        raise CheckpointError(f"{CONFIG} is of a {class_of(config)}; a scorer is made of a {CLASS}")
    # Old configs state a tower a second time, and mean that.
    text, vision = (config.get(f"{key}_dict") or config.get(key) or {} for key in ("text_config", "vision_config"))
    found = {
        **_stated("", PROJECTION, config),
        **_stated("text.", TEXT, text),
        **_stated("vision.", VISION, vision),
    }
    for key in ("text.eos_token_id", "vision.image_size", "vision.patch_size"):
        if not isinstance(found[key], int):
            raise CheckpointError(f"{key} is {found[key]!r}; only one whole number is known")
    if found["vision.num_channels"] != 3:
        raise CheckpointError(f"vision.num_channels is {found['vision.num_channels']}; pictures have 3")
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
    """Make the scorer bundle `out` of a CLIPModel's folder or repository; as `link.link`, which see for the arguments.

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
    """The folder, and what the manifest says of where it is from."""
    place = resolve.locate(checkpoint)
    if isinstance(place, Repository):
        folder = hub.model(place, PARTS[CLASS], variant)
        return folder, hub.source(place, folder)
    return place, {"checkpoint": label(place.resolve().name)}


def _facts(folder: Path, found: Architecture, vocabulary: Vocabulary, weights: Weights) -> Json:
    """What the manifest says beside graphs and files."""
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
    """What cosines are multiplied with to be logits; the checkpoint has its logarithm."""
    stored = read_tensor(header, LOGIT_SCALE).reshape(1)  # NumPy widens an array, not a scalar
    return math.exp(float32(stored, header.tensors[LOGIT_SCALE].dtype)[0])


def preparation(folder: Path, size: int) -> Json:
    """How pictures become the image encoder's, of `size` pixels. Raises CheckpointError for a way that isn't served."""
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
        raise CheckpointError(f"{path}: {said}; pictures are resized (bicubic), cropped, divided by 255 and normalised")
    shortest, crop = _side(path, "size", found["size"]), _side(path, "crop_size", found["crop_size"])
    if crop != size or crop > shortest:
        problem = f"pictures of {shortest} pixels are cropped to {crop}, and the image encoder takes {size}"
        raise CheckpointError(f"{path}: {problem}")
    mean, std = (_colours(path, key, found[key]) for key in ("image_mean", "image_std"))
    return {"size": shortest, "crop": crop, "mean": mean, "std": std, "resample": "bicubic"}


def _colours(path: Path, key: str, values: Any) -> list[float]:
    """One number for each of red, green and blue."""
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(value, (int, float)) for value in values):
        raise CheckpointError(f"{path}: {key} is {values!r}; three numbers are expected")
    if not all(map(math.isfinite, values)) or (key == "image_std" and min(values) <= 0):
        raise CheckpointError(f"{path}: {key} is {values!r}; finite numbers are expected, deviations above 0")
    return values


def _side(path: Path, key: str, value: Any) -> int:
    """`size` may be an int or {"shortest_edge": int}, `crop_size` an int or {"height": int, "width": the same}."""
    names = {"shortest_edge"} if key == "size" else {"height", "width"}
    sides = list(value.values()) if isinstance(value, dict) and value.keys() == names else [value]
    if not (all(type(side) is int for side in sides) and len(set(sides)) == 1):
        raise CheckpointError(f"{path}: {key} is {value!r}; it must be one side's pixels, the shortest or a square's")
    return int(sides[0])
