"""Read and write a clip's file frame by frame. Needs PyAV."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from impasto_client.errors import InvalidRequest

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
CODEC, QUALITY = "libx264", {"crf": "18"}
BT709, LIMITED = 1, 1  # FFmpeg's numbers for this colour space, and for this range

Pixels = NDArray[np.uint8]


def repaint(
    source: Path,
    out: Path,
    paint: Callable[[Iterator[Pixels]], Iterable[Pixels]],
    started: Callable[[int | None], None],
) -> int:
    """Write `source` with painted frames to `out`, as H.264 with unchanged sound; `out` ends as in CONTAINERS.

    `paint` takes the frames, upright RGB, and yields as many, all of one size; an odd last row or column is cut, since
    H.264 needs even sizes. `started` gets the number of frames, None if the file doesn't tell. Returns the number of
    frames. `out` appears when all is written. Raises InvalidRequest for a file that is not a film, or whose sound `out`
    can't hold; and what `paint` raises.
    """
    part = out.with_name(f".{out.name}.part")
    try:
        with _opened(source) as film, av.open(part, "w", format=CONTAINERS[out.suffix.lower()]) as painted:
            reading = _Reading(source, film)
            started(reading.count)
            count = _Writing(reading, painted).written(paint(reading.frames()))
        if not count:
            raise InvalidRequest(f"CLIP: {str(source)!r} has no frames; pass a film", "CLIP")
        part.replace(out)
        return count
    except av.FFmpegError as error:
        problem = f"{str(source)!r} can't be read, or not written as {str(out)!r} ({error.strerror})"
        raise InvalidRequest(f"CLIP: {problem}; pass a whole film, and a writable folder", "CLIP") from None
    finally:
        part.unlink(missing_ok=True)


def _opened(source: Path) -> InputContainer:
    try:
        return av.open(source, "r")
    except av.FFmpegError as error:
        problem = f"{str(source)!r} is not a film ({error.strerror})"
        raise InvalidRequest(f"CLIP: {problem}; pass e.g. an mp4", "CLIP") from None


class _Reading:
    """The input. `times` and `sound` are timestamps of frames, and packets, that were read but not yet written."""

    def __init__(self, source: Path, film: InputContainer) -> None:
        if not film.streams.video:
            raise InvalidRequest(f"CLIP: {str(source)!r} has no video stream; pass a film", "CLIP")
        self.source, self._film = source, film
        self.stream: VideoStream = film.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.rate = self.stream.average_rate or Fraction(25)
        self.times: deque[tuple[int, Fraction]] = deque()
        self.sound: deque[Packet[Any]] = deque()
        self.turned = 0  # quarter turns, anticlockwise

    @property
    def voices(self) -> tuple[Any, ...]:
        return self._film.streams.audio

    @property
    def count(self) -> int | None:
        if self.stream.frames:
            return self.stream.frames
        return None if self._film.duration is None else round(self._film.duration / av.time_base * self.rate)

    def frames(self) -> Iterator[Pixels]:
        for packet in self._film.demux(self.stream, *self.voices):
            if packet.stream.type == "audio":
                if packet.dts is not None:  # the last packet only marks the end
                    self.sound.append(packet)
                continue
            for frame in packet.decode():
                yield self._pixels(frame)

    def _pixels(self, frame: Any) -> Pixels:
        """The frame's pixels, turned upright."""
        self.times.append((frame.pts, frame.time_base))
        self.turned = round(frame.rotation / 90)
        return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), self.turned))


class _Writing:
    def __init__(self, reading: _Reading, painted: OutputContainer) -> None:
        self._reading, self._painted = reading, painted

    def written(self, frames: Iterable[Pixels]) -> int:
        """Write the frames; returns their number."""
        stream: VideoStream | None = None
        count = 0
        for count, pixels in enumerate(frames, 1):  # noqa: B007
            stream = stream or self._begun(pixels)
            self._painted.mux(stream.encode(self._frame(pixels)))
            self._sound()
        if stream is not None:
            self._painted.mux(stream.encode(None))
            self._sound()
        return count

    def _begun(self, pixels: Pixels) -> VideoStream:
        """The output stream. It is made with the first frame, which tells the size; the file's head needs all streams.

        Raises InvalidRequest for a frame that is too small to cut to even sizes.
        """
        height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
        if not height or not width:
            problem = f"{str(self._reading.source)!r} becomes {pixels.shape[1]} x {pixels.shape[0]}"
            raise InvalidRequest(f"CLIP: {problem}; H.264 needs frames of at least 2 x 2 pixels", "CLIP")
        stream = self._painted.add_stream(CODEC, rate=self._reading.rate, options=QUALITY)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = self._reading.stream.time_base or 1 / self._reading.rate
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
        self._shape(stream)
        self._voices = {voice.index: self._voice(voice) for voice in self._reading.voices}
        return stream

    def _shape(self, stream: VideoStream) -> None:
        """Keep the shape of the pixels, if they aren't square."""
        shape = self._reading.stream.sample_aspect_ratio
        if shape:
            stream.codec_context.sample_aspect_ratio = 1 / shape if self._reading.turned % 2 else shape

    def _voice(self, voice: Any) -> Any:
        codec = voice.codec.canonical_name
        if codec not in self._painted.supported_codecs:
            problem = f"{str(self._reading.source)!r} has sound in {codec}, which this kind of file can't hold"
            raise InvalidRequest(f"CLIP: {problem}; write an .mkv", "CLIP")
        return self._painted.add_stream_from_template(voice)

    def _frame(self, pixels: Pixels) -> VideoFrame:
        height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED)
        frame.pts, frame.time_base = self._reading.times.popleft()
        return frame

    def _sound(self) -> None:
        while self._reading.sound:
            packet = self._reading.sound.popleft()
            packet.stream = self._voices[packet.stream.index]
            self._painted.mux(packet)
