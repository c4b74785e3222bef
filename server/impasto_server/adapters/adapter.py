"""Adapter files: bytes → checked tensors.

An adapter that a bank can carry has factors that change the backbone; its form says what they are (form.py). An
embedding has vectors that stand in prompts (prompt.py). A delta changes weights in ways that only merged weights can:
the server never loads its tensors. Its bytes must still match its digest, since its header's words are used and META
names it by that digest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from impasto_server.adapters import cascade
from impasto_server.adapters.form import FORMS, Factors, Form, Shape, rank_of
from impasto_server.bundle import Manifest, Site
from impasto_server.engines.engine import widened
from impasto_server.errors import InvalidArgument, shown
from impasto_server.strangers import Unfit, read_json

Array = NDArray[np.float32]

FIELD = "ADAPTER_NAMES"
FORMAT = 1
TRIGGER = re.compile(r"<([^<>\s]+)>")  # an embedding's name in a prompt
DELTA = "delta"  # the kind whose tensors are never loaded
EMBEDDING = "embedding"  # the kind that goes into prompts, not into mixes
MAX_HEADER = 1 << 20
MAX_STAGES, MAX_PLACES = 64, 75  # of one embedding; prompt.py bounds a request's embeddings together
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


@dataclass(frozen=True)
class Adapter:
    """A checked adapter of a form that a bank carries (`kind`): factors by graph and site. It changes only those
    graphs; in a cascade it may leave out the later ones.

    `prompt` is the template that it was trained with, {context} standing for the rest; None if unknown.
    """

    digest: str
    kind: str
    factors: Mapping[str, Mapping[str, Factors]]
    nbytes: int
    prompt: str | None = None

    @cached_property
    def rank(self) -> int:
        """The largest rank over its sites."""
        return max((rank_of(found) for sites in self.factors.values() for found in sites.values()), default=0)


@dataclass(frozen=True)
class Delta:
    """An adapter that no bank can carry, because of the `forms` of its updates; `prompt` as an Adapter's. `stages` are
    those of a cascade that its header names.
    """

    digest: str
    forms: tuple[str, ...]
    prompt: str | None = None
    nbytes: int = 0  # the server never loads its tensors
    stages: tuple[str, ...] = (cascade.FIRST,)


Patch = Adapter | Delta


@dataclass(frozen=True)
class Embedding:
    """A checked textual inversion: by text encoder, vectors [stages, places, D] float32, the finest stage first.

    `prompt` and `style_prompt` are the templates that it was trained with, with the places {context} and {style}.
    """

    digest: str
    vectors: Mapping[str, Array]
    prompt: str
    style_prompt: str

    @property
    def stages(self) -> int:
        return len(next(iter(self.vectors.values())))

    @property
    def places(self) -> int:
        """How many tokens its trigger takes in a prompt."""
        return next(iter(self.vectors.values())).shape[1]

    @property
    def nbytes(self) -> int:
        return sum(vectors.nbytes for vectors in self.vectors.values())


def parse(data: bytes, digest: str, name: str, manifest: Manifest) -> Adapter | Embedding:
    """An adapter file's bytes → its tensors, each checked against the manifest. Raises InvalidArgument."""
    header = header_of(data, name)
    try:
        views: list[tuple[str, dict[str, Any]]] = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise damaged(name, str(error)) from None
    tensors = {key: _tensor(key, view, name) for key, view in views}
    kind = header.get("kind")
    found: Adapter | Embedding
    if kind == EMBEDDING:
        found = _embedding(header, tensors, digest, name, manifest)
    elif isinstance(kind, str) and kind in FORMS:
        found = _adapter(header, tensors, digest, name, manifest)
    else:
        raise damaged(name, f"this server doesn't know its kind {kind!r}")
    if tensors:
        raise damaged(name, cascade.stray(sorted(tensors), str(kind), manifest))
    if isinstance(found, Adapter) and (wrong := cascade.wrong(header, found.factors, manifest)):
        raise damaged(name, wrong)
    return found


