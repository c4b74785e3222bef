"""Adapter files: bytes → tensors that were checked.

A LoRA's or a bottleneck adapter's factors change the backbone (bank.py), an embedding's vectors stand in prompts
(prompt.py). A delta changes weights in ways that only merged weights can have: its tensors are nobody's here, but its
bytes must be those of its digest as anybody's, since the words of its header are used, and META names it by that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from impasto_server.bundle import Manifest, Site
from impasto_server.errors import InvalidArgument, shown
from impasto_server.strangers import read_json

Array = NDArray[np.float32]

FIELD = "ADAPTER_NAMES"
FORMAT = 1
TRIGGER = re.compile(r"<([^<>\s]+)>")  # an embedding's name in a prompt
DELTA = "delta"  # the kind of what isn't read whole
MAX_HEADER = 1 << 20
MAX_RANK = 512  # of a file, at every site that there is
MAX_STAGES, MAX_PLACES = 64, 75  # what a request's embeddings may come to together stands in prompt.py
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


@dataclass(frozen=True)
class Factors:
    """One site's update; `a` [in, rank], `b` [rank, out] float32, the scale folded into b.

    x → x @ a @ b for a LoRA, y → gelu(y @ a) @ b for a bottleneck; `tanh` [rank] is 1 where a hidden unit's gelu is the
    tanh approximation, and 0 where it's the exact one, or there is none.
    """

    a: Array
    b: Array
    tanh: Array

    @property
    def rank(self) -> int:
        return int(self.a.shape[1])


@dataclass(frozen=True)
class Adapter:
    """A checked LoRA or bottleneck adapter: factors by graph and site.

    `prompt` is the words that it was trained in, with {context} for the rest; None where nothing is known of them.
    """

    digest: str
    factors: Mapping[str, Mapping[str, Factors]]
    nbytes: int
    prompt: str | None = None


@dataclass(frozen=True)
class Delta:
    """An adapter that no bank can carry, for the `forms` of its updates; `prompt` as an Adapter's."""

    digest: str
    forms: tuple[str, ...]
    prompt: str | None = None
    nbytes: int = 0  # its tensors are nobody's here


Patch = Adapter | Delta


@dataclass(frozen=True)
class Embedding:
    """A checked textual inversion: by text encoder, vectors [stages, places, D] float32, the finest stage first.

    `prompt` and `style_prompt` are the words it was trained in, with {context} and {style} for what stands there.
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
        """Tokens that its trigger takes in a prompt."""
        return next(iter(self.vectors.values())).shape[1]

    @property
    def nbytes(self) -> int:
        return sum(vectors.nbytes for vectors in self.vectors.values())


def parse(data: bytes, digest: str, name: str, manifest: Manifest) -> Adapter | Embedding:
    """An adapter file's bytes → its tensors, every one checked against the manifest. Raises InvalidArgument."""
    header = header_of(data, name)
    try:
        views: list[tuple[str, dict[str, Any]]] = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise damaged(name, str(error)) from None
    tensors = {key: _tensor(key, view, name) for key, view in views}
    match header.get("kind"):
        case "lora" | "bottleneck":
            found: Adapter | Embedding = _adapter(header, tensors, digest, name, manifest)
        case "embedding":
            found = _embedding(header, tensors, digest, name, manifest)
        case kind:
            raise damaged(name, f"it is of the kind {kind!r}, which this server doesn't know")
    if tensors:
        raise damaged(name, f"it holds tensors that belong nowhere: {', '.join(sorted(tensors)[:3])}")
    return found


def _adapter(
    header: Mapping[str, Any], tensors: dict[str, Array], digest: str, name: str, manifest: Manifest
) -> Adapter:
    """Takes what it uses out of `tensors`, as `_embedding` does."""
    _check_backbone(header, name, manifest)
    tanh, prompt = _tanh(header, name), _prompt(header, name)
    factors: dict[str, dict[str, Factors]] = {}
    for graph, spec in manifest.graphs.items():
        for site in spec.sites:
            found = _factors(tensors, f"{graph}.{site.name}", site, name, tanh) if site.kind == header["kind"] else None
            if found is not None:
                factors.setdefault(graph, {})[site.name] = found
    nbytes = sum(f.a.nbytes + f.b.nbytes for sites in factors.values() for f in sites.values())
    return Adapter(digest, factors, nbytes, prompt)


def delta(header: Mapping[str, Any], digest: str, name: str, manifest: Manifest) -> Delta:
    _check_backbone(header, name, manifest)
    forms = header.get("forms")
    if not isinstance(forms, list) or not forms:
        raise damaged(name, "its header doesn't say which forms its updates have")
    return Delta(digest, tuple(str(form) for form in forms), _prompt(header, name))


def heaviest(manifest: Manifest) -> int:
    """How many bytes a file can need for what a bank or prompts can use: a LoRA, bottlenecks or an embedding."""
    sites = [site for graph in manifest.graphs.values() for site in graph.sites]
    factors = sum(4 * (1 + MAX_RANK * (site.in_features + site.out_features)) for site in sites)
    vectors = 4 * MAX_STAGES * MAX_PLACES * sum(manifest.embedding_widths.values())
    return 8 + MAX_HEADER + max(factors, vectors)


