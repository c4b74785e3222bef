"""Paint a picture again from its file's mark, and compare.

The same request on the same bundle and adapters gives the same picture, on the same engine to the last byte. What the
server has is checked first, by digest; what was painted under other conditions is compared afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from impasto_client.asked import digest_of, digests_in, tensors_of
from impasto_client.catalogue import Bundle, Catalogue, decode_catalogue
from impasto_client.errors import MarkError, ProtocolError
from impasto_client.marks import Mark, bare, marked
from impasto_client.painting import decode_photo
from impasto_client.transport import Transport
from impasto_client.wire import Tensors, decode

_UNPAINTED = ("rerank", "style_image")  # they sort candidates, and change none


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    `data` is the new file with its marks. `identical`: it has the bytes of the old one. `same_picture`: the pixels'
    bytes are the same, and only what stands beside them differs. `differences` say what the mark has otherwise than
    the new one, and how far the pixels are apart.
    """

    data: bytes
    identical: bool
    same_picture: bool
    differences: tuple[str, ...]


def needed(mark: Mark) -> Mapping[str, str]:
    """The pictures that are needed: digest -> field on the wire."""
    return digests_in(_paintable(mark))


def obstacles(mark: Mark, catalogue: Catalogue) -> list[str]:
    """Why the server can't paint the same: a line for each bundle or adapter that it lacks, or has otherwise."""
    return [*_bundle_obstacles(mark, catalogue), *_style_obstacles(mark, catalogue)]


def catalogue_of(transport: Transport, timeout_s: float | None) -> Catalogue:
    """What the server has. Raises errors of the ImpastoError tree."""
    return decode_catalogue(transport.catalogue(timeout_s))


def repainted(
    transport: Transport, mark: Mark, old: bytes, pictures: Sequence[bytes], timeout_s: float | None
) -> Outcome:
    """The picture, painted again and compared with the file `old`. `pictures` are the files that were sent with it, in
    any order. Raises errors of the ImpastoError tree: MarkError where a picture is missing, or is not one of them.
    """
    words = {**_paintable(mark), **_model(mark, catalogue_of(transport, timeout_s))}
    tensors = tensors_of(words, _given(mark, pictures))
    data, meta = _painted(transport.infer(tensors, timeout_s), mark)
    fresh = Mark.reported(mark.request, meta, mark.seed)
    if fresh.digest == mark.digest:  # under whatever name
        fresh = replace(fresh, bundle=mark.bundle)
    return _compared(old, mark, marked(data, fresh), fresh)


def _paintable(mark: Mark) -> dict[str, Any]:
    return {word: value for word, value in mark.request.items() if word not in _UNPAINTED}


def _bundle(mark: Mark, catalogue: Catalogue) -> Bundle | None:
    """The server's bundle with the mark's digest, best that of its name; else the one of its name."""
    rank = sorted(catalogue.bundles, key=lambda one: (one.digest != mark.digest, one.name != mark.bundle))
    return next((one for one in rank if one.digest == mark.digest or one.name == mark.bundle), None)


def _model(mark: Mark, catalogue: Catalogue) -> dict[str, str]:
    """The name of the bundle that shall paint, unless the server takes it anyway."""
    found = _bundle(mark, catalogue)
    name = mark.bundle if found is None else found.name
    return {} if name == catalogue.default and "model" not in mark.request else {"model": name}


def _bundle_obstacles(mark: Mark, catalogue: Catalogue) -> Iterator[str]:
    found = _bundle(mark, catalogue)
    if found is None:
        have = ", ".join(one.name for one in catalogue.bundles)
        yield f"bundle: it was painted by {mark.bundle!r} ({mark.digest[:12]}), and the server has {have}"
    elif found.digest != mark.digest:
        yield f"bundle: {mark.bundle!r} was {mark.digest[:12]}, and the server's is {found.digest[:12]}"


def _style_obstacles(mark: Mark, catalogue: Catalogue) -> Iterator[str]:
    have = {one.name: one.digest for one in catalogue.adapters}
    for name, digest in dict.fromkeys((one.name, one.digest) for one in mark.adapters):
        if name not in have:
            other = next((known for known, same in have.items() if same == digest), None)
            fix = f"; it is there as {other!r}" if other else ""
            yield f"adapter: {name!r} ({digest[:12]}) is not in the server's registry{fix}"
        elif have[name] != digest:
            yield f"adapter: {name!r} was {digest[:12]}, and the server's is {have[name][:12]}"


def _given(mark: Mark, pictures: Sequence[bytes]) -> Any:
    """A lookup of the pictures by field and digest. Raises MarkError unless they are those that are needed."""
    by_digest, wanted = {digest_of(one): one for one in pictures}, needed(mark)
    strange = next((digest for digest in by_digest if digest not in wanted), None)
    if strange is not None:
        raise MarkError(f"the picture with sha256 {strange[:12]} was not sent with this request; leave it out")
    missing = [f"{field} {digest[:12]}" for digest, field in wanted.items() if digest not in by_digest]
    if missing:
        fix = "pass each file, unchanged, with --picture"
        raise MarkError(f"pictures were sent that the mark only names, by sha256: {', '.join(missing)}; {fix}")
    return lambda field, digest: by_digest[digest]


def _painted(answer: Tensors, mark: Mark) -> tuple[bytes, Mapping[str, object]]:
    if "prompt" not in mark.request:
        photo = decode_photo(answer)
        return photo.data, photo.meta
    generation = decode(answer)
    found = next((one.data for one in generation.candidates if one.seed == mark.seed), None)
    if found is None:
        raise ProtocolError(f"the server's answer has no picture of seed {mark.seed}")
    return found, generation.meta


def _compared(old: bytes, mark: Mark, new: bytes, fresh: Mark) -> Outcome:
    if old == new:
        return Outcome(new, True, True, ())
    same = bare(old) == bare(new)
    differences = [*_changed(mark, fresh), *(() if same else (_apart(old, new),))]
    if same and not differences:
        differences = ["beside the picture: a signature, or what another program wrote"]
    return Outcome(new, False, same, tuple(differences))


def _changed(mark: Mark, fresh: Mark) -> Iterator[str]:
    for name in ("engine", "precision", "version"):
        was, now = getattr(mark, name), getattr(fresh, name)
        if was != now:
            yield f"{name}: {was or 'unknown'} then, {now or 'unknown'} now"
    for name in sorted({*mark.settings, *fresh.settings}):
        was, now = mark.settings.get(name), fresh.settings.get(name)
        if was != now and name != "rerank":
            yield f"{name}: {was!r:.60} then, {now!r:.60} now"
    if (mark.digest, mark.adapters) != (fresh.digest, fresh.adapters):
        yield "the bundle, or an adapter: other weights"
    if mark.check:
        yield f"check: the gateway's {mark.check!r} changed the picture after it was painted; that isn't done here"


def _apart(old: bytes, new: bytes) -> str:
    one, other = _pixels(old), _pixels(new)
    if one.shape != other.shape:
        return f"size: {one.shape[1]}x{one.shape[0]} then, {other.shape[1]}x{other.shape[0]} now"
    far = np.abs(one - other)
    return f"pixels: {100 * (far.max(axis=2) > 0).mean():.2g} % differ, by {far.max()} of 255 at most"


def _pixels(data: bytes) -> NDArray[np.int64]:
    try:
        return np.asarray(Image.open(BytesIO(data)).convert("RGB"), np.int64)
    except Exception as error:  # Pillow may raise almost anything for a broken file
        raise MarkError(f"the picture can't be decoded ({str(error)[:80]}); the file is damaged") from None
