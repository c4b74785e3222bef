"""The client over a deployment handle: answers, streams, errors, callers who leave, replicas that are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError, TaskCancelledError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from impasto_client import AsyncClient, AsyncFakeTransport, FakeTransport, Generation, Progress, errors
from impasto_client.errors import (
    ConnectError,
    DeadlineExceeded,
    ImpastoError,
    InvalidRequest,
    ServerError,
    ServerFull,
    ServerLost,
)
from impasto_client.transport import AsyncTransport
from impasto_deploy.ray import transport as module
from impasto_deploy.ray.failure import Failure
from impasto_deploy.ray.request import Routed
from impasto_deploy.ray.transport import HandleTransport

DIED = ActorDiedError()
Answer = Callable[[AsyncTransport, Routed, Any, float | None], Awaitable[Any]]


class Response:
    """Ray's response to one call: awaited, or iterated."""

    def __init__(self, handle: FakeHandle, answer: Any) -> None:
        self._handle, self._answer = handle, answer

    def __await__(self) -> Generator[Any, None, Any]:
        awaited: Generator[Any, None, Any] = self._answer.__await__()
        return awaited

    async def __anext__(self) -> Any:
        return await anext(self._answer)

    def cancel(self) -> None:
        self._handle.cancelled += 1
        raise DIED  # as Ray does where the request has failed meanwhile


class FakeHandle:
    """A deployment over a fake server. `error` is raised by Ray; `failing` calls get `failure` as a value."""

    def __init__(
        self, *, error: BaseException | None = None, failure: ImpastoError | None = None, failing: int = 99
    ) -> None:
        self.server = AsyncFakeTransport(FakeTransport())
        self.error, self.failure, self.failing = error, failure, failing
        self.cancelled = 0
        self.calls: list[tuple[str, Routed, float | None]] = []
        self.hold = asyncio.Event()
        self.hold.set()

    def options(self, *, method_name: str, stream: bool = False) -> Any:
        return FakeMethod(self, method_name, stream)


class FakeMethod:
    def __init__(self, handle: FakeHandle, name: str, stream: bool) -> None:
        self._handle, self._name, self._stream = handle, name, stream

    def remote(self, routed: Routed, tensors: Any = None, timeout_s: float | None = None) -> Response:
        self._handle.calls.append((self._name, routed, timeout_s))
        return Response(self._handle, (self._parts if self._stream else self._answer)(tensors, timeout_s))

    async def _answer(self, tensors: Any, timeout_s: float | None) -> Any:
        await self._handle.hold.wait()
        if self._handle.error is not None:
            raise self._handle.error
        if self._handle.failure is not None and len(self._handle.calls) <= self._handle.failing:
            return False if self._name == "is_ready" else Failure.of(self._handle.failure, "replica-1")
        method = getattr(self._handle.server, self._name)
        return await (method() if self._name in ("is_ready", "catalogue") else method(tensors, timeout_s))

    async def _parts(self, tensors: Any, timeout_s: float | None) -> AsyncGenerator[Any, None]:
        if self._handle.failure is not None and len(self._handle.calls) <= self._handle.failing:
            yield Failure.of(self._handle.failure, "replica-1")
            return
        async for part in self._handle.server.stream(tensors, timeout_s):
            yield part
            await self._handle.hold.wait()
            if self._handle.error is not None:
                raise self._handle.error


def over(handle: FakeHandle) -> AsyncClient:
    return AsyncClient(transport=HandleTransport(handle), timeout=60)


def test_a_picture_is_the_servers() -> None:
    async def main() -> None:
        handle = FakeHandle()
        async with over(handle) as client:
            picture = await client.generate("a boat", seed=3, adapters={"neon": 1.0})
            assert await client.score(picture.image, text="a boat")
            assert (await client.catalogue()).bundles
            assert await client.is_ready()
        direct = await AsyncClient(transport=AsyncFakeTransport()).generate("a boat", seed=3, adapters={"neon": 1.0})
        assert picture == direct
        assert [name for name, _, _ in handle.calls] == ["infer", "score", "catalogue", "is_ready"]
        assert handle.calls[0][1].wanted.adapters == {"neon"}
        assert handle.calls[0][2] == 60
        assert not handle.cancelled

    asyncio.run(main())


def test_a_stream_has_all_its_steps() -> None:
    async def main() -> None:
        handle = FakeHandle()
        async with over(handle) as client:
            parts = [part async for part in client.stream("a boat", steps=3, preview_every=1)]
        assert [type(part) for part in parts] == [Progress, Progress, Progress, Generation]
        assert not handle.cancelled

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_the_servers_error_comes_as_it_was(stream: bool) -> None:
    async def main() -> None:
        async with over(FakeHandle(failure=InvalidRequest("STEPS: 0 is too few", "STEPS"))) as client:
            with pytest.raises(InvalidRequest, match="STEPS: 0 is too few") as caught:
                await asked(client, stream)
            assert caught.value.field == "STEPS"

    asyncio.run(main())