def is_delta(data: bytes) -> bool:
    """Of a file's first bytes, however broken."""
    try:
        return header_of(data, "").get("kind") == DELTA
    except InvalidArgument:
        return False


def _check_backbone(header: Mapping[str, Any], name: str, manifest: Manifest) -> None:
    if header.get("family") != manifest.family:
        problem = f"adapter {name!r} is for a {header.get('family')} backbone, {manifest.name!r} is {manifest.family}"
        raise InvalidArgument(FIELD, problem, "name an adapter that was trained on this kind of backbone")
    if header.get("architecture") != manifest.architecture:
        problem = f"adapter {name!r} was imported for another backbone than {manifest.name!r}"
        raise InvalidArgument(FIELD, problem, "import its source file for this bundle under a name of its own")


def _prompt(header: Mapping[str, Any], name: str) -> str | None:
    prompt = header.get("prompt")
    if prompt is None:
        return None
    if not _holds(prompt, "{context}"):
        raise damaged(name, f"its prompt {prompt!r} has no place for {{context}}")
    return _spoken(prompt, name)


def _tanh(header: Mapping[str, Any], name: str) -> bool:
    """Whether its hidden units have the approximate gelu."""
    gelu = header.get("gelu")
    if header["kind"] == "bottleneck" and gelu not in ("exact", "tanh"):
        raise damaged(name, f"its gelu is {gelu!r}, neither 'exact' nor 'tanh'")
    return bool(gelu == "tanh")


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
            problem = f"embedding {name!r} is {array.shape[2]} wide, {graph} of {manifest.name!r} {widths[graph]}"
            raise InvalidArgument(FIELD, problem, "use an embedding that was trained on this kind of backbone")
        if not np.isfinite(array).all():
            raise damaged(name, f"{graph}.vectors carries NaN or infinity")
    checked = {graph: array for graph, array in vectors.items() if array is not None}
    if len({array.shape[:2] for array in checked.values()}) != 1:
        raise damaged(name, "its text encoders have unlike numbers of stages or vectors")
    prompt, style_prompt = header.get("prompt"), header.get("style_prompt")
    if not _holds(prompt, "{context}", "{style}") or not _holds(style_prompt, "{style}"):
        raise damaged(name, "its header lacks the prompts that it was trained with")
    return Embedding(digest, checked, _spoken(prompt, name), _spoken(style_prompt, name))


def _holds(template: object, *places: str) -> bool:
    return isinstance(template, str) and all(template.count(place) == 1 for place in places)


def _spoken(template: object, name: str) -> str:
    """It, if it can be said: in UTF-8, and without an embedding that nobody looks up."""
    text = str(template)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise damaged(name, "its prompt is no Unicode text") from None
    if found := TRIGGER.search(text):
        raise damaged(name, f"its prompt names an embedding, {shown(found[0])}, which only a request may do")
    return text


def header_of(data: bytes, name: str) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER, len(data) - 8):
        raise damaged(name, "it's truncated or no safetensors file")
    try:
        header = dict(read_json(read_json(data[8 : 8 + length])["__metadata__"]["impasto"]))
    except (ValueError, KeyError, TypeError):
        raise damaged(name, "it has no impasto header") from None
    if header.get("format") != FORMAT:
        raise damaged(name, f"it's of format {header.get('format')!r}, and this server reads {FORMAT}")
    return header


def _tensor(key: str, view: Mapping[str, Any], name: str) -> Array:
    dtype = _DTYPES.get(view["dtype"])
    if dtype is None:
        raise damaged(name, f"{key} is {view['dtype']}, not F32, F16 or BF16")
    raw: NDArray[Any] = np.frombuffer(view["data"], dtype).reshape(view["shape"])
    return _from_bf16(raw) if view["dtype"] == "BF16" else raw.astype(np.float32)


def _from_bf16(raw: NDArray[np.uint16]) -> Array:
    """A bf16 number is the upper half of the float32 it stands for."""
    widened: Array = np.left_shift(raw, 16, dtype=np.uint32).view(np.float32)
    return widened


def _factors(tensors: dict[str, Array], prefix: str, site: Site, name: str, tanh: bool) -> Factors | None:
    """Take a site's three tensors out of `tensors`; None when the adapter leaves the site alone."""
    a, b, scale = (tensors.pop(f"{prefix}.{part}", None) for part in ("A", "B", "scale"))
    if a is None and b is None and scale is None:
        return None
    if a is None or b is None or scale is None:
        raise damaged(name, f"{prefix} lacks one of A, B and scale")
    rank = a.shape[-1] if a.ndim == 2 else 0
    if rank == 0 or a.shape != (site.in_features, rank) or b.shape != (rank, site.out_features) or scale.shape != ():
        expected = f"A [{site.in_features}, r], B [r, {site.out_features}] and a scalar scale"
        raise damaged(name, f"{prefix} is A {list(a.shape)}, B {list(b.shape)}; this backbone wants {expected}")
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.ascontiguousarray(b * scale)
    if not (np.isfinite(a).all() and np.isfinite(scaled).all()):
        raise damaged(name, f"{prefix} carries NaN or infinity")
    return Factors(a, scaled, np.full(rank, tanh, np.float32))


def damaged(name: str, why: str) -> InvalidArgument:
    return InvalidArgument(FIELD, f"adapter {name!r} can't be used: {why}", "import it again from its source file")
