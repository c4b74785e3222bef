"""A transport that runs the server's pipeline in this process, without a server; it needs impasto[server]."""

from __future__ import annotations

from collections.abc import Generator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from impasto_client.errors import ImpastoError, ServerError
from impasto_client.status import refusal
from impasto_client.wire import Tensors

GROUP = "impasto.local"


class InProcess(Protocol):
    """The protocol of what the entry point `stylize` of group `impasto.local` returns for a bundle's path."""

    def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """Input tensors to output tensors; its own errors have a `code`, the gRPC status that they mean."""
        ...

    def stream(self, tensors: Tensors, timeout_s: float | None = None) -> Generator[Tensors, None, None]:
        """Input tensors to the tensors of each response; closing the generator cancels. Errors as for `infer`."""
        ...

    def score(self, tensors: Tensors) -> Tensors:
        """Input tensors of model `clip_score` to its output tensors. Errors as for `infer`."""
        ...

    def catalogue(self) -> Tensors:
        """Output tensors of model `catalogue`. Errors as for `infer`."""
        ...

    def close(self) -> None:
        """Finish the accepted requests."""
        ...


class LocalTransport:
    """Paints with the bundle in the folder `bundle`. Raises ServerError when it can't be opened here."""

    def __init__(self, bundle: Path) -> None:
        found = list(entry_points(group=GROUP, name="stylize"))
        if not found:
            raise ServerError("painting in this process needs the server package; pip install 'impasto[server]'")
        try:
            self._model: InProcess = found[0].load()(bundle)
        except Exception as error:
            raise _translate(error) from error

    def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """Raises errors of the ImpastoError tree."""
        try:
            return self._model.infer(tensors, timeout_s)
        except Exception as error:
            raise _translate(error) from error

    def stream(self, tensors: Tensors, timeout_s: float | None = None) -> Generator[Tensors, None, None]:
        """Raises errors of the ImpastoError tree."""
        try:
            yield from self._model.stream(tensors, timeout_s)
        except Exception as error:
            raise _translate(error) from error

    def score(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """The timeout is ignored: nobody else waits for this. Raises errors of the ImpastoError tree."""
        try:
            return self._model.score(tensors)
        except Exception as error:
            raise _translate(error) from error

    def catalogue(self, timeout_s: float | None = None) -> Tensors:
        """Raises errors of the ImpastoError tree."""
        try:
            return self._model.catalogue()
        except Exception as error:
            raise _translate(error) from error

    def is_ready(self) -> bool:
        """Always: it is loaded."""
        return True

    def close(self) -> None:
        """Finish the accepted requests, and free the pipeline's threads."""
        self._model.close()


def _translate(error: Exception) -> ImpastoError:
    if isinstance(error, ModuleNotFoundError):
        return ServerError(f"painting in this process needs {error.name}; pip install 'impasto[server]'")
    code = getattr(error, "code", None)
    return refusal(code, str(error)) if isinstance(code, str) else ServerError(f"{type(error).__name__}: {error}")