async def asked(client: AsyncClient, stream: bool) -> None:
    if not stream:
        await client.generate("a boat")
        return
    async for _ in client.stream("a boat", steps=3):
        pass


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("infer", "a traceback", cause)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (DIED, ServerLost, "the replica was lost before it answered; send the request again"),
        (ActorUnavailableError("gone\nand much more", None), ServerLost, "the replica was lost"),
        (TaskCancelledError(), ServerLost, "the replica was lost"),
        (asyncio.CancelledError(), ServerLost, "the replica stopped before it answered"),
        (task_error(DIED), ServerLost, "the replica was lost"),
        (task_error(KeyError("x")), ServerError, "the replica failed: 'x'"),
        (DeploymentUnavailableError(DeploymentID("replica")), ServerLost, "the replica was lost"),
        (BackPressureError(num_queued_requests=9, max_queued_requests=9), ServerFull, "all replicas have as many"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_ray_raises(error: BaseException, kind: type[ImpastoError], said: str, stream: bool) -> None:
    async def main() -> None:
        async with over(FakeHandle(error=error)) as client:
            with pytest.raises(kind, match=said) as caught:
                await asked(client, stream)
            assert "\n" not in str(caught.value)

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_whoever_leaves_cancels_the_work(stream: bool) -> None:
    async def main() -> None:
        handle = FakeHandle()
        handle.hold.clear()
        async with over(handle) as client:
            asking = asyncio.create_task(asked(client, stream))
            while not handle.calls:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert handle.cancelled == 1

    asyncio.run(main())


def test_a_stream_that_is_closed_between_steps_is_cancelled() -> None:
    async def main() -> None:
        handle = FakeHandle()
        async with over(handle) as client:
            parts = client.stream("a boat", steps=3)
            await anext(parts)
            await parts.aclose()
        assert handle.cancelled == 1

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_replicas_that_never_answer_are_given_up(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLACK_S", 0.0)

    async def main() -> None:
        handle = FakeHandle()
        handle.hold.clear()
        client = AsyncClient(transport=HandleTransport(handle), timeout=0.02)
        with pytest.raises(DeadlineExceeded, match="no answer from the replicas within 0.02 s"):
            await asked(client, stream)
        assert handle.cancelled == 1

    asyncio.run(main())


def test_a_replica_that_lost_its_server_is_avoided_for_a_while() -> None:
    async def main() -> None:
        now = 0.0
        handle = FakeHandle(failure=errors.ServerLost("the connection was lost"))
        client = AsyncClient(transport=HandleTransport(handle, now=lambda: now))
        for _ in range(2):
            with pytest.raises(ServerLost):
                await client.generate("a boat")
        now += module.AVOIDED_S + 1
        with pytest.raises(ServerLost):
            await client.generate("a boat")
        assert [routed.avoided for _, routed, _ in handle.calls] == [set(), {"replica-1"}, set()]

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failure", [ConnectError("nothing answers"), errors.ServerDeclined("stopping")])
def test_what_a_replica_has_not_begun_goes_to_another(failure: ImpastoError, stream: bool) -> None:
    async def main() -> None:
        handle = FakeHandle(failure=failure, failing=1)
        await asked(AsyncClient(transport=HandleTransport(handle)), stream)
        assert [routed.avoided for _, routed, _ in handle.calls] == [set(), {"replica-1"}]

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_where_none_takes_it_a_request_waits(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.001)

    async def main() -> None:
        handle = FakeHandle(failure=ConnectError("nothing answers"), failing=9)
        await asked(AsyncClient(transport=HandleTransport(handle)), stream)
        assert len(handle.calls) == 10

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_it_does_not_wait_for_ever(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.0)

    async def main() -> None:
        handle = FakeHandle(failure=ConnectError("nothing answers"))
        with pytest.raises(ConnectError, match="nothing answers"):
            await asked(AsyncClient(transport=HandleTransport(handle)), stream)
        assert len(handle.calls) == 2

    asyncio.run(main())


def test_a_full_replica_and_a_bad_request_are_not_avoided() -> None:
    async def main() -> None:
        handle = FakeHandle(failure=ServerFull("full; try again in 1 s", 1.0))
        client = AsyncClient(transport=HandleTransport(handle))
        with pytest.raises(ServerFull):
            await client.generate("a boat")
        handle.failure = InvalidRequest("STEPS: 0 is too few", "STEPS")
        for _ in range(2):
            with pytest.raises(InvalidRequest):
                await client.generate("a boat")
        assert not any(routed.avoided for _, routed, _ in handle.calls)

    asyncio.run(main())


@pytest.mark.parametrize("handle", [FakeHandle(error=DIED), FakeHandle(failure=ConnectError("x"))])
def test_lost_replicas_are_not_ready(handle: FakeHandle) -> None:
    async def main() -> None:
        assert not await over(handle).is_ready()

    asyncio.run(main())