def _adapter(
    header: Mapping[str, Any], tensors: dict[str, Array], digest: str, name: str, manifest: Manifest
) -> Adapter:
    """An adapter; takes the tensors that it uses out of `tensors`, as `_embedding` does."""
    check_backbone(header, name, manifest)
    kind, prompt = header["kind"], _prompt(header, name)
    if wrong := FORMS[kind].check(header):
        raise damaged(name, wrong)
    factors: dict[str, dict[str, Factors]] = {}
    for graph, spec in manifest.graphs.items():
        for site in spec.sites:
            if site.kind == kind and (found := _factors(tensors, f"{graph}.{site.name}", site, name, header)):
                factors.setdefault(graph, {})[site.name] = found
    nbytes = sum(part.nbytes for sites in factors.values() for found in sites.values() for part in found.values())
    return Adapter(digest, kind, factors, nbytes, prompt)


def delta(header: Mapping[str, Any], digest: str, name: str, manifest: Manifest) -> Delta:
    check_backbone(header, name, manifest)
    forms = header.get("forms")
    if not isinstance(forms, list) or not forms:
        raise damaged(name, "its header doesn't say which forms its updates have")
    said = tuple(str(form) for form in forms)
    return Delta(digest, said, _prompt(header, name), stages=stages_of(header, name))


def heaviest(manifest: Manifest) -> int:
    """The most bytes that a usable file can have: a LoRA's, bottlenecks' or an embedding's; not a delta's."""
    sites = [site for graph in manifest.graphs.values() for site in graph.sites]
    factors = sum(4 * FORMS[site.kind].heaviest(site) for site in sites)
    vectors = 4 * MAX_STAGES * MAX_PLACES * sum(manifest.embedding_widths.values())
    return 8 + MAX_HEADER + max(factors, vectors)


def is_delta(data: bytes) -> bool:
    """Whether a file's first bytes, however broken, say that it is a delta."""
    try:
        return header_of(data, "").get("kind") == DELTA
    except InvalidArgument:
        return False


def check_backbone(header: Mapping[str, Any], name: str, manifest: Manifest) -> None:
    if header.get("family") != manifest.family:
        problem = (
            f"adapter {name!r} is for a {header.get('family')} backbone, but {manifest.name!r} is {manifest.family}"
        )
        raise InvalidArgument(FIELD, problem, "name an adapter that was trained on this kind of backbone")
    if beyond := cascade.beyond(stages_of(header, name), manifest):
        problem = f"adapter {name!r} is a pair, with a half for the stage {shown(beyond[0])}"
        fix = "name an adapter of the base alone, or in MODEL a bundle with both stages"
        raise InvalidArgument(FIELD, f"{problem}, which {manifest.name!r} doesn't have", fix)
    if header.get("architecture") != manifest.architecture:
        raise _of_another(header.get("network"), name, manifest)


