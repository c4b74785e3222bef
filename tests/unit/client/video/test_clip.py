"""Clips: every frame painted at its time, upright, the sound as it was; and what is no clip."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.helpers.photo_home import files, furnish, impasto, words_of

from impasto_client import FakeTransport, InvalidRequest, ServerUnavailable
from impasto_client.video import clip
from impasto_client.wire import Tensors

Pixels = NDArray[np.uint8]
RATE = 25


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(tmp_path, monkeypatch)


def frame(number: int, size: tuple[int, int] = (64, 48)) -> Pixels:
    """Red at the top, blue below; the green tells the number."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[: size[1] // 2, :, 0], pixels[size[1] // 2 :, :, 2], pixels[..., 1] = 200, 200, 20 * number
    return pixels


def write(
    path: str,
    frames: Sequence[Pixels],
    times: Sequence[int] | None = None,
    sound: str = "",
    turned: int = 0,
    shape: Fraction | None = None,
) -> Path:
    """`times` count 25ths of a second; `sound` is a codec."""
    with av.open(path, "w") as film:
        video = film.add_stream("libx264", rate=RATE, options={"crf": "10"})
        video.height, video.width, video.pix_fmt = *frames[0].shape[:2], "yuv444p"
        if shape is not None:
            video.codec_context.sample_aspect_ratio = shape
        if turned:
            video.set_display_rotation(turned)
        voice = film.add_stream(sound, rate=8000) if sound else None
        for time, pixels in zip(times or range(len(frames)), frames, strict=True):
            one = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            one.pts, one.time_base = time, Fraction(1, RATE)
            film.mux(video.encode(one))
        film.mux(video.encode(None))
        if voice is not None:
            humming(film, voice)
    return Path(path)


def humming(film: Any, voice: Any) -> None:
    wave = np.sin(np.arange(8000) * 0.3).astype(np.float32)[None]
    one = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
    one.sample_rate, one.pts, one.time_base = 8000, 0, Fraction(1, 8000)
    for resampled in av.AudioResampler(voice.format, "mono", 8000).resample(one):
        film.mux(voice.encode(resampled))
    film.mux(voice.encode(None))


def read(path: str | Path) -> list[tuple[float, Pixels]]:
    """Times in seconds, and RGB."""
    with av.open(str(path)) as film:
        return [(one.time, np.asarray(one.to_ndarray(format="rgb24"), np.uint8)) for one in film.decode(video=0)]


def sound_of(path: str | Path) -> list[bytes]:
    with av.open(str(path)) as film:
        return [bytes(packet) for packet in film.demux(film.streams.audio[0]) if packet.size]


def negative(frames: Iterator[Pixels]) -> Iterator[Pixels]:
    for pixels in frames:
        yield np.invert(pixels)


def repaint(source: Path, out: str, paint: Any = negative) -> list[int | None]:
    """What was said of the count at the beginning."""
    told: list[int | None] = []
    clip.repaint(source, Path(out), paint, told.append)
    return told


def test_every_frame_is_painted_in_its_colours_and_at_its_time() -> None:
    times = [0, 1, 2, 5, 6, 9]  # of a camera that leaves some out
    frames = [frame(number) for number in range(6)]
    assert repaint(write("clip.mp4", frames, times), "out.mp4") == [6]
    found = read("out.mp4")
    assert [time for time, _ in found] == pytest.approx([time / RATE for time in times], abs=1e-3)
    for (_, painted), original in zip(found, frames, strict=True):
        middle = (slice(4, 20), slice(4, -4))  # away from edges, where half of the colours is lost
        assert np.abs(painted[middle].astype(int) - (255 - original[middle])).mean() < 6
    assert not list(Path().glob(".*part"))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_the_sound_is_copied(suffix: str) -> None:
    source = write("clip.mkv", [frame(number) for number in range(10)], sound="aac")
    repaint(source, f"out{suffix}")
    assert sound_of(f"out{suffix}") == sound_of(source)


def test_sound_that_the_file_cannot_hold_is_an_error() -> None:
    source = write("clip.mkv", [frame(0)], sound="wavpack")
    with pytest.raises(InvalidRequest, match="has sound in wavpack, .* write an .mkv"):
        repaint(source, "out.mp4")
    repaint(source, "out.mkv")
    assert sound_of("out.mkv") == sound_of(source)


@pytest.mark.parametrize(("turned", "quarters"), [(90, 1), (-90, -1), (180, 2)])
def test_a_film_is_painted_upright_as_the_camera_was_held(turned: int, quarters: int) -> None:
    seen: list[Pixels] = []

    def watching(frames: Iterator[Pixels]) -> Iterator[Pixels]:
        for pixels in frames:
            seen.append(pixels)
            yield pixels

    repaint(write("clip.mp4", [frame(3)], turned=turned), "out.mp4", watching)
    ((_, painted),) = read("out.mp4")
    upright = np.rot90(frame(3), quarters)
    assert painted.shape == seen[0].shape == upright.shape
    assert np.abs(painted.astype(int) - upright).mean() < 12


def test_pixels_keep_their_shape() -> None:
    repaint(write("clip.mp4", [frame(0)], shape=Fraction(4, 3)), "out.mp4")
    with av.open("out.mp4") as film:
        assert film.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_an_odd_row_and_column_are_cut() -> None:
    repaint(write("clip.mp4", [frame(0, (35, 27))]), "out.mp4")
    assert read("out.mp4")[0][1].shape == (26, 34, 3)


