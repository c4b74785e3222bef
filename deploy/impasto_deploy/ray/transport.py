"""The client's transport over a Ray deployment handle: the gateway talks to replicas as to a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any, Protocol

from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from impasto_client.errors import DeadlineExceeded, ImpastoError, ServerError, ServerFull, ServerLost
from impasto_client.wire import Tensors
from impasto_deploy.ray.failure import Failure
from impasto_deploy.ray.request import Routed, wanted

AVOIDED_S = 3.0  # a replica that lost a request is avoided so long; by then it has said itself whether it is ready
SLACK_S = 2.0  # beyond a request's timeout, for the server's own answer that it has passed
WAIT_S, PAUSE_S = 60.0, 0.5  # how long a request waits where no replica takes it, and between two rounds
RETRY_S = 1.0  # when to come back to replicas that are all full

Outcome = dict[str, Any] | Failure


class Handle(Protocol):
    """What is used of Ray's DeploymentHandle."""

    def options(self, *, method_name: str, stream: bool = ...) -> Any:
        """A handle whose `remote` calls this method."""
        ...


class HandleTransport:
    """An AsyncTransport. What a replica declines goes to another one, or waits for one; for one that is lost it raises
    ServerLost, and the gateway asks again.
    """

    def __init__(self, handle: Handle, now: Callable[[], float] = time.monotonic) -> None:
        self._handle = handle
        self._now = now
        self._avoided: dict[str, float] = {}  # until when, by replica

    async def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """Raises errors of the ImpastoError tree."""
        return await self._ask("infer", tensors, timeout_s)

    async def score(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """Raises errors of the ImpastoError tree."""
        return await self._ask("score", tensors, timeout_s)

    async def catalogue(self, timeout_s: float | None = None) -> Tensors:
        """Raises errors of the ImpastoError tree."""
        return await self._ask("catalogue", {}, timeout_s)

    async def stream(self, tensors: Tensors, timeout_s: float | None = None) -> AsyncGenerator[Tensors, None]:
        """The request is sent when iteration begins. Raises errors of the ImpastoError tree."""
        end, tries = _end(timeout_s), Tries()
        while True:
            async with aclosing(self._streamed(tensors, timeout_s, end)) as outcomes:
                async for outcome in outcomes:
                    if await self._is_declined(outcome, tries):
                        break
                    yield self._answer(outcome)
                else:
                    return

    async def is_ready(self) -> bool:
        """Whether a replica has a server that is ready. It waits for ever where there is no replica."""
        with suppress(ImpastoError), _telling(None):
            method = self._handle.options(method_name="is_ready")
            with _cancelling(method.remote(self._routed({}))) as response:
                return bool(await response)
        return False

    async def close(self) -> None:
        """Nothing is open: the handle is Ray's."""

    async def _ask(self, method_name: str, tensors: Tensors, timeout_s: float | None) -> Tensors:
        end, tries = _end(timeout_s), Tries()
        while True:
            outcome = await self._outcome(method_name, tensors, timeout_s, end)
            if not await self._is_declined(outcome, tries):
                return self._answer(outcome)

    async def _outcome(self, method_name: str, tensors: Tensors, timeout_s: float | None, end: float | None) -> Outcome:
        method = self._handle.options(method_name=method_name)
        with _telling(timeout_s), _cancelling(method.remote(self._routed(tensors), dict(tensors), timeout_s)) as asked:
            async with asyncio.timeout_at(end):
                answered: Outcome = await asked
                return answered

    async def _streamed(
        self, tensors: Tensors, timeout_s: float | None, end: float | None
    ) -> AsyncGenerator[Outcome, None]:
        method = self._handle.options(method_name="stream", stream=True)
        with _telling(timeout_s):
            outcomes = method.remote(self._routed(tensors), dict(tensors), timeout_s)
        with _cancelling(outcomes):
            while True:
                with _telling(timeout_s):
                    try:
                        async with asyncio.timeout_at(end):  # not around the loop: callers may change the task
                            outcome = await anext(outcomes)
                    except StopAsyncIteration:
                        return
                yield outcome

    def _routed(self, tensors: Tensors) -> Routed:
        now = self._now()
        self._avoided = {replica: until for replica, until in self._avoided.items() if until > now}
        return Routed(wanted(tensors), frozenset(self._avoided))

    async def _is_declined(self, outcome: Outcome, tries: Tries) -> bool:
        """Whether a replica hasn't begun with the request, which should be sent again now."""
        if not isinstance(outcome, Failure):
            return False
        if outcome.is_loss:
            self._avoided[outcome.replica] = self._now() + AVOIDED_S
        return outcome.is_untouched and await tries.again(outcome.replica)

    def _answer(self, outcome: Outcome) -> Tensors:
        """The tensors. Raises the error that came in their place."""
        if isinstance(outcome, Failure):
            raise outcome.error()
        return outcome


class Tries:
    """The replicas that a request has tried: each once, then all again after a pause, since Ray mends the fleet."""

    def __init__(self) -> None:
        self._until = asyncio.get_running_loop().time() + WAIT_S
        self._passed: set[str] = set()

    async def again(self, declined: str) -> bool:
        """Whether to try again after this replica has declined; returns when it is time."""
        if declined in self._passed:  # there is no other
            if asyncio.get_running_loop().time() + PAUSE_S > self._until:
                return False
            await asyncio.sleep(PAUSE_S)
            self._passed.clear()
        self._passed.add(declined)
        return True


@contextmanager
def _cancelling(response: Any) -> Iterator[Any]:
    """The response; whoever leaves it early cancels the work behind it."""
    try:
        yield response
    except (asyncio.CancelledError, GeneratorExit, TimeoutError, DeadlineExceeded):
        with suppress(Exception):  # Ray raises what the request itself has failed with meanwhile
            response.cancel()
        raise


@contextmanager
def _telling(timeout_s: float | None) -> Iterator[None]:
    """Raise Ray's exceptions in this block as errors of the tree."""
    try:
        yield
    except TimeoutError:
        fix = "raise timeout, or ask for less"
        raise DeadlineExceeded(f"no answer from the replicas within {timeout_s} s; {fix}") from None
    except BackPressureError:
        message = f"all replicas have as many requests as they take; try again in {RETRY_S:g} s"
        raise ServerFull(message, RETRY_S) from None
    except RayTaskError as error:
        if isinstance(error.cause, ActorDiedError):
            raise _lost(error.cause) from None
        raise ServerError(f"the replica failed: {error.cause}") from error
    except (RayError, RayServeException) as error:
        raise _lost(error) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():  # the caller has left
            raise
        raise ServerLost("the replica stopped before it answered; send the request again") from None


def _lost(error: Exception) -> ServerLost:
    said = str(error).strip().partition("\n")[0]
    return ServerLost(f"the replica was lost before it answered; send the request again ({said})")


def _end(timeout_s: float | None) -> float | None:
    """When the event loop's clock says so, a request is given up here; the server's own limit comes before."""
    return None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s + SLACK_S
