"""The registry of adapters as the gateway changes it: through the command `impasto adapters`, in a process of its own.

So a file of a stranger is opened by the importer that checks it, and by nothing else; what it does wrong ends there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from impasto_gateway.errors import RATE, SERVER, Refusal

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")  # the registry's own rule
IMPORT_S = 300.0
UPLOADS = 4  # at once; each holds a file on the disk
MAX_HEADER = 100 << 20  # of a safetensors file, by its format
MESSAGE_CHARACTERS = 4000
_IMPASTO = (sys.executable, "-c", "from impasto_client.cli import main; main()")
_UPLOAD = "impasto-upload-"
_WORKSPACE = re.compile(rf"\S*{_UPLOAD}\w+/")
_log = logging.getLogger(__name__)


def checked(name: str) -> str:
    """The name. Raises Refusal (400) for what is no adapter's name; so a name is never a path, or an option."""
    if not NAME.fullmatch(name):
        fix = "use up to 64 of a-z, 0-9, '.', '_', '-', first a letter or digit"
        raise Refusal(400, f"name: {name[:80]!r} is not an adapter's name; {fix}", "invalid_value", "name")
    return name


@dataclass
class Registry:
    """A folder or an object store's address, and how its adapters are changed. One command runs at a time."""

    place: str
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _uploading: set[str] = field(default_factory=set)

    async def check_new(self, name: str) -> None:
        """Raises Refusal (412) for a name that is taken."""
        try:
            await self._run("show", name)
        except Refusal as error:
            if error.status == 404:
                return
            if error.status >= 500:
                raise
        raise _taken(name)

    @contextmanager
    def uploading(self, name: str) -> Iterator[Path]:
        """A folder for the file that becomes `name`, while it arrives and is imported. Raises Refusal (409, 429)."""
        if name in self._uploading:
            problem = "another upload of this name is under way; wait for its end"
            raise Refusal(409, f"name: {name!r}: {problem}", "upload_under_way", "name", again=True, retry_after_s=2.0)
        if len(self._uploading) >= UPLOADS:
            problem = f"{UPLOADS} uploads are under way; wait for one to end"
            raise Refusal(429, f"adapters: {problem}", "uploads_full", None, RATE, again=True, retry_after_s=2.0)
        self._uploading.add(name)
        try:
            with TemporaryDirectory(prefix=_UPLOAD) as folder:
                yield Path(folder)
        finally:
            self._uploading.discard(name)

    async def put(
        self, name: str, file: Path, bundle: Path, said: Mapping[str, str], new: bool = False
    ) -> list[dict[str, Any]]:
        """Import the file for the bundle; returns what the command says of each adapter that it made: one, or of a file
        of many styles as many. `said` are more of the command's options.

        Raises Refusal: 400 for a file that can't be an adapter of this bundle, 409 where somebody else changes the name
        at the same time, with `new` 412 for one that is taken, 503 where the registry's store doesn't answer.
        """
        options = [f"--{key.replace('_', '-')}={value}" for key, value in said.items()] + ["--new"] * new
        text = await self._run("import", str(file), f"--bundle={bundle}", f"--name={name}", *options, "--json")
        found = json.loads(text)
        return found if isinstance(found, list) else [found]

    async def remove(self, name: str) -> None:
        """Delete the name. Raises Refusal (404)."""
        await self._run("rm", name)

    async def _run(self, command: str, *words: str) -> str:
        """What the command prints. Raises Refusal for what it refuses."""
        call = (*_IMPASTO, "adapters", command, *words, f"--registry={self.place}")
        async with self._turn, _running(call) as process:
            try:
                async with asyncio.timeout(IMPORT_S):
                    out, err = await process.communicate()
            except TimeoutError:
                problem = f"the import took more than {IMPORT_S:g} s and was given up; use a smaller file"
                raise Refusal(400, f"file: {problem}", "adapter_refused", "file") from None
        if process.returncode == 0:
            return out.decode()
        raise self._refusal(process.returncode, err.decode(errors="replace"))

    def _refusal(self, status: int | None, text: str) -> Refusal:
        said = text.strip().removeprefix("error: ").replace(self.place, "the registry")
        said = _WORKSPACE.sub("", said)  # where files lie here is nobody's business
        if status != 1 or "Traceback" in text:
            _log.error("impasto adapters ended with status %s: %s", status, text)
            return Refusal(
                500, "the registry's command failed; the gateway's log says why", "server_error", kind=SERVER
            )
        if "No space left" in text or "disk is full" in text:
            return Refusal(507, "the registry's disk is full; tell the operator", "disk_full", kind=SERVER)
        if "the store does not answer" in text or "the store refuses this" in text:
            _log.error("impasto adapters: %s", text.strip())
            problem = "the registry's store does not answer; try again later"
            return Refusal(503, problem, "registry_down", kind=SERVER, again=True, retry_after_s=5.0)
        if "another writer has pointed" in text:
            return Refusal(409, f"name: {said[:MESSAGE_CHARACTERS]}", "name_changed", "name")
        if "is taken; choose another name" in text:
            return _taken(said.partition("'")[2].partition("'")[0])
        if "can only be read" in text:
            problem = "the registry can only be read here; tell the operator"
            return Refusal(501, f"adapters: {problem}", "no_registry")
        if said.startswith("no adapter named"):
            return Refusal(404, f"name: {said[:MESSAGE_CHARACTERS]}", "adapter_not_found", "name")
        return Refusal(400, f"file: {said[:MESSAGE_CHARACTERS]}", "adapter_refused", "file")


def _taken(name: str) -> Refusal:
    problem = f"{name!r} is taken; choose another, or leave out if-none-match"
    return Refusal(412, f"name: {problem}", "invalid_value", "name")


@asynccontextmanager
async def _running(call: tuple[str, ...]) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command as a process, which doesn't outlive this block."""
    environment = {name: value for name, value in os.environ.items() if name != "IMPASTO_KEYS"}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *call, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def check_start(start: bytes) -> None:
    """Raises Refusal (400) unless a file that starts so may be safetensors: never hand the importer a pickle."""
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or not 0 < length <= MAX_HEADER or start[8:9] != b"{":
        fix = "send the file itself as the body, e.g. curl -T style.safetensors"
        raise Refusal(400, f"file: this is not a safetensors file; {fix}", "adapter_refused", "file")