def test_paintings_may_be_of_another_size() -> None:
    repaint(write("clip.mp4", [frame(0)]), "out.mp4", lambda frames: (one[:20, :30] for one in frames))
    assert read("out.mp4")[0][1].shape == (20, 30, 3)


def test_a_painting_of_which_nothing_is_left_is_an_error() -> None:
    with pytest.raises(
        InvalidRequest, match="CLIP: 'clip.mp4' becomes 30 x 1; H.264 needs frames of at least 2 x 2 pixels"
    ):
        repaint(write("clip.mp4", [frame(0)]), "out.mp4", lambda frames: (one[:1, :30] for one in frames))
    assert not list(Path().glob("*out.mp4*"))


def test_what_is_no_film_is_refused() -> None:
    Path("text.mp4").write_text("not a film")
    whole = write("clip.mp4", [frame(number) for number in range(9)]).read_bytes()
    Path("half.mp4").write_bytes(whole[: len(whole) // 2])
    with av.open("sound.mp4", "w") as film:
        humming(film, film.add_stream("aac", rate=8000))
    for name, problem in {
        "text.mp4": "'text.mp4' is not a film",
        "half.mp4": "'half.mp4' is not a film",
        "sound.mp4": "'sound.mp4' has no video stream",
    }.items():
        with pytest.raises(InvalidRequest, match=f"CLIP: {problem}.*; pass "):
            repaint(Path(name), "out.mp4")
    assert not list(Path().glob("*out.mp4*"))


def test_what_fails_on_the_way_leaves_what_was_there() -> None:
    Path("out.mp4").write_text("painted yesterday")

    def failing(frames: Iterator[Pixels]) -> Iterator[Pixels]:
        yield next(frames)
        raise ServerUnavailable("gone")

    with pytest.raises(ServerUnavailable):
        repaint(write("clip.mp4", [frame(0), frame(1)], sound="aac"), "out.mp4", failing)
    assert Path("out.mp4").read_text() == "painted yesterday"
    assert not list(Path().glob(".*part"))


def test_a_clip_on_the_command_line() -> None:
    fake = FakeTransport()
    write("clip.mp4", [frame(number) for number in range(5)], sound="aac")
    result = impasto("stylize", "clip.mp4", "--style", "starry", "--smooth", "0.5", "--long-side", "32", fake=fake)
    assert result.exit_code == 0, result.output
    assert result.stdout == "clip-starry.mp4\n"
    assert [pixels.shape for _, pixels in read("clip-starry.mp4")] == [(24, 32, 3)] * 5
    assert sound_of("clip-starry.mp4") == sound_of("clip.mp4")
    assert {request["ADAPTER_NAMES"].item() for request in fake.requests} == {b"starry"}


def test_photos_and_clips_of_a_folder_whatever_fails() -> None:
    write("album/film.mov", [frame(0)])
    Path("album/other.mp4").write_text("not a film")
    Path("album/aa.png").write_bytes(b"no picture")
    result = impasto("stylize", "album", "--style", "starry", "--out", "painted")
    assert result.exit_code == 1
    painted = ["a-starry.png", "b-starry.JPG", "c-starry.webp", "film-starry.mp4"]
    assert sorted(path.name for path in Path("painted").iterdir()) == painted
    assert "error album/other.mp4: CLIP: 'album/other.mp4' is not a film" in words_of(result.stderr)
    assert "2 of 6 failed" in words_of(result.stderr)


def test_frames_that_flicker_are_smoothed_unless_one_says_so() -> None:
    class Flickering(FakeTransport):
        """Black and white in turn."""

        def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
            answer = dict(super().infer(tensors, timeout_s))
            file = io.BytesIO()
            Image.new("RGB", (64, 48), "white" if len(self.requests) % 2 else "black").save(file, "PNG")
            return {**answer, "IMAGE": np.array([file.getvalue()], dtype=np.object_)}

    write("clip.mp4", [frame(5)] * 8)

    def steps(*words: str) -> float:
        assert impasto("stylize", "clip.mp4", "--in-flight", "1", *words, fake=Flickering()).exit_code == 0
        means = [pixels.mean() for _, pixels in read("clip-painted.mp4")]
        return float(np.abs(np.diff(means)).max())

    assert steps() < 70
    assert steps("--smooth", "0") > 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("clip.mp4 --out out.avi", "'out.avi' does not end in .mp4, .m4v, .mov, .mkv"),
        ("clip.mp4 --out clip.mp4", "'clip.mp4' is a photo to paint"),
        ("clip.mp4 --format png", "is for photos, but there is none"),
        ("clip.mp4 --smooth 2", "'--smooth'"),
    ],
)
def test_wrong_usage_paints_nothing(words: str, message: str) -> None:
    write("clip.mp4", [frame(0)])
    fake, before = FakeTransport(), files()
    result = impasto("stylize", *words.split(), "--style", "starry", fake=fake)
    assert (result.exit_code, fake.requests, files()) == (2, [], before)
    assert message in words_of(result.output)


def test_without_pyav_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    write("clip.mp4", [frame(0)])
    monkeypatch.delitem(sys.modules, "impasto_client.video.clip", raising=False)
    monkeypatch.setitem(sys.modules, "av", None)
    result = impasto("stylize", "clip.mp4", "--style", "starry")
    assert result.exit_code == 1
    assert "a clip needs av, which is not installed; pip install 'impasto[video]'" in words_of(result.stderr)
