"""Paint the frames of a film, in order, several in flight, smoothed along their motion."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from impasto_client.errors import InvalidRequest
from impasto_client.order import awaited, in_order, in_order_async
from impasto_client.painting import Painting
from impasto_client.tensor import shown
from impasto_client.video.extra import extra

if TYPE_CHECKING:
    from impasto_client.video.flow import Motion

Pixels = NDArray[np.uint8]
Frame = TypeVar("Frame", Image.Image, Pixels)

SMOOTH = 0.8
IN_FLIGHT = 4


@dataclass(frozen=True)
class _Pair(Generic[Frame]):
    """A frame, its pixels, and the previous frame's: RGB [H, W, 3]; None before the first."""

    frame: Frame
    now: Pixels
    before: Pixels | None


@dataclass(frozen=True)
class Film:
    """How a film is painted. Raises InvalidRequest for values out of range."""

    smooth: float = SMOOTH
    in_flight: int = IN_FLIGHT

    def __post_init__(self) -> None:
        if not (_is_number(self.smooth) and 0 <= self.smooth <= 1):
            raise InvalidRequest(f"SMOOTH: {shown(self.smooth)} is out of range; pass 0 (off) to 1", "SMOOTH")
        if isinstance(self.in_flight, bool) or not isinstance(self.in_flight, int) or self.in_flight < 1:
            raise InvalidRequest(
                f"IN_FLIGHT: {shown(self.in_flight)} is not a number of frames; pass 1 or more", "IN_FLIGHT"
            )

    def painted(self, frames: Iterable[Frame], paint: Callable[[bytes], Painting]) -> Generator[Frame, None, None]:
        """The paintings of `frames`; several threads call `paint` with a frame's file. Raises what `paint` raises."""
        smoother = self._smoother()

        def work(pair: _Pair[Frame]) -> tuple[_Pair[Frame], Pixels, Motion | None]:
            return pair, _pixels(paint(_png(pair.now)).image), self._motion(pair)

        with closing(in_order(_pairs(frames), work, self.in_flight)) as done:
            for pair, painting, motion in done:
                yield _like(pair.frame, smoother(painting, motion))

    async def painted_async(
        self, frames: Iterable[Frame] | AsyncIterable[Frame], paint: Callable[[bytes], Awaitable[Painting]]
    ) -> AsyncGenerator[Frame, None]:
        """As `painted`, for asyncio; long computations run in threads."""
        smoother = self._smoother()

        async def work(pair: _Pair[Frame]) -> tuple[_Pair[Frame], Pixels, Motion | None]:
            painting = await paint(await asyncio.to_thread(_png, pair.now))
            pixels = await asyncio.to_thread(lambda: _pixels(painting.image))
            return pair, pixels, await asyncio.to_thread(self._motion, pair)

        async with aclosing(in_order_async(_pairs_async(frames), work, self.in_flight)) as done:
            async for pair, painting, motion in done:
                yield _like(pair.frame, await asyncio.to_thread(smoother, painting, motion))

    def _smoother(self) -> Callable[[Pixels, Motion | None], Pixels]:
        if not self.smooth:
            return lambda painting, motion: painting
        with extra("smoothing", ", or pass smooth=0"):
            from impasto_client.video.smoothing import Smoother
        return Smoother(self.smooth).next

    def _motion(self, pair: _Pair[Any]) -> Motion | None:
        if not self.smooth or pair.before is None:
            return None
        from impasto_client.video.flow import motion

        return motion(pair.before, pair.now)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _pairs(frames: Iterable[Frame]) -> Iterator[_Pair[Frame]]:
    before: Pixels | None = None
    for frame in frames:
        pair = _paired(frame, before)
        yield pair
        before = pair.now


async def _pairs_async(frames: Iterable[Frame] | AsyncIterable[Frame]) -> AsyncIterator[_Pair[Frame]]:
    before: Pixels | None = None
    async for frame in awaited(frames):
        pair = _paired(frame, before)
        yield pair
        before = pair.now


def _paired(frame: Frame, before: Pixels | None) -> _Pair[Frame]:
    """The frame and the one before. Raises InvalidRequest for a bad frame, or one of another size than before."""
    now = _pixels(frame)
    if before is not None and before.shape != now.shape:
        sizes = f"{now.shape[1]} x {now.shape[0]} after one of {before.shape[1]} x {before.shape[0]}"
        raise InvalidRequest(f"IMAGE: got a frame of {sizes}; pass frames of one size", "IMAGE")
    return _Pair(frame, now, before)


def _pixels(frame: Any) -> Pixels:
    if isinstance(frame, Image.Image):
        return np.asarray(frame.convert("RGB"), dtype=np.uint8)
    if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3:
        return frame
    is_array = isinstance(frame, np.ndarray)
    kind = f"an array {frame.dtype} {list(frame.shape)}" if is_array else f"a value of type {type(frame).__name__}"
    raise InvalidRequest(f"IMAGE: {kind} is not a frame; pass PIL images, or RGB as uint8 [H, W, 3]", "IMAGE")


def _like(frame: Frame, painting: Pixels) -> Frame:
    return Image.fromarray(painting) if isinstance(frame, Image.Image) else painting


def _png(pixels: Pixels) -> bytes:
    """The frame as PNG, compressed little, since it is read once."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
