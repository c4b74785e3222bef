"""Open the file or folder of a net.

It is safetensors, npz, a pickle of tensors, Torch7, ONNX, a TensorFlow checkpoint, or a folder with a config or with a
file for each variable. Tensors are read when asked for.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import onnx
from numpy.typing import NDArray

from impasto_export import spellings
from impasto_export.adapters import pickles
from impasto_export.architecture import Json, read_json
from impasto_export.errors import AdapterError, CheckpointError
from impasto_export.feedforward import folders, onnx_file, tensorflow, torch7
from impasto_export.feedforward.net import Array
from impasto_export.floats import FLOATS, float32
from impasto_export.weights import Header, read_header, read_tensor

CONFIG, OURS = "config.json", "impasto-feedforward"
# The key under which a training's file keeps the net, beside its optimiser.
WRAPPED = re.compile(r"^(?:state_dict|model|model_state_dict|net|network)/")
MAX_PICKLE = 256 << 20
SAFETENSORS, NPZ, ONNX = ".safetensors", ".npz", ".onnx"
# Bytes of all arrays together, as the archive states them before unpacking.
MAX_ARRAYS = 1 << 30
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """An open file or folder. `shapes` are its tensors' by its own names, `read` returns one. `config` is a folder's,
    `model` an ONNX file's, `metadata` a safetensors header's, `torch7` a Torch7 file's content. `alone`: files of this
    kind (pickles, Torch7) can hold no other model that is linked."""

    place: Path
    shapes: Mapping[str, Shape]
    read: Callable[[str], Array]
    config: Json = field(default_factory=dict)
    model: onnx.ModelProto | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    torch7: Any = None
    alone: bool = False

    def __str__(self) -> str:
        return str(self.place)

    @property
    def name(self) -> str:
        """The file's or the folder's name, without suffixes."""
        return self.place.resolve().name.partition(".")[0]

    def tensor(self, name: str) -> Array:
        """The tensor, float32. Raises CheckpointError when it is missing, or holds NaN or infinity."""
        if name not in self.shapes:
            raise CheckpointError(f"{self.place}: its tensor {name} is missing; get the file again")
        array = self.read(name)
        if not np.isfinite(array).all():
            raise CheckpointError(f"{self.place}: {name} holds NaN or infinity; get the file again")
        return array


@contextmanager
def opened(place: Path) -> Iterator[Source | None]:
    """The source, readable until the block ends; None for a file that cannot hold a feed-forward net. Raises
    CheckpointError for a damaged file."""
    with TemporaryDirectory(prefix="impasto-") as folder:
        yield _source(place, Path(folder))


def _source(place: Path, spare: Path) -> Source | None:
    """The source at `place`; `spare` is a folder for temporary files."""
    if place.is_dir():
        return _folder(place, spare)
    found = tensorflow.prefix(place)
    if found:
        entries = tensorflow.entries(found)
        return Source(place, {name: entry.shape for name, entry in entries.items()}, partial(tensorflow.read, entries))
    if not place.is_file():
        return None
    match place.suffix:
        case ".safetensors":
            return _safetensors(place, read_header(place))
        case ".npz":
            return _arrays(place)
        case ".onnx":
            return _graph(place)
    if torch7.is_torch7(place):
        nothing: dict[str, Array] = {}
        return Source(place, {}, nothing.__getitem__, torch7=torch7.read(place), alone=True)
    # A larger pickle holds no net of this family; elsewhere the user is told how to convert it.
    return _pickle(place, spare) if place.stat().st_size <= MAX_PICKLE and pickles.is_pickle(place) else None


def _folder(place: Path, spare: Path) -> Source | None:
    """A folder of the studio, of deeplearn.js, or of a TensorFlow checkpoint."""
    config = read_json(place / CONFIG) if (place / CONFIG).is_file() else {}
    if config.get("format") == OURS:
        return _safetensors(place, read_header(place / "model.safetensors"), config)
    variables = folders.entries(place)
    if variables is not None:
        shapes = folders.shapes(place, variables)
        return Source(place, shapes, lambda name: folders.read(place, variables[name]))
    latest = tensorflow.latest(place)
    return _source(latest, spare) if latest else None


def _pickle(place: Path, spare: Path) -> Source:
    """A pickle's tensors, which a separate process writes as safetensors, without the wrapping of a training's file."""
    try:
        header = pickles.read(place, spare)
    except AdapterError as error:
        raise CheckpointError(str(error)) from None
    return replace(_safetensors(place, header), alone=True)


def _safetensors(place: Path, header: Header, config: Json | None = None) -> Source:
    def read(name: str) -> Array:
        dtype = tensors[name].dtype
        if dtype not in FLOATS:
            raise CheckpointError(f"{place}: {name} is {dtype}; {', '.join(FLOATS)} are read")
        return float32(read_tensor(Header(header.path, tensors, {}), name), dtype)

    tensors = {_unwrapped(name): tensor for name, tensor in header.tensors.items()}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return Source(place, shapes, read, config or {}, metadata=header.metadata)


def _unwrapped(name: str) -> str:
    """A name without the dictionary around a training's state, and without module wrappers."""
    return spellings.unwrapped(WRAPPED.sub("", name))


def _arrays(place: Path) -> Source:
    """An .npz file's arrays. numpy unpickles nothing, since allow_pickle is off."""
    try:
        if not is_zipfile(place):
            raise ValueError("it is not an archive")
        with ZipFile(place) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size > MAX_ARRAYS:
            raise CheckpointError(f"{place} unpacks to {size} bytes; up to {MAX_ARRAYS} are read")
        with np.load(place, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, BadZipFile, EOFError, MemoryError, NotImplementedError, zlib.error) as error:
        raise CheckpointError(f"{place} cannot be read as .npz ({error}); get it again") from None
    for name, array in arrays.items():  # numpy returns bytes for an entry that is not an array
        kind = array.dtype if isinstance(array, np.ndarray) else "no array"
        if isinstance(kind, str) or kind.kind not in "fiu":
            raise CheckpointError(f"{place}: {name} is {kind}; arrays of numbers are read")
    return Source(place, {name: array.shape for name, array in arrays.items()}, lambda name: _float(arrays[name]))


def _float(array: NDArray[Any]) -> Array:
    return np.asarray(array, np.float32)


def _graph(place: Path) -> Source:
    model = onnx_file.read(place)
    held = {item.name: item for item in model.graph.initializer}
    shapes = {name: tuple(item.dims) for name, item in held.items()}
    return Source(place, shapes, lambda name: _float(onnx.numpy_helper.to_array(held[name])), model=model)
