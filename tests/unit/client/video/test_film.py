"""Frames in, paintings out: in order, as they came, smoothed or not, for both clients."""

from __future__ import annotations

import asyncio
import io
import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from impasto_client import (
    AsyncClient,
    AsyncFakeTransport,
    Client,
    FakeTransport,
    InvalidRequest,
    MissingExtra,
    ServerFull,
    ServerUnavailable,
)
from impasto_client.wire import Tensors

Pixels = NDArray[np.uint8]


def frames(count: int, size: tuple[int, int] = (32, 24)) -> list[Pixels]:
    """RGB, each brighter than the one before."""
    width, height = size
    return [np.full((height, width, 3), 20 * number, np.uint8) for number in range(count)]


class Inverting(FakeTransport):
    """Paints negatives, which a test can compute."""

    def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        answer = dict(super().infer(tensors, timeout_s))
        photo = np.asarray(Image.open(io.BytesIO(tensors["IMAGE"].item())))
        file = io.BytesIO()
        Image.fromarray(255 - photo).save(file, "PNG")
        return {**answer, "IMAGE": np.array([file.getvalue()], dtype=np.object_)}


def test_paintings_come_in_the_order_of_their_frames() -> None:
    client = Client(transport=Inverting())
    found = list(client.stylize_frames(frames(9), "starry", smooth=0, in_flight=3))
    assert [int(one[0, 0, 0]) for one in found] == [255 - 20 * number for number in range(9)]


def test_an_array_comes_back_as_an_array_and_an_image_as_an_image() -> None:
    client = Client(transport=Inverting())
    (array,) = client.stylize_frames(frames(1), "starry")
    (image,) = client.stylize_frames([Image.new("RGB", (32, 24), (255, 0, 0))], "starry")
    assert (str(array.dtype), array.shape) == ("uint8", (24, 32, 3))
    assert (image.size, image.getpixel((0, 0))) == ((32, 24), (0, 255, 255))


def test_each_frame_is_asked_for_with_all_that_was_said() -> None:
    fake = FakeTransport()
    style = {"starry": 0.5, "wave": 0.5}
    list(Client(transport=fake).stylize_frames(frames(2), style, smooth=0, timeout=7, strength=0.5))
    assert fake.timeouts == [7, 7]
    for request in fake.requests:
        assert {name: tensor.tolist() for name, tensor in request.items() if name != "IMAGE"} == {
            "ADAPTER_NAMES": [b"starry", b"wave"],
            "ADAPTER_WEIGHTS": [0.5, 0.5],
            "STRENGTH": [0.5],
        }


def test_frames_are_taken_as_there_is_room() -> None:
    taken = 0

    def endless() -> Iterator[Pixels]:
        nonlocal taken
        while True:
            taken += 1
            yield frames(1)[0]

    film = Client(transport=FakeTransport()).stylize_frames(endless(), "starry", smooth=0, in_flight=3)
    for number in range(1, 6):
        next(film)
        assert taken <= number + 2
    film.close()


def test_smoothing_keeps_strokes_where_the_content_goes_on() -> None:
    content = np.asarray(Image.effect_noise((96, 64), 60).convert("RGB"))

    class Flickering(FakeTransport):
        """Black and white in turn, whatever is to be painted."""

        def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
            answer = dict(super().infer(tensors, timeout_s))
            file = io.BytesIO()
            Image.new("RGB", (96, 64), "white" if len(self.requests) % 2 else "black").save(file, "PNG")
            return {**answer, "IMAGE": np.array([file.getvalue()], dtype=np.object_)}

    def steps(smooth: float) -> list[float]:
        client = Client(transport=Flickering())
        found = [one.mean() for one in client.stylize_frames([content] * 8, smooth=smooth, in_flight=1)]
        return [abs(one - other) for one, other in itertools.pairwise(found)]

    assert steps(0) == [255] * 7
    assert max(steps(0.8)) < 0.25 * 255


