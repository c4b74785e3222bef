"""A clip's file, read and written frame by frame. Needs PyAV."""

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
BT709, LIMITED = 1, 1  # FFmpeg's numbers of a colour space and of a range

Pixels = NDArray[np.uint8]


def repaint(
    source: Path,
    out: Path,
    paint: Callable[[Iterator[Pixels]], Iterable[Pixels]],
    started: Callable[[int | None], None],
) -> int:
    """Write `source`, its frames painted, as H.264 with the sound as it was to `out`, a name of CONTAINERS.

    `paint` takes the frames, upright RGB, and yields as many, all of one size; a last odd row or column is cut, for
    H.264 has none. `started` is told how many frames there are, None where the file doesn't say. Returns how many there
    were. `out` is there once all is written. Raises InvalidRequest for what is no film or holds sound that `out` can't,
    and what `paint` raises.
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
        problem = f"{str(source)!r} can't be read, or written as {str(out)!r} ({error.strerror})"
        raise InvalidRequest(f"CLIP: {problem}; pass a whole film, and a folder that can be written", "CLIP") from None
    finally:
        part.unlink(missing_ok=True)


def _opened(source: Path) -> InputContainer:
    try:
        return av.open(source, "r")
    except av.FFmpegError as error:
        raise InvalidRequest(f"CLIP: {str(source)!r} is no film ({error.strerror}); pass e.g. an mp4", "CLIP") from None


class _Reading:
    """`times` are those of frames that were read and aren't written yet, `sound` packets likewise."""

    def __init__(self, source: Path, film: InputContainer) -> None:
        if not film.streams.video:
            raise InvalidRequest(f"CLIP: {str(source)!r} has no video stream; pass a film", "CLIP")
        self.source, self._film = source, film
        self.stream: VideoStream = film.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.rate = self.stream.average_rate or Fraction(25)
        self.times: deque[tuple[int, Fraction]] = deque()
        self.sound: deque[Packet[Any]] = deque()
        self.turned = 0  # quarters, against the clock

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
                if packet.dts is not None:  # the last one only says that it is over
                    self.sound.append(packet)
                continue
            for frame in packet.decode():
                yield self._pixels(frame)

    def _pixels(self, frame: Any) -> Pixels:
        """Turned as the camera was held."""
        self.times.append((frame.pts, frame.time_base))
        self.turned = round(frame.rotation / 90)
        return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), self.turned))


class _Writing:
    def __init__(self, reading: _Reading, painted: OutputContainer) -> None:
        self._reading, self._painted = reading, painted

    def written(self, frames: Iterable[Pixels]) -> int:
        """How many."""
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
        """The size is known with the first frame alone, and a file's head with all of its streams.

        Raises InvalidRequest for one of which nothing is left once odd rows and columns are cut.
        """
        height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
        if not height or not width:
            problem = f"{str(self._reading.source)!r} becomes {pixels.shape[1]} x {pixels.shape[0]}"
            raise InvalidRequest(f"CLIP: {problem}; H.264 has frames of 2 x 2 pixels at the least", "CLIP")
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
        """Of a pixel, where it isn't square."""
        shape = self._reading.stream.sample_aspect_ratio
        if shape:
            stream.codec_context.sample_aspect_ratio = 1 / shape if self._reading.turned % 2 else shape

    def _voice(self, voice: Any) -> Any:
        codec = voice.codec.canonical_name
        if codec not in self._painted.supported_codecs:
            problem = f"{str(self._reading.source)!r} has sound in {codec}, which this kind of file doesn't hold"
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