def stages_of(header: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """As cascade.stages. Raises InvalidArgument."""
    try:
        return cascade.stages(header)
    except Unfit as error:
        raise damaged(name, f"its header {error}") from None


def _of_another(network: object, name: str, manifest: Manifest) -> InvalidArgument:
    """The error for an adapter of another network. `network` is that one's name in the header, if it has one."""
    if isinstance(network, str) and network not in ("", manifest.name):
        problem = f"adapter {name!r} belongs to the network {shown(network)}, but this is {manifest.name!r}"
        takes_any = any(graph.sites for graph in manifest.graphs.values())
        fix = f"name one of {manifest.name!r}" if takes_any else "leave it out, since this network has a fixed style"
        return InvalidArgument(FIELD, problem, f"{fix}, or name the other network's bundle in MODEL")
    problem = f"adapter {name!r} was imported for another backbone than {manifest.name!r}, or by an older impasto"
    fix = "import its source file again for this bundle, under a new name if another bundle still uses this one"
    return InvalidArgument(FIELD, problem, fix)


def _prompt(header: Mapping[str, Any], name: str) -> str | None:
    prompt = header.get("prompt")
    if prompt is None:
        return None
    if not _holds(prompt, "{context}"):
        raise damaged(name, f"its prompt {prompt!r} has no place for {{context}}")
    return _spoken(prompt, name)


def _embedding(
    header: Mapping[str, Any], tensors: dict[str, Array], digest: str, name: str, manifest: Manifest
) -> Embedding:
    widths = manifest.embedding_widths
    vectors = {graph: tensors.pop(f"{graph}.vectors", None) for graph in widths}
    for graph, array in vectors.items():
        if array is None:
            raise damaged(name, f"it has no vectors for {graph}")
        if array.ndim != 3 or not (0 < array.shape[0] <= MAX_STAGES and 0 < array.shape[1] <= MAX_PLACES):
            raise damaged(name, f"{graph}.vectors is {list(array.shape)}, not [stages, vectors, width]")
        if array.shape[2] != widths[graph]:
            problem = (
                f"embedding {name!r} is {array.shape[2]} wide, but {graph} of {manifest.name!r} is {widths[graph]}"
            )
            raise InvalidArgument(FIELD, problem, "use an embedding that was trained on this kind of backbone")
        if not np.isfinite(array).all():
            raise damaged(name, f"{graph}.vectors carries NaN or infinity")
    checked = {graph: array for graph, array in vectors.items() if array is not None}
    if len({array.shape[:2] for array in checked.values()}) != 1:
        raise damaged(name, "its text encoders have different numbers of stages or vectors")
    prompt, style_prompt = header.get("prompt"), header.get("style_prompt")
    if not _holds(prompt, "{context}", "{style}") or not _holds(style_prompt, "{style}"):
        raise damaged(name, "its header lacks the prompts that it was trained with")
    return Embedding(digest, checked, _spoken(prompt, name), _spoken(style_prompt, name))


def _holds(template: object, *places: str) -> bool:
    return isinstance(template, str) and all(template.count(place) == 1 for place in places)


def _spoken(template: object, name: str) -> str:
    """The template, checked: UTF-8, and without the name of an embedding, which nobody would look up."""
    text = str(template)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise damaged(name, "its prompt is not Unicode text") from None
    if found := TRIGGER.search(text):
        raise damaged(name, f"its prompt names the embedding {shown(found[0])}, which only a request may do")
    return text


def header_of(data: bytes, name: str) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER, len(data) - 8):
        raise damaged(name, "it is truncated or not a safetensors file")
    try:
        header = dict(read_json(read_json(data[8 : 8 + length])["__metadata__"]["impasto"]))
    except (ValueError, KeyError, TypeError):
        raise damaged(name, "it has no impasto header") from None
    if header.get("format") != FORMAT:
        raise damaged(name, f"its format is {header.get('format')!r}, but this server reads {FORMAT}")
    return header


def _tensor(key: str, view: Mapping[str, Any], name: str) -> Array:
    dtype = _DTYPES.get(view["dtype"])
    if dtype is None:
        raise damaged(name, f"{key} is {view['dtype']}, not F32, F16 or BF16")
    raw: NDArray[Any] = np.frombuffer(view["data"], dtype).reshape(view["shape"])
    return widened(raw) if view["dtype"] == "BF16" else raw.astype(np.float32)


def _factors(
    tensors: dict[str, Array], prefix: str, site: Site, name: str, header: Mapping[str, Any]
) -> Factors | None:
    """Take a site's tensors out of `tensors`; None when the adapter has none for the site."""
    form = FORMS[site.kind]
    parts = form.stored(site, 0)
    found = {part: tensors.pop(f"{prefix}.{part}") for part in parts if f"{prefix}.{part}" in tensors}
    if not found:
        return None
    if len(found) < len(parts):
        raise damaged(name, f"{prefix} lacks {', '.join(part for part in parts if part not in found)}")
    shapes = {part: array.shape for part, array in found.items()}
    if not _has_a_rank(form, site, shapes):
        problem = f"{prefix} is {_listed(shapes)}, but this backbone needs {_listed(parts, 'r')}"
        raise damaged(name, problem)
    factors = form.read(found, header)
    if not all(np.isfinite(array).all() for array in (*found.values(), *factors.values())):
        raise damaged(name, f"{prefix} carries NaN or infinity")
    return factors


def _has_a_rank(form: Form, site: Site, shapes: Mapping[str, Shape]) -> bool:
    """Whether a file's tensors have the shapes that the form has at some rank."""
    ranks = {size for shape in shapes.values() for size in shape if size} if form.rank is None else {form.rank}
    return any(form.stored(site, rank) == shapes for rank in ranks)


def _listed(shapes: Mapping[str, Shape], rank: str = "0") -> str:
    """Shapes in words, `rank` in place of a size of 0, e.g. A [320, r], B [r, 320], scale []."""
    sizes = {part: ", ".join(str(size or rank) for size in shape) for part, shape in shapes.items()}
    return ", ".join(f"{part} [{said}]" for part, said in sizes.items())


def damaged(name: str, why: str) -> InvalidArgument:
    return InvalidArgument(FIELD, f"adapter {name!r} can't be used: {why}", "import it again from its source file")
