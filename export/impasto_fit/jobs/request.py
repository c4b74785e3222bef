"""What a job is asked for: the recipe, its words and constants, and where its things lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from impasto_fit.budget import Budget
from impasto_fit.errors import JobError

FORMAT = 1
Constant = float | int | str


@dataclass(frozen=True)
class Request:
    """As job.json has it.

    `style` is what a text recipe is asked for, or what prompts call the style. `inputs` are names of files in the job's
    folder, by what they are for; `digests` are their sha256. `uses` are folders, files or hub ids elsewhere.
    `others` are contents to paint between rounds. `registry` is a folder or an address.
    """

    recipe: str
    steps: int
    minutes: float | None = None
    seed: int = 0
    name: str = ""
    bundle: str = ""
    registry: str = ""
    replace: bool = False
    style: str = ""
    contexts: tuple[str, ...] = ()
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    uses: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Constant] = field(default_factory=dict)
    rounds: int = 1
    others: tuple[str, ...] = ()
    made: str = ""

    @property
    def budget(self) -> Budget:
        """
        Raises:
            JobError: it is nothing.
        """
        try:
            return Budget(self.steps) if self.minutes is None else Budget(self.steps, self.minutes)
        except ValueError as error:
            raise JobError(str(error)) from None

    def dump(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Request:
        """
        Raises:
            JobError: it isn't what `dump` writes.
        """
        try:
            found: dict[str, Any] = json.loads(data)
            if found.pop("format") != FORMAT or not found.keys() <= {one.name for one in fields(cls)}:
                raise ValueError("format")
            found["inputs"] = {role: tuple(map(str, names)) for role, names in found["inputs"].items()}
            for rows in ("contexts", "others"):
                found[rows] = tuple(map(str, found[rows]))
            return cls(**found)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise JobError("job.json: can't be read as a job of this version; ask for it anew") from None