def test_the_async_client_does_the_same() -> None:
    async def numbered() -> AsyncIterator[Pixels]:
        for frame in frames(5):
            yield frame

    async def painted(source: Any) -> list[Pixels]:
        async with AsyncClient(transport=AsyncFakeTransport(Inverting())) as client:
            return [one async for one in client.stylize_frames(source, "starry", in_flight=2)]

    same = list(Client(transport=Inverting()).stylize_frames(frames(5), "starry", in_flight=2))
    for found in (asyncio.run(painted(numbered())), asyncio.run(painted(frames(5)))):
        assert [one.tolist() for one in found] == [one.tolist() for one in same]


class Busy(FakeTransport):
    """Full every other time."""

    def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        answer = super().infer(tensors, timeout_s)
        if len(self.requests) % 2:
            raise ServerFull("no room; try again in 0.01 s", 0.01)
        return answer


def test_a_full_server_is_asked_again() -> None:
    fake = Busy()
    assert len(list(Client(transport=fake).stylize_frames(frames(4), "starry", smooth=0, in_flight=1))) == 4
    assert len(fake.requests) == 8


def test_a_full_server_is_asked_again_by_the_async_client() -> None:
    async def count(fake: FakeTransport) -> int:
        client = AsyncClient(transport=AsyncFakeTransport(fake))
        return len([one async for one in client.stylize_frames(frames(4), "starry", smooth=0, in_flight=1)])

    assert asyncio.run(count(Busy())) == 4


def test_patience_ends_with_the_timeout() -> None:
    fake = FakeTransport(error=ServerFull("no room; try again in 9 s", 9))
    with pytest.raises(ServerFull):
        list(Client(transport=fake, timeout=0.5).stylize_frames(frames(1), "starry"))


def test_an_error_ends_the_film() -> None:
    fake = FakeTransport(error=ServerUnavailable("gone"))
    with pytest.raises(ServerUnavailable, match="gone"):
        list(Client(transport=fake).stylize_frames(frames(9), "starry", in_flight=2))
    assert len(fake.requests) <= 2


@pytest.mark.parametrize(
    ("film", "words", "message"),
    [
        (frames(1), {"smooth": 1.5}, "SMOOTH: 1.5 is out of range; pass 0"),
        (frames(1), {"smooth": float("nan")}, "SMOOTH: nan is out of range"),
        (frames(1), {"smooth": "much"}, "SMOOTH: 'much' is out of range"),
        (frames(1), {"in_flight": 0}, "IN_FLIGHT: 0 is not a number of frames"),
        (frames(1), {"in_flight": True}, "IN_FLIGHT: True is not a number of frames"),
        ([b"a file"], {}, "IMAGE: a value of type bytes is not a frame; pass PIL images"),
        ([np.zeros((4, 4), np.uint8)], {}, r"IMAGE: an array uint8 \[4, 4\] is not a frame"),
        ([np.zeros((4, 4, 3))], {}, r"IMAGE: an array float64 \[4, 4, 3\] is not a frame"),
        (
            [*frames(1), *frames(1, (16, 24))],
            {},
            "IMAGE: got a frame of 16 x 24 after one of 32 x 24; pass frames of one",
        ),
        (frames(1), {"mask": 7}, "MASKS: a value of type int is not a picture"),
    ],
)
def test_what_is_no_film_is_refused(film: Any, words: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        list(Client(transport=FakeTransport()).stylize_frames(film, "starry", **words))


def test_without_opencv_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTransport()
    client = Client(transport=fake)
    for module in ("flow", "smoothing"):
        monkeypatch.delitem(sys.modules, f"impasto_client.video.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtra, match=r"smoothing needs cv2, .*pip install 'impasto\[video\]', or pass smooth=0"):
        list(client.stylize_frames(frames(2), "starry"))
    assert not fake.requests
    assert len(list(client.stylize_frames(frames(2), "starry", smooth=0))) == 2
