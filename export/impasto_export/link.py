"""`impasto link`: checkpoint + skeleton -> bundle. It needs no torch, and hard-links weights where it can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from impasto_export import bundles, manifest, matching, splice
from impasto_export.architecture import OUTDATED, SHIPPED, Architecture, Graph, Json
from impasto_export.bundles import Content, Linked
from impasto_export.checkpoints import beside, control, controlnet, folders, resolve, solvers
from impasto_export.checkpoints.checkpoint import Checkpoint, Said, Stored, Weights
from impasto_export.checkpoints.control import Control
from impasto_export.checkpoints.tokenizer import Vocabulary
from impasto_export.errors import CheckpointError, MisfitCheckpoint
from impasto_export.families import END_OF_TEXT
from impasto_export.files import Progress, silent
from impasto_export.plain import without_adapters

# Buffers that older checkpoints saved among the weights; the graphs carry them as constants.
BUFFERS = ("position_ids",)


@dataclass(frozen=True)
class _Source:
    """An architecture, its skeleton's folder, its components' weights, their origin (`stated`), and notes."""

    folder: Path
    found: Architecture
    weights: Mapping[str, Weights]
    stated: Json
    notes: tuple[str, ...]

    def check(self) -> None:
        """Raises CheckpointError for a skeleton that an older impasto exported."""
        if any(port.name == OUTDATED for graph in self.found.graphs.values() for port in graph.inputs):
            problem = f"its graphs have the input {OUTDATED}, so an older impasto made them"
            raise CheckpointError(f"{self.folder}: {problem}; export the architecture again")

    def models(self) -> dict[str, onnx.ModelProto]:
        return {name: splice.read(self.folder / graph.file) for name, graph in self.found.graphs.items()}


def link(
    checkpoint: str | Path,
    out: Path,
    graphs: Sequence[Path] = (),
    said: Said | None = None,
    steering: Control | None = None,
    progress: Progress = silent,
) -> Linked:
    """Make the bundle `out`. It appears whole or not at all; if it already is this bundle, nothing is written.

    `checkpoint` is a folder, a file or a repository, as `resolve` reads it. `graphs` are folders searched for skeletons
    before the shipped ones; `steering` adds a ControlNet. Raises UnknownArchitecture, MisfitCheckpoint,
    CheckpointError, ControlError, DiskFull, or BundleError when `out` is something else.
    The bundle shares its weights' bytes with the checkpoint: to change a file, replace it; never write into it.
    """
    bundles.check_target(out)
    said, skeletons = said or Said(), [*graphs, SHIPPED]
    found = resolve.checkpoint(checkpoint, skeletons, said)
    base, *others = sources = _sources(found, skeletons, said, steering)
    for source in sources:
        source.check()
    for other in others:
        control.check_fit(base.found, other.found)
    plan = {name: graph for source in sources for name, graph in source.found.graphs.items()}
    models = {name: model for source in sources for name, model in source.models().items()}
    weights = {part: held for source in sources for part, held in source.weights.items()}
    tensors = {part: fit(held, _expected(plan, models, part)) for part, held in weights.items()}
    texts = _tokenizers(found, base.found)
    facts = manifest.FACTS[base.found.family](found, base.found, said)
    content = Content(
        name=found.name,
        family=base.found.family,
        architecture=base.found.digest,
        facts={
            **facts,
            **{name: stated for name, (stated, _) in texts.items()},
            **({"control": steering.facts} if steering else {}),
            "source": {key: value for source in sources for key, value in source.stated.items()},
        },
        graphs=plan,
        weights={name: item for held in weights.values() for name, item in held.files.items()},
        files={
            **{
                file: data
                for name, graph in plan.items()
                for file, data in _pointed(graph, models[name], tensors[graph.component]).items()
            },
            **{stated["file"]: vocabulary.data for stated, vocabulary in texts.values()},
        },
    )
    notes = (*(note for source in sources for note in source.notes), *manifest.stages(base.found, facts))
    return bundles.write(out, content, progress, notes)


def _pointed(graph: Graph, model: onnx.ModelProto, tensors: Mapping[str, Stored]) -> dict[str, bytes]:
    """The graph's files: one with its sites, one without."""
    plain = {graph.plain: without_adapters(model, graph.own_inputs)} if graph.plain else {}
    return {file: splice.point(made, tensors) for file, made in {**plain, graph.file: model}.items()}


def _sources(found: Checkpoint, skeletons: Sequence[Path], said: Said, steering: Control | None) -> list[_Source]:
    """The checkpoint's source, then the ControlNet's."""
    place, made = matching.match(found.configs, skeletons)
    texts = (note for vocabulary in found.tokenizers.values() for note in vocabulary.notes)
    notes = (
        *found.notes,
        *texts,
        *matching.strangers(made, found.configs),
        *beside.notes(found),
        *solvers.notes(found, said),
    )
    base = _Source(place, made, found.weights, found.source, notes)
    if steering is None:
        return [base]
    net = controlnet.read(steering.place, skeletons, said.variant)
    return [base, _Source(net.skeleton, net.found, net.weights, {control.NAME: net.source}, net.notes)]


def _expected(plan: Mapping[str, Graph], models: Mapping[str, onnx.ModelProto], part: str) -> dict[str, splice.Slot]:
    """Placeholders of every graph that reads this component."""
    names = [name for name, graph in plan.items() if graph.component == part]
    return {key: slot for name in names for key, slot in splice.placeholders(models[name]).items()}


def fit(weights: Weights, expected: Mapping[str, splice.Slot]) -> Mapping[str, Stored]:
    """The tensors, checked. Raises MisfitCheckpoint naming every one that is missing, unused or of a wrong shape."""
    stored = weights.tensors
    missing = sorted(expected.keys() - stored.keys())
    unused = sorted(name for name in stored.keys() - expected.keys() if not name.endswith(BUFFERS))
    misfit = [
        f"{name}: {stored[name].tensor.dtype} {list(stored[name].tensor.shape)}, "
        f"the architecture has float {list(slot.shape)}"
        for name, slot in sorted(expected.items())
        if name in stored and not splice.fits(stored[name].tensor, slot)
    ]
    if missing or unused or misfit:
        raise MisfitCheckpoint(str(weights.origin), missing, misfit, unused)
    return stored


def _tokenizers(found: Checkpoint, architecture: Architecture) -> dict[str, tuple[Json, Vocabulary]]:
    """The manifest's entries of the tokenizers, each with its vocabulary."""
    entries = {}
    for part, vocabulary in found.tokenizers.items():
        text, name = architecture.components[part].config, folders.TOKENIZERS[part]
        if END_OF_TEXT in text:
            vocabulary.check_end(text[END_OF_TEXT], text["vocab_size"], f"{part}'s {END_OF_TEXT}")
        vocabulary.check_size(text["vocab_size"])
        entries[name] = vocabulary.facts(f"{name}.json", text["max_position_embeddings"]), vocabulary
    return entries
